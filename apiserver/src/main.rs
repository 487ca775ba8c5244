//! `kube-apiserver`: the API server alone.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use apiserver::flags::Flags;
use apiserver::{Config, Server};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The Kubernetes API server of Improv.
#[derive(Parser)]
#[command(name = "kube-apiserver", version)]
struct Args {
    /// Folder of the store and the certificates; without it everything is in memory.
    #[arg(long, env = "KUBE_APISERVER_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:6443")]
    bind: SocketAddr,
    /// Range of the ClusterIPs.
    #[arg(long, default_value = "10.96.0.0/16")]
    service_cluster_ip_range: String,
    /// Folder of CustomResourceDefinitions to install at start.
    #[arg(long)]
    crds: Option<PathBuf>,
    /// Where to write a kubeconfig of the administrator.
    #[arg(long)]
    write_kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

impl Args {
    fn config(&self) -> anyhow::Result<Config> {
        let mut crds = Vec::new();
        if let Some(folder) = &self.crds {
            let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
                .with_context(|| format!("failed to read {}", folder.display()))?
                .map(|entry| entry.map(|e| e.path()))
                .collect::<Result<_, _>>()?;
            files.sort();
            for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "yaml")) {
                crds.push(
                    std::fs::read_to_string(file)
                        .with_context(|| format!("failed to read {}", file.display()))?,
                );
            }
        }
        let mut config = Config {
            data_dir: self.data_dir.clone(),
            bind: Some(self.bind),
            service_cidr: self.service_cluster_ip_range.clone(),
            crds,
            ..Config::default()
        };
        self.flags.apply(&mut config);
        Ok(config)
    }
}

/// The road of a write allocates a thousand small values; glibc's allocator took half of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args = Args::parse();
    tokio::spawn(apiserver::memory::give_back());
    let server = Server::start(args.config()?).await.context("failed to start")?;
    if let Some(path) = &args.write_kubeconfig {
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

/// Writes a file that only its owner may read, since it holds a private key.
fn write_private(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        <super::Args as clap::CommandFactory>::command().debug_assert();
    }
}
