//! endpointslice-controller alone; see the library.

fn main() -> std::process::ExitCode {
    kit::main(&endpointslice_controller::PLAYER)
}
