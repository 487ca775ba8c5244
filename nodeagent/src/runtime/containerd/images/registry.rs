//! Pulls images from registries.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use super::super::image_config::ImageConfig;
use super::super::locks::Locks;
use super::content::{self, Writer};
use super::manifest::{self, Descriptor, Document};
use super::{Lease, publish, unpack};
use crate::runtime::{Credential, Error, ImageRef, PullSecrets};

/// Blobs of one image that are fetched at once.
///
/// Source: containerd's `max_concurrent_downloads`.
const PARALLEL: usize = 3;

/// Attempts at one blob; each goes on where the last one broke off.
const ATTEMPTS: u32 = 4;

/// Silence after which a connection counts as broken.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Clients by registry and credential: a client remembers its credential, which must not serve the next pod.
pub(super) struct Registries {
    insecure: Vec<String>,
    clients: Mutex<HashMap<(String, String), oci_client::Client>>,
}

impl Registries {
    pub(super) fn new(insecure: Vec<String>) -> Self {
        // Fails only if the process has chosen its provider before; that one will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { insecure, clients: Mutex::default() }
    }

    fn client(
        &self,
        registry: &str,
        credential: Option<&Credential>,
    ) -> Result<oci_client::Client, OciDistributionError> {
        let secret = match credential {
            None => String::new(),
            Some(Credential::Basic { username, password }) => format!("{username}:{password}"),
            Some(Credential::Bearer(token)) => token.clone(),
        };
        let key = (registry.to_owned(), secret);
        if let Some(client) = self.clients.lock().get(&key) {
            return Ok(client.clone());
        }
        let protocol = match is_insecure(registry, &self.insecure) {
            true => ClientProtocol::Http,
            false => ClientProtocol::Https,
        };
        let config = ClientConfig {
            protocol,
            read_timeout: Some(READ_TIMEOUT),
            connect_timeout: Some(CONNECT_TIMEOUT),
            ..ClientConfig::default()
        };
        let client = oci_client::Client::try_from(config)?;
        self.clients.lock().insert(key, client.clone());
        Ok(client)
    }
}

/// Registries on this machine, and those that the node's owner named, are spoken to without TLS.
fn is_insecure(registry: &str, named: &[String]) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost"
        || host.starts_with("127.")
        || host == "[::1]"
        || named.iter().any(|name| name == registry || name == host)
}

/// Fetches, unpacks and names an image.
pub(super) async fn pull(
    lease: &Lease,
    registries: &Registries,
    locks: &Locks,
    image: &ImageRef,
    secrets: &PullSecrets,
) -> Result<(), Error> {
    let (source, top) = open(registries, image, secrets).await?;
    let failed = |status: Status| Error::PullImage {
        image: image.to_string(),
        reason: status.message().to_owned(),
    };
    let (index, manifest) = match top.document.is_index() {
        false => (None, top),
        true => {
            let (n, chosen) =
                top.document.choose(std::env::consts::ARCH).ok_or_else(|| Error::PullImage {
                    image: image.to_string(),
                    reason: format!("no manifest for linux/{}", std::env::consts::ARCH),
                })?;
            let manifest = source.manifest(Some(&chosen.digest)).await?;
            (Some((n, top)), manifest)
        }
    };
    let config = manifest.document.config.clone().unwrap_or_default();
    source.fetch(lease, locks, &config).await?;
    let bytes = content::read(&lease.client, &config.digest).await.map_err(failed)?;
    let parsed: ImageConfig = serde_json::from_slice(&bytes).map_err(|error| Error::PullImage {
        image: image.to_string(),
        reason: format!("its configuration is not valid: {error}"),
    })?;
    let chain = source
        .fetch_layers(lease, locks, &manifest.document.layers, &parsed.rootfs.diff_ids)
        .await?;
    let client = &lease.client;
    let store = |fetched: Fetched, chosen| async move {
        let labels = fetched.document.gc_labels(chosen);
        content::write(client, &fetched.descriptor, fetched.bytes, labels).await?;
        Ok::<Descriptor, Status>(fetched.descriptor)
    };
    let mut target = store(manifest, None).await.map_err(failed)?;
    if let Some((chosen, index)) = index {
        target = store(index, Some(chosen)).await.map_err(failed)?;
    }
    publish(client, &image.to_string(), &target, &config, &chain).await.map_err(failed)
}

/// Asks for the image's manifest with each credential that fits, then without one.
async fn open(
    registries: &Registries,
    image: &ImageRef,
    secrets: &PullSecrets,
) -> Result<(Source, Fetched), Error> {
    let credentials = secrets.for_image(image);
    let mut first_error = None;
    for credential in credentials.iter().map(Some).chain([None]) {
        let result = async {
            let client = registries
                .client(image.registry(), credential)
                .map_err(|error| explain(image, &error))?;
            let source = Source { client, image: image.clone(), auth: auth(credential) };
            let top = source.manifest(None).await?;
            Ok::<_, Error>((source, top))
        };
        match result.await {
            Ok(opened) => return Ok(opened),
            Err(error @ Error::RegistryUnavailable { .. }) => return Err(error),
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| Error::PullImage {
        image: image.to_string(),
        reason: "nothing was tried".to_owned(),
    }))
}

fn auth(credential: Option<&Credential>) -> RegistryAuth {
    match credential {
        None => RegistryAuth::Anonymous,
        Some(Credential::Basic { username, password }) => {
            RegistryAuth::Basic(username.clone(), password.clone())
        }
        Some(Credential::Bearer(token)) => RegistryAuth::Bearer(token.clone()),
    }
}

/// A repository in a registry, with the way to be let in.
#[derive(Clone)]
struct Source {
    client: oci_client::Client,
    image: ImageRef,
    auth: RegistryAuth,
}

/// A document as fetched.
struct Fetched {
    descriptor: Descriptor,
    bytes: Vec<u8>,
    document: Document,
}

impl Source {
    fn reference(&self, digest: Option<&str>) -> Reference {
        let (registry, repository) =
            (self.image.registry().to_owned(), self.image.repository().to_owned());
        match (digest.or(self.image.digest()), self.image.tag()) {
            (Some(digest), _) => Reference::with_digest(registry, repository, digest.to_owned()),
            (None, tag) => {
                Reference::with_tag(registry, repository, tag.unwrap_or("latest").to_owned())
            }
        }
    }

    /// The manifest or index at a digest, or else at the image's own name. Its digest is checked.
    async fn manifest(&self, digest: Option<&str>) -> Result<Fetched, Error> {
        let accept = [
            manifest::OCI_INDEX,
            manifest::OCI_MANIFEST,
            manifest::DOCKER_INDEX,
            manifest::DOCKER_MANIFEST,
        ];
        let reference = self.reference(digest);
        // oci-client drops the reason when it asks for a token on its way; asking first keeps it.
        self.client
            .auth(&reference, &self.auth, RegistryOperation::Pull)
            .await
            .map_err(|error| explain(&self.image, &error))?;
        let (bytes, _) = self
            .client
            .pull_manifest_raw(&reference, &self.auth, &accept)
            .await
            .map_err(|error| explain(&self.image, &error))?;
        let failed = |reason: String| Error::PullImage { image: self.image.to_string(), reason };
        let document: Document = serde_json::from_slice(&bytes)
            .map_err(|error| failed(format!("its manifest is not valid: {error}")))?;
        let descriptor = Descriptor::of(document.media_type(), &bytes);
        match digest.or(self.image.digest()) {
            Some(wanted) if wanted.starts_with("sha256:") && wanted != descriptor.digest => {
                Err(failed(format!("the registry sent {} for {wanted}", descriptor.digest)))
            }
            _ => Ok(Fetched { descriptor, bytes: bytes.to_vec(), document }),
        }
    }

    /// Fetches layers side by side and unpacks each as soon as it and those below are there. Answers the chain.
    async fn fetch_layers(
        &self,
        lease: &Lease,
        locks: &Locks,
        layers: &[Descriptor],
        diff_ids: &[String],
    ) -> Result<String, Error> {
        let failed = |reason: String| Error::PullImage { image: self.image.to_string(), reason };
        if layers.len() != diff_ids.len() {
            return Err(failed(format!(
                "it has {} layers but names {}",
                layers.len(),
                diff_ids.len()
            )));
        }
        let slots = Arc::new(Semaphore::new(PARALLEL));
        let mut fetches = tokio::task::JoinSet::new();
        let mut ready = Vec::new();
        for layer in layers {
            let (done, waiting) = tokio::sync::oneshot::channel();
            ready.push(waiting);
            let (source, layer, slots) = (self.clone(), layer.clone(), slots.clone());
            let (client, id, lock) =
                (lease.client.clone(), lease.id.clone(), locks.of(&layer.digest));
            fetches.spawn(async move {
                let _slot = slots.acquire_owned().await;
                let _one_writer = lock.lock().await;
                let _ = done.send(source.fetch_blob(&client, &id, &layer).await);
            });
        }
        let mut parent = String::new();
        for ((layer, diff_id), (waiting, chain)) in
            layers.iter().zip(diff_ids).zip(ready.into_iter().zip(manifest::chain_ids(diff_ids)))
        {
            waiting.await.map_err(|_| failed("a download was cut off".to_owned()))??;
            unpack::layer(&lease.client, layer, diff_id, &parent, &chain)
                .await
                .map_err(|status| failed(status.message().to_owned()))?;
            parent = chain;
        }
        Ok(parent)
    }

    /// Fetches one blob, unless it is there.
    async fn fetch(&self, lease: &Lease, locks: &Locks, blob: &Descriptor) -> Result<(), Error> {
        let lock = locks.of(&blob.digest);
        let _one_writer = lock.lock().await;
        self.fetch_blob(&lease.client, &lease.id, blob).await
    }

    async fn fetch_blob(
        &self,
        client: &super::Client,
        lease: &str,
        blob: &Descriptor,
    ) -> Result<(), Error> {
        let failed = |status: Status| Error::PullImage {
            image: self.image.to_string(),
            reason: status.message().to_owned(),
        };
        if content::present(client, lease, &blob.digest).await.map_err(failed)? {
            return Ok(());
        }
        let mut attempt = 1;
        loop {
            match self.copy(client, blob).await {
                Ok(()) => return Ok(()),
                Err(error) if attempt == ATTEMPTS || matches!(error, Broken::Content(_)) => {
                    return Err(match error {
                        Broken::Connection(error) => error,
                        Broken::Content(status) => failed(status),
                    });
                }
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(200) * 2u32.pow(attempt)).await;
                    attempt += 1;
                }
            }
        }
    }

    /// One attempt at a blob.
    async fn copy(&self, client: &super::Client, blob: &Descriptor) -> Result<(), Broken> {
        let Some(mut writer) = Writer::open(client, blob).await.map_err(Broken::from)? else {
            return Ok(());
        };
        if writer.offset < blob.size {
            let mut stream =
                self.stream(blob, &mut writer.offset).await.map_err(Broken::Connection)?;
            while let Some(bytes) =
                stream.try_next().await.map_err(|error| Broken::Connection(self.lost(&error)))?
            {
                writer.write(bytes).await.map_err(Broken::from)?;
            }
        }
        if writer.offset < blob.size {
            return Err(Broken::Connection(
                self.lost(&std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
            ));
        }
        writer.commit(HashMap::new()).await.map_err(Broken::from)
    }

    /// The bytes of a blob from `offset` on; `offset` becomes 0 where the registry cannot start in the middle.
    async fn stream(
        &self,
        blob: &Descriptor,
        offset: &mut i64,
    ) -> Result<std::pin::Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>, Error> {
        let descriptor = OciDescriptor {
            media_type: blob.media_type.clone(),
            digest: blob.digest.clone(),
            size: blob.size,
            ..Default::default()
        };
        let reference = self.reference(None);
        let explain = |error: OciDistributionError| explain(&self.image, &error);
        if *offset > 0 {
            let start = u64::try_from(*offset).unwrap_or_default();
            if let BlobResponse::Partial(part) = self
                .client
                .pull_blob_stream_partial(&reference, &descriptor, start, None)
                .await
                .map_err(explain)?
            {
                return Ok(part.stream.boxed());
            }
            *offset = 0;
        }
        Ok(self
            .client
            .pull_blob_stream(&reference, &descriptor)
            .await
            .map_err(explain)?
            .stream
            .boxed())
    }

    fn lost(&self, error: &std::io::Error) -> Error {
        Error::PullImage {
            image: self.image.to_string(),
            reason: format!("the download broke off: {error}"),
        }
    }
}

/// Why an attempt failed: worth another one, or not.
enum Broken {
    Connection(Error),
    Content(Status),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unavailable => Self::Connection(Error::Unavailable(status.message().to_owned())),
            _ => Self::Content(status),
        }
    }
}

/// The registry's answer in a sentence for the pod's status.
fn explain(image: &ImageRef, error: &OciDistributionError) -> Error {
    let reason = match error {
        OciDistributionError::RequestError(request)
            if request.is_connect() || request.is_timeout() =>
        {
            return Error::RegistryUnavailable {
                registry: image.registry().to_owned(),
                reason: chain(request),
            };
        }
        OciDistributionError::RequestError(request) => chain(request),
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. } => {
            format!("{image}: not found")
        }
        OciDistributionError::RegistryError { envelope, .. }
            if envelope.errors.iter().any(|error| {
                matches!(format!("{:?}", error.code).as_str(), "ManifestUnknown" | "NameUnknown")
            }) =>
        {
            format!("{image}: not found")
        }
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_) => {
            "pull access denied, the repository does not exist or requires authorization".to_owned()
        }
        other => other.to_string(),
    };
    Error::PullImage { image: image.to_string(), reason }
}

/// An error with all its causes: reqwest alone does not say what went wrong.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_registries_go_without_tls() {
        let named = ["registry.lan".to_owned(), "other.lan:5000".to_owned()];
        for insecure in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "registry.lan",
            "registry.lan:80",
            "other.lan:5000",
        ] {
            assert!(is_insecure(insecure, &named), "{insecure}");
        }
        for secure in ["docker.io", "other.lan", "other.lan:5001", "localhost.example"] {
            assert!(!is_insecure(secure, &named), "{secure}");
        }
    }
}
