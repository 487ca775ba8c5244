//! The node's certificates: asked for at the cluster, kept in a file, renewed in time, used without a restart.
//!
//! Source: kubernetes.io, "TLS bootstrapping" and "Configure Certificate Rotation for the Kubelet".

pub mod bootstrap;
mod client;
pub mod kubeconfig;
pub mod plan;
mod request;
mod store;

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

pub use client::{Renewing, connect};
pub use request::{Error, Request, Signer, obtain};
pub use store::{FileError, Store};

use plan::Validity;

/// Longest sleep before the clock on the wall is looked at again: a machine may have slept meanwhile.
const LOOK: Duration = Duration::from_secs(60);

/// A certificate with its key, both as PEM text.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Pair {
    /// The node that the certificate is of; `None` if it is of something else.
    pub fn node(&self) -> Option<String> {
        let der = CertificateDer::from_pem_slice(self.certificate.as_bytes()).ok()?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
        let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
        name.strip_prefix("system:node:").map(str::to_owned)
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Asks for a certificate as often as the one at hand nears its end (at once if there is none), keeps it in
/// `store`, and hands it to `used`. Never returns.
pub async fn rotate(
    client: Client,
    wanted: Request,
    store: Store,
    mut validity: Option<Validity>,
    used: impl Fn(&Pair),
) {
    let (mut chance, mut n_failures) = (rand::random(), 0);
    loop {
        let wait = plan::wait(validity, chance, n_failures, Timestamp::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait.min(LOOK)).await;
        }
        if wait > LOOK {
            continue;
        }
        match obtain(&client, &wanted).await {
            Ok(pair) => {
                if let Err(error) = store.write(&pair) {
                    tracing::warn!(error = kit::chain(&error), "certificate is used, but not kept");
                }
                used(&pair);
                validity = Validity::read(&pair.certificate);
                (chance, n_failures) = (rand::random(), 0);
                let until = validity.map(|v| v.until.to_string());
                tracing::info!(signer = wanted.signer.name(), until, "certificate renewed");
            }
            Err(error) => {
                n_failures += 1;
                let until = validity.map(|v| v.until.to_string());
                let error = kit::chain(&error);
                tracing::warn!(
                    signer = wanted.signer.name(),
                    until,
                    error,
                    "certificate not renewed"
                );
            }
        }
    }
}
