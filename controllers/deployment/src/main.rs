//! The Deployment player as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    kit::main(&deployment_controller::PLAYER)
}
