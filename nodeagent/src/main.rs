//! The node agent's program, which is also the containers' logger.

use std::process::ExitCode;

fn main() -> ExitCode {
    nodeagent::logger::maybe_run(); // Before anything else exists.
    eprintln!("kubelet: this build has the container side only; start a node with `improv up`");
    ExitCode::FAILURE
}
