//! bootstrap-token-controller alone; see the library.

fn main() -> std::process::ExitCode {
    kit::main(&bootstrap_token_controller::PLAYER)
}
