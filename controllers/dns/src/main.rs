//! kube-dns as a process of its own.

fn main() -> std::process::ExitCode {
    kit::main(&kube_dns::PLAYER)
}
