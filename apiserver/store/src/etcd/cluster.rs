//! The members of an etcd cluster: one is in use; when it fails the next one's turn comes.

use std::{
    error::Error as StdError,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{
    Certificate, Client, ConnectOptions, Identity, KvClient, LeaseClient, ResponseHeader,
    TlsOptions, WatchClient,
};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::{EtcdOptions, EtcdTls, from_etcd};
use crate::{Error, Result, Revision};

/// Longest time for one request, repetitions included; a third of what clients usually allow.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time for one attempt; a member that hangs must leave time for another.
const ATTEMPT: Duration = Duration::from_secs(4);
/// First pause before a repetition, doubled each time.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often an idle connection is tried; etcd refuses clients that ask more often than every 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// etcd's default limit of a request.
///
/// Source: `--max-request-bytes` of etcd.
const MAX_REQUEST: usize = 3 << 19;

/// One member.
pub(super) struct Endpoint {
    url: String,
    pub(super) kv: KvClient,
    pub(super) watch: WatchClient,
    pub(super) lease: LeaseClient,
}

/// All of them.
pub(super) struct Cluster {
    endpoints: Vec<Endpoint>,
    /// Counts up; the one in use is this modulo their number.
    turn: AtomicUsize,
    name: Arc<str>,
}

/// Which failed calls are made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Those that change nothing, or the same thing again.
    Always,
    /// Only those that surely did not arrive.
    IfNotSent,
}

impl Cluster {
    /// Prepares the connections; they are made when they are needed.
    pub(super) async fn new(options: &EtcdOptions) -> Result<Cluster> {
        if options.endpoints.is_empty() {
            return Err(Error::Options("no etcd endpoint was named".into()));
        }
        let tls = tls(&options.tls)?;
        let mut endpoints = Vec::new();
        for url in &options.endpoints {
            let bad = |error| {
                let cause = StdError::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
                Error::Options(format!("etcd endpoint {url:?} cannot be used: {error}{cause}"))
            };
            let mut connect = ConnectOptions::new()
                .with_connect_timeout(ATTEMPT / 2)
                .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE / 2)
                .with_keep_alive_while_idle(true)
                .with_require_leader(true);
            if let Some(tls) = tls.clone().filter(|_| !url.starts_with("http://")) {
                connect = connect.with_tls(tls);
            }
            let client = Client::connect([url], Some(connect)).await.map_err(bad)?;
            // Both as large as etcd may send them; it bounds what it keeps.
            let kv = client.kv_client().max_decoding_message_size(i32::MAX as usize);
            let watch = client.watch_client().max_decoding_message_size(i32::MAX as usize);
            endpoints.push(Endpoint { url: url.clone(), kv, watch, lease: client.lease_client() });
        }
        let name = format!("etcd at {}", options.endpoints.join(",")).into();
        Ok(Cluster { endpoints, turn: AtomicUsize::new(0), name })
    }

    /// Calls the member in use, and if need be the others, until there is an answer or [`PATIENCE`] is over.
    pub(super) async fn call<'a, T, F, Fut>(
        &'a self,
        operation: &'static str,
        key: &str,
        repeat: Repeat,
        call: F,
    ) -> Result<T>
    where
        F: Fn(&'a Endpoint) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSE;
        loop {
            let turn = self.turn.load(Ordering::Relaxed);
            let endpoint = &self.endpoints[turn % self.endpoints.len()];
            let source: Arc<dyn StdError + Send + Sync> =
                match timeout(ATTEMPT, call(endpoint)).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(error)) => match judge(&error) {
                        Verdict::Compacted => {
                            return Err(Error::Compacted { requested: 0, compacted: 0 });
                        }
                        Verdict::Future => return Err(Error::Future { requested: 0, current: 0 }),
                        Verdict::TooLarge => {
                            let key = key.into();
                            return Err(Error::TooLarge { key, size: 0, limit: MAX_REQUEST });
                        }
                        Verdict::Refused => {
                            let (key, store) = (key.into(), self.name.clone());
                            return Err(Error::Refused {
                                operation,
                                key,
                                store,
                                source: Arc::new(error),
                            });
                        }
                        Verdict::Unsent => Arc::new(error),
                        Verdict::Unknown if repeat == Repeat::Always => Arc::new(error),
                        Verdict::Unknown => {
                            self.next(turn);
                            return Err(self.unavailable(operation, key, Arc::new(error)));
                        }
                    },
                    Err(elapsed) if repeat == Repeat::Always => Arc::new(elapsed),
                    Err(elapsed) => {
                        self.next(turn);
                        return Err(self.unavailable(operation, key, Arc::new(elapsed)));
                    }
                };
            debug!(operation, key, endpoint = %endpoint.url, error = %source, "etcd call failed");
            self.next(turn);
            if Instant::now() + pause >= deadline {
                return Err(self.unavailable(operation, key, source));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The member in use, for a watch, and its turn.
    pub(super) fn endpoint(&self) -> (&Endpoint, usize) {
        let turn = self.turn.load(Ordering::Relaxed);
        (&self.endpoints[turn % self.endpoints.len()], turn)
    }

    /// The turn of the next member comes, if it has not already.
    pub(super) fn next(&self, turn: usize) {
        let _ = self.turn.compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn unavailable(
        &self,
        operation: &'static str,
        key: &str,
        source: Arc<dyn StdError + Send + Sync>,
    ) -> Error {
        Error::Unavailable { operation, key: key.into(), store: self.name.clone(), source }
    }
}

/// The store's revision when an answer was made.
pub(super) fn revision(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(0, |header| from_etcd(header.revision()))
}

/// What a failed call means.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Compacted,
    Future,
    TooLarge,
    /// There was no connection to send it through.
    Unsent,
    /// It may have arrived, and have had its effect.
    Unknown,
    Refused,
}

/// Codes and texts are etcd's.
///
/// Source: etcd `api/v3rpc/rpctypes/error.go`.
fn judge(error: &etcd_client::Error) -> Verdict {
    let etcd_client::Error::GRpcStatus(status) = error else { return Verdict::Unknown };
    let text = status.message();
    match status.code() {
        tonic::Code::OutOfRange if text.contains("compacted") => Verdict::Compacted,
        tonic::Code::OutOfRange => Verdict::Future,
        tonic::Code::InvalidArgument if text.contains("too large") => Verdict::TooLarge,
        tonic::Code::ResourceExhausted if text.contains("larger than max") => Verdict::TooLarge,
        // Such as a full quota; or one request in too many, which etcd does not take in.
        tonic::Code::ResourceExhausted if text.contains("too many requests") => Verdict::Unsent,
        tonic::Code::ResourceExhausted
        | tonic::Code::InvalidArgument
        | tonic::Code::FailedPrecondition
        | tonic::Code::NotFound // A lease.
        | tonic::Code::PermissionDenied
        | tonic::Code::Unauthenticated
        | tonic::Code::Unimplemented => Verdict::Refused,
        _ if never_connected(status) => Verdict::Unsent,
        _ => Verdict::Unknown,
    }
}

fn never_connected(status: &tonic::Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn tls(files: &EtcdTls) -> Result<Option<TlsOptions>> {
    if *files == EtcdTls::default() {
        return Ok(None);
    }
    let mut tls = TlsOptions::new();
    if let Some(ca) = &files.ca {
        tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
    }
    match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        (None, None) => (),
        _ => {
            let text = "a certificate for etcd needs its key, and a key its certificate; name both or none";
            return Err(Error::Options(text.into()));
        }
    }
    Ok(Some(tls))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Io {
        operation: "read",
        path: path.into(),
        source: Arc::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_answers_are_understood() {
        use tonic::{Code, Status};
        let verdict = |code, text: &str| judge(&Status::new(code, text).into());
        for (code, text, expected) in [
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                Verdict::Compacted,
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
                Verdict::Future,
            ),
            (Code::InvalidArgument, "etcdserver: request is too large", Verdict::TooLarge),
            (
                Code::ResourceExhausted,
                "grpc: received message larger than max (9 vs. 8)",
                Verdict::TooLarge,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                Verdict::Refused,
            ),
            (Code::ResourceExhausted, "etcdserver: too many requests", Verdict::Unsent),
            (Code::Unavailable, "etcdserver: request timed out", Verdict::Unknown),
            (Code::Unavailable, "etcdserver: leader changed", Verdict::Unknown),
            (Code::PermissionDenied, "etcdserver: permission denied", Verdict::Refused),
            (Code::NotFound, "etcdserver: requested lease not found", Verdict::Refused),
        ] {
            assert_eq!(verdict(code, text), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn half_a_pair_is_refused() {
        let tls = EtcdTls { certificate: Some("a.pem".into()), ..EtcdTls::default() };
        let endpoints = vec!["https://127.0.0.1:1".into()];
        let options = EtcdOptions { endpoints, tls, ..EtcdOptions::default() };
        let refused = Cluster::new(&options).await.map(|_| ());
        assert!(
            matches!(&refused, Err(Error::Options(text)) if text.contains("key")),
            "{refused:?}"
        );
    }
}
