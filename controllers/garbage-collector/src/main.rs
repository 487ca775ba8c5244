//! garbage-collector-controller alone; see the library.

fn main() -> std::process::ExitCode {
    kit::main(&garbage_collector_controller::PLAYER)
}
