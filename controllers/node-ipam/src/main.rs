//! node-ipam-controller alone; see the library.

fn main() -> std::process::ExitCode {
    kit::main(&node_ipam_controller::PLAYER)
}
