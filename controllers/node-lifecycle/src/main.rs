//! node-lifecycle-controller alone; see the library.

fn main() -> std::process::ExitCode {
    kit::main(&node_lifecycle_controller::PLAYER)
}
