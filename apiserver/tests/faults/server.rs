//! The server as a process, and clients that are patient with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kit::testing::eventually;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use store::testing::{Relay, free_port};

/// How long a server may take to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A `kube-apiserver` that can be killed and started again, and whose clients' connections can be cut.
pub(crate) struct ServerProcess {
    dir: PathBuf,
    port: u16,
    more: Vec<String>,
    process: Option<Child>,
    pub(crate) relay: Relay,
}

impl ServerProcess {
    pub(crate) fn new(dir: &Path, more: Vec<String>) -> Self {
        let port = free_port().unwrap();
        let relay = Relay::start(port).unwrap();
        Self { dir: dir.into(), port, more, process: None, relay }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    pub(crate) fn start(&mut self) {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_kube-apiserver")]);
        command.arg(format!("--data-dir={}", self.dir.display()));
        command.arg("--bind-address=127.0.0.1").arg(format!("--secure-port={}", self.port));
        command.arg(format!("--write-kubeconfig={}", self.kubeconfig().display()));
        command.args(&self.more).env("RUST_LOG", "error").stdin(Stdio::null());
        self.process = Some(command.spawn().unwrap());
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    pub(crate) async fn client(&self) -> Client {
        let path = self.kubeconfig();
        eventually(PATIENCE, async || path.exists().then_some(()).ok_or("no kubeconfig")).await;
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).unwrap();
        let options = KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        config.cluster_url = format!("https://127.0.0.1:{}", self.relay.port()).parse().unwrap();
        config.connect_timeout = Some(Duration::from_secs(1));
        config.read_timeout = Some(Duration::from_secs(15));
        Client::try_from(config).unwrap()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
