//! `kube-apiserver`: the API server alone.

use anyhow::Context as _;
use apiserver::Server;
use apiserver::command::Arguments;
use tokio::signal::unix::{SignalKind, signal};

/// The road of a write allocates a thousand small values; glibc's allocator took half of its time. And after much work
/// few pages stay in use for what little is left (docs/performance.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::of_process();
    arguments.log.begin();
    arguments.unheeded.warn();
    let server = Server::start(arguments.config()?).await.context("failed to start")?;
    if let Some(path) = &arguments.write_kubeconfig {
        let text = server.kubeconfig("system:admin")?;
        write_private(path, &text)
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
    }
    server.shutdown().await;
    Ok(())
}

/// Writes a file that only its owner may read, since it holds a private key. Who finds it finds all of it.
fn write_private(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(new, path)
}
