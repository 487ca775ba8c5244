//! kube-proxy as a process of its own.

fn main() -> std::process::ExitCode {
    kit::main(&kube_proxy::PLAYER)
}
