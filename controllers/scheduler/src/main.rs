//! kube-scheduler alone; see the library.

fn main() -> std::process::ExitCode {
    kit::main(&kube_scheduler::PLAYER)
}
