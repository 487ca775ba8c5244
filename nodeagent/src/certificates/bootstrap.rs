//! How a node becomes one: its first certificate, asked for with credentials that are good for no more than that.
//!
//! Source: kubernetes.io, "TLS bootstrapping"; upstream `pkg/kubelet/certificate/bootstrap`.

use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;
use kube::{Client, Config};

use super::kubeconfig::{self, Unusable};
use super::plan::Validity;
use super::{FileError, Pair, Renewing, Request, Signer, Store, obtain, rotate};

/// Where a node finds what makes it one.
#[derive(Clone, Debug)]
pub struct Files {
    /// The node's kubeconfig; written if there is none, or its certificate is over.
    pub kubeconfig: PathBuf,
    /// The kubeconfig that may ask for a certificate.
    pub bootstrap: Option<PathBuf>,
    /// Where the certificate is kept.
    pub store: Store,
}

/// What a node needs to talk to its cluster.
#[derive(Debug)]
pub struct Identity {
    /// The cluster, without a user.
    pub cluster: Config,
    /// Certificate and key.
    pub pair: Pair,
}

/// Why a node gets no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kubeconfig cannot be used.
    #[error(transparent)]
    Kubeconfig(#[from] Unusable),
    /// There is no valid certificate, and nothing to ask with.
    #[error("{} holds no certificate of node {node} that is valid now; give --bootstrap-kubeconfig", path.display())]
    NoCertificate {
        /// The node's kubeconfig.
        path: PathBuf,
        /// Name of the Node.
        node: String,
    },
    /// The client cannot be made.
    #[error("failed to make a client of {}", path.display())]
    Client {
        /// The kubeconfig.
        path: PathBuf,
        /// Why.
        source: Box<kube::Error>,
    },
    /// No certificate was issued.
    #[error("the node gets no certificate")]
    Request(#[from] super::Error),
    /// What was issued cannot be kept.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What the files hold, if that is still valid; else what the cluster gives.
///
/// # Errors
/// There is nothing valid, and the cluster gives nothing.
pub async fn identity(files: &Files, node: &str) -> Result<Identity, Error> {
    let path = &files.kubeconfig;
    if path.exists() {
        let kept = kubeconfig::read(path).await?;
        // The file of the certificate is newer than what an administrator once wrote into the kubeconfig.
        let newest = files.store.read()?.filter(|pair| is_of(pair, node));
        let pairs = [newest, kept.pair].into_iter().flatten();
        if let Some(pair) = pairs.into_iter().find(is_valid) {
            return Ok(Identity { cluster: kept.cluster, pair });
        }
    }
    let Some(bootstrap) = &files.bootstrap else {
        return Err(Error::NoCertificate { path: path.clone(), node: node.to_owned() });
    };
    let with_token = kubeconfig::read_with_user(bootstrap).await?;
    let mut cluster = with_token.clone();
    cluster.auth_info = kube::config::AuthInfo::default();
    let client = Client::try_from(with_token)
        .map_err(|source| Error::Client { path: bootstrap.clone(), source: Box::new(source) })?;
    let pair = enrol(&client, &cluster, node, path, &files.store).await?;
    Ok(Identity { cluster, pair })
}

/// Asks as `client` for a node's certificate, and keeps it and where the cluster is.
///
/// # Errors
/// It is refused, nobody answers, or a file cannot be written.
pub async fn enrol(
    client: &Client,
    cluster: &Config,
    node: &str,
    path: &Path,
    store: &Store,
) -> Result<Pair, Error> {
    let pair = obtain(client, &request(node)).await?;
    kubeconfig::write(path, cluster, store)?;
    store.write(&pair)?;
    Ok(pair)
}

/// Renews the certificate of a node for as long as it runs. Never returns.
pub async fn keep(node: &str, pair: &Pair, store: Store, renewing: Renewing) {
    let validity = Validity::read(&pair.certificate);
    rotate(renewing.client(), request(node), store, validity, |pair| {
        if let Err(error) = renewing.renew(pair) {
            tracing::warn!(error = kit::chain(&error), "new certificate not used");
        }
    })
    .await;
}

fn request(node: &str) -> Request {
    Request { node: node.to_owned(), signer: Signer::Client, hosts: Vec::new() }
}

/// Whether a certificate is valid now.
pub fn is_valid(pair: &Pair) -> bool {
    Validity::read(&pair.certificate).is_some_and(|validity| validity.includes(Timestamp::now()))
}

fn is_of(pair: &Pair, node: &str) -> bool {
    pair.node().as_deref() == Some(node)
}
