//! The ReplicaSet player as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    kit::main(&replicaset_controller::PLAYER)
}
