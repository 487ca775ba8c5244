//! serviceaccount-controller alone; see the library.

fn main() -> std::process::ExitCode {
    kit::main(&serviceaccount_controller::PLAYER)
}
