//! The server: started from a [`Config`], asked through its router, stopped gracefully.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::Config;
use crate::registry::Registry;

/// What all handlers share.
pub struct Core {
    /// As it was started.
    pub config: Config,
    registry: ArcSwap<Registry>,
}

impl Core {
    /// What is served now. Keep the result for the length of one request.
    pub fn registry(&self) -> Arc<Registry> {
        self.registry.load_full()
    }
}

/// A running server; dropping it leaves the listener running, [`Server::shutdown`] stops it.
#[derive(Clone)]
pub struct Server {
    core: Arc<Core>,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store file is locked, corrupt or not writable.
    #[error("failed to open the store")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The address cannot be listened on.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Usually: in use.
        source: std::io::Error,
    },
    /// Certificates cannot be made or read.
    #[error("failed to prepare certificates: {0}")]
    Certificates(String),
    /// An object of the first start was refused.
    #[error("failed to create {what}: {error}")]
    Bootstrap {
        /// Which.
        what: String,
        /// Why.
        error: crate::ApiError,
    },
}

impl Server {
    /// Opens the store, makes certificates and bootstrap objects, and begins to serve.
    ///
    /// # Errors
    /// [`StartError`] names what cannot be had.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let core = Core { config, registry: ArcSwap::from_pointee(Registry::hosted()) };
        Ok(Self { core: Arc::new(core) })
    }

    /// What handlers share.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }
}
