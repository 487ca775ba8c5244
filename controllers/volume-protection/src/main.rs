//! The volume protection player as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    kit::main(&volume_protection_controller::PLAYER)
}
