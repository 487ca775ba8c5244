//! Watch fan-out: how long until every watcher has a change, and how many changes reach watchers in a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use hdrhistogram::Histogram;
use http::Method;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::arguments::Encoding;
use super::bodies::{Template, moment_of};
use super::connection::{Call, Connection, Media};
use super::load::histogram;
use super::phases::Road;
use super::target::Target;

/// Watches that are opened at the same time.
const OPENING: usize = 50;
/// Longest wait for what is on its way when the writers stop.
const DRAIN: Duration = Duration::from_secs(15);
/// The time of sending that ends a watch: the last write has it.
const END: u64 = 0;

/// What to watch and how to write.
pub(crate) struct FanOut<'a> {
    /// Where.
    pub road: &'a Road,
    /// The change that is made again and again.
    pub status: &'a Template,
    /// Objects that are changed in turn.
    pub pods: usize,
    /// Number of watchers, each on a connection of its own.
    pub watchers: usize,
    /// Writes a second; `None` for as many as go.
    pub rate: Option<u32>,
    /// How long.
    pub time: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Delivered {
    /// Writes that were answered.
    pub writes: u64,
    /// Events that reached watchers.
    pub events: u64,
    /// Watchers that were closed, or did not get all.
    pub dropped: usize,
    /// From sending a write to having its event, in microseconds.
    pub latencies: Histogram<u64>,
    /// Bytes of the events.
    pub bytes: u64,
    /// From the first write to the last event.
    pub took: Duration,
}

/// One watcher's share.
struct Watched {
    events: u64,
    bytes: u64,
    last: Instant,
    ended_well: bool,
}

/// Latencies of all watchers: one record stays in the cache, one for each watcher would not.
type Latencies = Arc<Mutex<Histogram<u64>>>;

impl FanOut<'_> {
    /// Opens the watches, writes, waits until all is delivered.
    ///
    /// # Errors
    /// If watches cannot be opened, or writes fail.
    pub(crate) async fn run(&self, writers: &mut [Connection]) -> anyhow::Result<Delivered> {
        let epoch = Instant::now();
        let latencies = Arc::new(Mutex::new(histogram()));
        let mut watching = self.open(epoch, &latencies).await?;
        let began = Instant::now();
        let writes = self.write(writers, epoch).await?;
        self.write_one(&mut writers[0], 0, END).await?;
        let mut delivered = Delivered {
            writes,
            events: 0,
            dropped: self.watchers,
            latencies: histogram(),
            bytes: 0,
            took: began.elapsed(),
        };
        let deadline = tokio::time::Instant::now() + DRAIN;
        while let Ok(Some(Ok(watched))) =
            tokio::time::timeout_at(deadline, watching.join_next()).await
        {
            let watched: Watched = watched;
            delivered.events += watched.events;
            delivered.bytes += watched.bytes;
            delivered.took = delivered.took.max(watched.last.saturating_duration_since(began));
            let whole = watched.ended_well && watched.events == writes;
            delivered.dropped -= usize::from(whole);
        }
        delivered.latencies = latencies.lock().clone();
        Ok(delivered)
    }

    async fn open(
        &self,
        epoch: Instant,
        latencies: &Latencies,
    ) -> anyhow::Result<JoinSet<Watched>> {
        let list = Call::new(Method::GET, self.road.pods("?limit=1"));
        let list = Connection::open(&self.road.target, Encoding::Json).await?.json(&list).await?;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let call =
            Call::new(Method::GET, self.road.pods(&format!("?watch=1&resourceVersion={version}")));
        let mut watching = JoinSet::new();
        for first in (0..self.watchers).step_by(OPENING) {
            let batch = first..(first + OPENING).min(self.watchers);
            let opening = batch.map(|_| open_one(&self.road.target, &call));
            for connection in futures::future::try_join_all(opening).await? {
                watching.spawn(follow(connection, epoch, latencies.clone()));
            }
        }
        Ok(watching)
    }

    /// Writes at the rate, spread over the connections; answers how many writes there were.
    async fn write(&self, writers: &mut [Connection], epoch: Instant) -> anyhow::Result<u64> {
        let began = Instant::now();
        let n_writers = writers.len();
        let interval =
            self.rate.map(|rate| Duration::from_secs(1) * n_writers as u32 / rate.max(1));
        let tasks = writers.iter_mut().enumerate().map(|(n, writer)| async move {
            let mut due = interval.map(|every| began + every * n as u32 / n_writers as u32);
            let mut writes = 0;
            while began.elapsed() < self.time {
                if let (Some(due), Some(interval)) = (&mut due, interval) {
                    tokio::time::sleep_until((*due).into()).await;
                    *due += interval;
                }
                // Each connection has pods of its own, so that none is changed twice at once.
                let pod = (n + writes * n_writers) % self.pods;
                self.write_one(writer, pod, epoch.elapsed().as_micros() as u64).await?;
                writes += 1;
            }
            anyhow::Ok(writes as u64)
        });
        Ok(futures::future::try_join_all(tasks).await?.iter().sum())
    }

    async fn write_one(
        &self,
        writer: &mut Connection,
        pod: usize,
        moment: u64,
    ) -> anyhow::Result<()> {
        let call = Call::new(Method::PATCH, self.road.pod(pod, "/status"));
        let call = call.with(Media::Strategic, self.status.fill(pod, moment));
        writer.succeed(&call).await.map(|_| ())
    }
}

async fn open_one(target: &Target, call: &Call) -> anyhow::Result<Connection> {
    let mut connection = Connection::open(target, Encoding::Json).await?;
    let status = connection.send(call).await?;
    ensure!(status.is_success(), "a watch was answered {status}");
    Ok(connection)
}

/// Reads a watch until the last write's event.
async fn follow(mut connection: Connection, epoch: Instant, latencies: Latencies) -> Watched {
    let mut watched = Watched { events: 0, bytes: 0, last: epoch, ended_well: false };
    let mut lines = Lines::default();
    loop {
        let more = connection.more(|piece| {
            let now = epoch.elapsed().as_micros() as u64;
            watched.bytes += piece.len() as u64;
            lines.push(piece, |line| match moment_of(line) {
                Some(END) => watched.ended_well = true,
                Some(moment) => {
                    watched.events += 1;
                    latencies.lock().saturating_record(now.saturating_sub(moment));
                }
                None => (),
            });
        });
        let more = more.await.unwrap_or(false);
        watched.last = Instant::now();
        if watched.ended_well || !more {
            return watched;
        }
    }
}

/// Cuts a stream into lines, whatever pieces it comes in.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, piece: &[u8], mut line: impl FnMut(&[u8])) {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', piece) {
            if self.rest.is_empty() {
                line(&piece[start..end]);
            } else {
                self.rest.extend_from_slice(&piece[start..end]);
                line(&self.rest);
                self.rest.clear();
            }
            start = end + 1;
        }
        self.rest.extend_from_slice(&piece[start..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_come() {
        let text = b"one\ntwo\n\nthree\n";
        for size in 1..text.len() {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            for piece in text.chunks(size) {
                lines.push(piece, |line| seen.push(line.to_vec()));
            }
            assert_eq!(seen, [&b"one"[..], b"two", b"", b"three"], "in pieces of {size}");
        }
    }
}
