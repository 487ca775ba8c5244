//! A connection to containerd: requests with their metadata, answers with their errors.

use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use hyper_util::rt::TokioIo;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::runtime::Error;

/// Largest answer taken: containerd's own limit for sending. A listing of 700 containers passes tonic's 4 MiB.
const MAX_MESSAGE: usize = 16 << 20;

/// Longest wait for an answer, so that no pod hangs on a call that containerd has lost: it fails, and is tried again.
///
/// The kubelet's `runtimeRequestTimeout` is two minutes, but one of its calls takes many of these.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The snapshotter for all images and containers.
pub(super) const SNAPSHOTTER: &str = "overlayfs";

#[derive(Clone)]
pub(super) struct Client {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

macro_rules! service {
    ($name:ident, $client:ident) => {
        pub(super) fn $name(&self) -> $client<Channel> {
            $client::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
        }
    };
}

impl Client {
    /// A client that connects at its first call, and again after containerd has gone.
    pub(super) fn new(socket: &Path, namespace: &str) -> Result<Self, Error> {
        let socket: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let namespace = namespace
            .parse()
            .map_err(|error| Error::runtime("use the containerd namespace", error))?;
        let channel =
            Endpoint::from_static("http://containerd").connect_with_connector_lazy(connector);
        Ok(Self { channel, namespace, lease: None })
    }

    /// The same connection, all of whose requests hold what they make by a lease.
    pub(super) fn with_lease(&self, lease: &str) -> Self {
        Self { lease: lease.parse().ok(), ..self.clone() }
    }

    /// A request in the client's namespace, which fails if it is not answered in time.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = self.open_ended(message);
        request.set_timeout(ANSWER_TIMEOUT);
        request
    }

    /// A request that may take as long as it takes: a stream, a wait for a process, the unpacking of a layer.
    pub(super) fn open_ended<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        request
    }

    service!(containers, ContainersClient);
    service!(content, ContentClient);
    service!(images, ImagesClient);
    service!(leases, LeasesClient);
    service!(snapshots, SnapshotsClient);
    service!(tasks, TasksClient);

    pub(super) fn diff(&self) -> DiffClient<Channel> {
        DiffClient::new(self.channel.clone())
    }

    pub(super) fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }

    pub(super) fn version(&self) -> VersionClient<Channel> {
        VersionClient::new(self.channel.clone())
    }
}

/// Makes "not found" a value.
pub(super) fn optional<T>(result: Result<T, Status>) -> Result<Option<T>, Status> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// Makes "not found" and "already there" successes: for steps that may have been done before.
pub(super) fn done<T>(result: Result<T, Status>) -> Result<(), Status> {
    match result {
        Ok(_) => Ok(()),
        Err(status) if matches!(status.code(), Code::NotFound | Code::AlreadyExists) => Ok(()),
        Err(status) => Err(status),
    }
}

/// Whether the status says that containerd is away, rather than that it refuses.
///
/// "transport error" is what calls in flight end with when containerd dies.
pub(super) fn is_away(status: &Status) -> bool {
    status.code() == Code::Unavailable
        || (matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled)
            && status.message().contains("transport error"))
}

/// An error for `operation`.
pub(super) fn failed(operation: &'static str) -> impl Fn(Status) -> Error {
    move |status| match is_away(&status) {
        true => Error::Unavailable(status.message().to_owned()),
        false => Error::runtime(operation, status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_end_unless_they_are_open_ended() {
        let client = Client::new(Path::new("/nowhere/containerd.sock"), "default").unwrap();
        let timeout = |request: Request<()>| {
            let timeout = request.metadata().get("grpc-timeout")?;
            Some(timeout.to_str().unwrap().to_owned())
        };
        assert_eq!(timeout(client.request(())).as_deref(), Some("30000000u"));
        assert_eq!(timeout(client.open_ended(())), None);
    }
}
