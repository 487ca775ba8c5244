//! A closed loop of workers, and what they measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use http::StatusCode;
use tokio::task::JoinSet;

use super::connection::{Call, Connection};

/// Longest latency that is told apart, in microseconds.
const LONGEST: u64 = 120_000_000;

/// An empty record of latencies in microseconds, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3)
        .unwrap_or_else(|_| unreachable!("the bounds are constants that make sense"))
}

/// What a phase did.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// Latencies of the requests that succeeded, in microseconds.
    pub latencies: Histogram<u64>,
    /// Requests that failed, and what was said to the first of them.
    pub errors: u64,
    /// The first failure.
    pub first_error: Option<String>,
    /// Bytes of the answers' bodies.
    pub bytes: u64,
    /// From the first request to the last answer.
    pub took: Duration,
}

impl Measured {
    pub(crate) fn new() -> Self {
        Self {
            latencies: histogram(),
            errors: 0,
            first_error: None,
            bytes: 0,
            took: Duration::ZERO,
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.latencies.add(&other.latencies);
        self.errors += other.errors;
        self.bytes += other.bytes;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
    }

    fn record(&mut self, call: &Call, status: StatusCode, length: u64, took: Duration) {
        if status.is_success() {
            self.latencies.saturating_record(took.as_micros().try_into().unwrap_or(LONGEST));
            self.bytes += length;
        } else {
            self.errors += 1;
            let what = || format!("{} {} was answered {status}", call.method, call.path);
            self.first_error.get_or_insert_with(what);
        }
    }
}

/// Bounds of a phase.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Most requests.
    pub requests: usize,
    /// Longest time.
    pub time: Duration,
}

/// Runs requests until a bound is reached: each connection sends what `next` makes of the requests' running number.
///
/// # Errors
/// If a connection ends, which ends them all. Refusals are counted, not errors.
pub(crate) async fn run(
    connections: &mut Vec<Connection>,
    bounds: Bounds,
    next: impl Fn(usize) -> Option<Call> + Send + Sync + 'static,
) -> anyhow::Result<Measured> {
    let load = Arc::new(Load { bounds, next, taken: AtomicUsize::new(0), began: Instant::now() });
    // Tasks, since the parts of one task take turns unfairly, and all on one thread.
    let mut workers: JoinSet<_> =
        connections.drain(..).map(|connection| load.clone().work(connection)).collect();
    let mut sum = Measured::new();
    while let Some(ended) = workers.join_next().await {
        let (connection, measured) = ended??;
        connections.push(connection);
        sum.add(&measured);
    }
    sum.took = load.began.elapsed();
    Ok(sum)
}

/// What workers share.
struct Load<N> {
    bounds: Bounds,
    next: N,
    /// Numbers of requests that were given out.
    taken: AtomicUsize,
    began: Instant,
}

impl<N: Fn(usize) -> Option<Call>> Load<N> {
    async fn work(
        self: Arc<Self>,
        mut connection: Connection,
    ) -> anyhow::Result<(Connection, Measured)> {
        let mut measured = Measured::new();
        while self.began.elapsed() < self.bounds.time {
            let number = self.taken.fetch_add(1, Ordering::Relaxed);
            if number >= self.bounds.requests {
                break;
            }
            let Some(call) = (self.next)(number) else { break };
            let sent = Instant::now();
            let (status, length) = connection.skim(&call).await?;
            measured.record(&call, status, length, sent.elapsed());
        }
        Ok((connection, measured))
    }
}
