//! What a server is started with. Flags of the binary and fields of the test server end here.

mod service_ranges;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::enablement::runtime;
use crate::handlers::proxy;
use crate::{admission, audit, fairness, identity, server};

pub(crate) use service_ranges::family;
pub use service_ranges::{ServiceRanges, ServiceRangesError};

/// Everything that a [`crate::Server`] needs to know before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the store file and the certificates live; `None` keeps everything in memory.
    pub data_dir: Option<PathBuf>,
    /// Address of the TLS listener; `None` opens no socket (in-process clients only).
    pub bind: Option<SocketAddr>,
    /// Address that others reach the server at, in kubeconfigs and in the `kubernetes` Endpoints.
    /// `None` takes the bound address, or the host's first address if that one is unspecified.
    pub advertise: Option<SocketAddr>,
    /// Ranges of the ClusterIPs.
    pub service_ranges: ServiceRanges,
    /// Node ports, both ends included.
    pub node_ports: (u16, u16),
    /// Whether containers may be privileged.
    pub allow_privileged: bool,
    /// `iss` of service-account tokens.
    pub issuer: String,
    /// Who may come in, who decides what they may, and how the server shows itself.
    pub identity: identity::options::Options,
    /// More names and addresses for the serving certificate.
    pub extra_names: Vec<String>,
    /// CustomResourceDefinitions in YAML (one or many documents a text) or JSON, installed at start.
    pub crds: Vec<String>,
    /// Where objects are kept, if not in the data folder, and what is encrypted.
    pub storage: crate::storage::Options,
    /// Largest request body, in bytes.
    ///
    /// Source: `MaxRequestBodyBytes` in upstream `apiserver/pkg/server/config.go`.
    pub max_body_bytes: usize,
    /// Which admission plugins run, and how.
    pub admission: admission::Options,
    /// What is recorded of requests.
    pub audit: audit::Options,
    /// Where requests may be passed on to.
    pub proxy: proxy::address::Options,
    /// Limits of requests as a whole.
    pub fairness: fairness::Options,
    /// How connections begin, go on and end.
    pub connections: server::options::Options,
    /// Which versions and resources are served, where not all are.
    pub runtime: Vec<runtime::Entry>,
    /// Flags of the process and their values, for `/flagz`; `None` shows nothing.
    pub shown_flags: Option<BTreeMap<String, String>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: None,
            bind: None,
            advertise: None,
            service_ranges: ServiceRanges::default(),
            node_ports: (30000, 32767),
            allow_privileged: true,
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            identity: identity::options::Options::default(),
            extra_names: Vec::new(),
            crds: Vec::new(),
            storage: crate::storage::Options::default(),
            max_body_bytes: 3 * 1024 * 1024,
            admission: admission::Options::default(),
            audit: audit::Options::default(),
            proxy: proxy::address::Options::default(),
            fairness: fairness::Options::default(),
            connections: server::options::Options::default(),
            runtime: Vec::new(),
            shown_flags: None,
        }
    }
}
