//! A client of the API server whose certificate changes while it is used.

use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::client::Body;
use kube::{Client, Config};

use super::Pair;

/// A client for the cluster of `config` with the certificate of `pair`.
///
/// # Errors
/// The certificate or the cluster's authority cannot be used.
pub fn connect(config: &Config, pair: &Pair) -> kube::Result<Client> {
    let mut config = config.clone();
    config.auth_info.client_certificate_data = Some(STANDARD.encode(&pair.certificate));
    config.auth_info.client_key_data = Some(STANDARD.encode(&pair.key).into());
    Client::try_from(config)
}

/// Clients that show the newest certificate: each request goes out on connections that were made with it.
///
/// What runs on older connections, such as watches, ends there.
#[derive(Clone)]
pub struct Renewing {
    config: Arc<Config>,
    current: Arc<ArcSwap<Client>>,
}

impl Renewing {
    /// Begins with the certificate of `pair`.
    ///
    /// # Errors
    /// As [`connect`].
    pub fn new(config: Config, pair: &Pair) -> kube::Result<Self> {
        let current = connect(&config, pair)?;
        Ok(Self { config: Arc::new(config), current: Arc::new(ArcSwap::from_pointee(current)) })
    }

    /// A client that always uses the newest certificate.
    pub fn client(&self) -> Client {
        let current = self.current.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let client = current.load_full();
            async move { client.send(request).await }
        });
        Client::new(service, self.config.default_namespace.clone())
    }

    /// Uses the certificate of `pair` from now on.
    ///
    /// # Errors
    /// As [`connect`]; then the one before is used further.
    pub fn renew(&self, pair: &Pair) -> kube::Result<()> {
        self.current.store(Arc::new(connect(&self.config, pair)?));
        Ok(())
    }
}
