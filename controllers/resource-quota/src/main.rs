//! The ResourceQuota player as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    kit::main(&resource_quota_controller::PLAYER)
}
