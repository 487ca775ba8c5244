//! The program: flags, logs, client, election, health and metrics come from the kit.

use std::process::ExitCode;

fn main() -> ExitCode {
    kit::main(&hello_reconciler::PLAYER)
}
