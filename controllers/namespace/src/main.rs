//! namespace-controller alone; see the library.

fn main() -> std::process::ExitCode {
    kit::main(&namespace_controller::PLAYER)
}
