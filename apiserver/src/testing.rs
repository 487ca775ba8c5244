//! A real server for tests: in this process, on the memory store, ready in milliseconds.
//!
//! ```
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use apiserver::testing::TestServer;
//! use k8s_openapi::api::core::v1::ConfigMap;
//! use kube::api::{Api, PostParams};
//!
//! let server = TestServer::start().await?;
//! let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
//! let map = ConfigMap { metadata: kube::core::ObjectMeta { name: Some("a".into()), ..Default::default() }, ..Default::default() };
//! maps.create(&PostParams::default(), &map).await?;
//! assert_eq!(maps.list(&Default::default()).await?.items.len(), 1);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::admission;
use crate::config::Config;
use crate::identity::pki;
use crate::server::{Server, StartError};

/// A server of one's own; it ends when it is dropped.
pub struct TestServer {
    server: Server,
}

/// What a test server starts with.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    config: Config,
}

impl Builder {
    /// Also listens on a free port of the loopback interface, with TLS, for clients that need one
    /// ([`Server::url`], [`Server::kubeconfig`]).
    #[must_use]
    pub fn with_socket(mut self) -> Self {
        self.config.bind = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        self
    }

    /// Chooses admission plugins, as the flags do.
    #[must_use]
    pub fn with_admission(mut self, options: admission::Options) -> Self {
        self.config.admission = options;
        self
    }

    /// Installs the CustomResourceDefinitions of a YAML text before the server is handed out.
    #[must_use]
    pub fn install_crds(mut self, yaml: impl Into<String>) -> Self {
        self.config.crds.push(yaml.into());
        self
    }

    /// Installs every `*.yaml` file of a folder, such as this project's `crds/`.
    ///
    /// # Errors
    /// The folder or a file cannot be read.
    pub fn install_crds_from(
        mut self,
        folder: impl AsRef<std::path::Path>,
    ) -> std::io::Result<Self> {
        let mut files: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
        files.sort_by_key(std::fs::DirEntry::file_name);
        for file in files.iter().map(std::fs::DirEntry::path) {
            if file.extension().is_some_and(|e| e == "yaml") {
                self.config.crds.push(std::fs::read_to_string(file)?);
            }
        }
        Ok(self)
    }

    /// Changes the configuration before the server starts, where a test is about a setting.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Starts the server.
    ///
    /// # Errors
    /// [`StartError`] names what cannot be had.
    pub async fn start(self) -> Result<TestServer, StartError> {
        Ok(TestServer { server: Server::start(self.config).await? })
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.server.core().stop().cancel();
    }
}

impl TestServer {
    /// Starts with the hosted types alone.
    ///
    /// # Errors
    /// [`StartError`] names what cannot be had.
    pub async fn start() -> Result<Self, StartError> {
        Self::builder().start().await
    }

    /// Options of a server that is not started yet.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The server itself.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// A client that may do everything.
    pub fn client(&self) -> kube::Client {
        self.server.client("system:admin", &["system:masters"])
    }

    /// A client with only the rights of `user`.
    pub fn client_as(&self, user: &str, groups: &[&str]) -> kube::Client {
        self.server.client(user, groups)
    }

    /// A TLS connection to the socket with a user's certificate, for what no client library sends.
    ///
    /// # Errors
    /// The server has no socket, or the handshake failed.
    pub async fn dial(
        &self,
        user: &str,
        groups: &[&str],
        protocol: &str,
    ) -> anyhow::Result<TlsStream<TcpStream>> {
        let core = self.server.core();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(core.pki.ca_der().clone())?;
        let (chain, key) = pki::to_der(&core.pki.client_cert(user, groups)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let address = core.address().context("the server has no socket")?;
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("kubernetes")?;
        Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
    }

    /// Installs the CustomResourceDefinitions of a YAML text; they are served when this returns.
    ///
    /// # Errors
    /// [`StartError::Bootstrap`] names the one that was refused.
    pub async fn install_crds(&self, yaml: &str) -> Result<(), StartError> {
        self.server.install_crds(&[yaml.to_owned()]).await
    }
}
