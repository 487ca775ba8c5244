//! certificate-controller alone; see the library.

fn main() -> std::process::ExitCode {
    kit::main(&certificate_controller::PLAYER)
}
