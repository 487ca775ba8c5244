//! Where events go, and whether requests wait for them to arrive.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::event::Event;
use super::flags::{BatchOptions, Format, Mode, TruncateOptions};
use super::log::Log;
use super::metrics::Metrics;
use super::truncate;
use super::webhook::Webhook;

/// What takes events.
pub enum Target {
    /// A log, and how its lines look.
    Log(Log, Format),
    /// A server.
    Webhook(Webhook),
}

impl Target {
    fn name(&self) -> &'static str {
        match self {
            Self::Log(..) => "log",
            Self::Webhook(_) => "webhook",
        }
    }

    async fn take(&self, events: &[Arc<Event>]) -> Result<(), String> {
        match self {
            Self::Log(log, format) => {
                events.iter().try_for_each(|event| write(log, *format, event))
            }
            Self::Webhook(webhook) => webhook.send(events).await,
        }
    }
}

fn write(log: &Log, format: Format, event: &Event) -> Result<(), String> {
    let line = match format {
        Format::Json => event.to_json(),
        Format::Legacy => event.to_legacy(),
    };
    log.write(&line).map_err(|error| error.to_string())
}

/// A target, what it can bear, and who counts what it loses.
pub struct Destination {
    target: Target,
    truncate: Option<TruncateOptions>,
    metrics: Metrics,
}

impl Destination {
    /// All of it.
    pub fn new(target: Target, truncate: Option<TruncateOptions>, metrics: Metrics) -> Self {
        Self { target, truncate, metrics }
    }

    /// The event in a size that the target can bear; one that has none is lost.
    fn fit(&self, event: &Arc<Event>) -> Option<Arc<Event>> {
        let Some(limits) = &self.truncate else { return Some(event.clone()) };
        let fitting = truncate::fit(event, limits);
        if fitting.is_none() {
            self.metrics.failed("truncate", 1);
            let error = "event is too large even after truncating";
            tracing::error!(backend = self.target.name(), error, "audit event lost");
        }
        fitting
    }

    async fn deliver(&self, batch: &mut Vec<Arc<Event>>) {
        let parts = match &self.truncate {
            Some(limits) => truncate::split(batch, limits),
            None => vec![batch.as_slice()],
        };
        for part in parts {
            if let Err(error) = self.target.take(part).await {
                self.failed(part.len() as u64, &error);
            }
        }
        batch.clear();
    }

    fn failed(&self, events: u64, error: &str) {
        self.metrics.failed(self.target.name(), events);
        tracing::error!(backend = self.target.name(), events, error, "audit events lost");
    }
}

/// A destination with its manner of being fed.
pub struct Backend {
    to: Arc<Destination>,
    mode: Mode,
    queue: mpsc::Sender<Arc<Event>>,
}

impl Backend {
    /// A backend and the task that feeds it, which ends once `stop` is cancelled and all is delivered.
    pub fn new(
        to: Destination,
        mode: Mode,
        options: BatchOptions,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, events) = mpsc::channel(options.buffer_size.max(1));
        let to = Arc::new(to);
        let feed = feed(to.clone(), events, options, stop);
        (Self { to, mode, queue }, feed)
    }

    /// Takes an event; depending on the mode it has arrived when this returns.
    ///
    /// # Errors
    /// Only in the strict mode: the event is lost, so the request must not go on.
    pub async fn accept(&self, event: &Arc<Event>) -> Result<(), String> {
        let Some(event) = self.to.fit(event) else { return Ok(()) };
        if self.mode == Mode::Batch {
            self.enqueue(event);
            return Ok(());
        }
        let taken = self.to.target.take(std::slice::from_ref(&event)).await;
        let Err(error) = taken else { return Ok(()) };
        self.to.failed(1, &error);
        if self.mode == Mode::BlockingStrict { Err(error) } else { Ok(()) }
    }

    /// Takes an event where nobody can wait: when an answer ends, or breaks off.
    pub fn accept_late(&self, event: &Arc<Event>) {
        let Some(event) = self.to.fit(event) else { return };
        match (&self.to.target, self.mode) {
            (Target::Log(log, format), Mode::Blocking | Mode::BlockingStrict) => {
                if let Err(error) = write(log, *format, &event) {
                    self.to.failed(1, &error);
                }
            }
            _ => self.enqueue(event),
        }
    }

    fn enqueue(&self, event: Arc<Event>) {
        if self.queue.try_send(event).is_err() {
            self.to.failed(1, "the buffer is full");
        }
    }
}

/// Collects events into batches and delivers them, not faster than allowed.
async fn feed(
    to: Arc<Destination>,
    mut events: mpsc::Receiver<Arc<Event>>,
    options: BatchOptions,
    stop: CancellationToken,
) {
    let mut allowance = Allowance::new(options.qps, options.burst);
    let most = options.max_size.max(1);
    let mut batch = Vec::with_capacity(most);
    loop {
        let n = tokio::select! {
            biased;
            n = events.recv_many(&mut batch, most) => n,
            () = stop.cancelled() => 0,
        };
        if n == 0 {
            break;
        }
        let full = fill(&mut events, &mut batch, most);
        tokio::select! {
            () = full => (),
            () = tokio::time::sleep(options.max_wait) => (),
            () = stop.cancelled() => (),
        }
        tokio::time::sleep_until(allowance.take(tokio::time::Instant::now())).await;
        to.deliver(&mut batch).await;
    }
    events.close();
    while events.recv_many(&mut batch, most).await > 0 {
        to.deliver(&mut batch).await;
    }
}

async fn fill(events: &mut mpsc::Receiver<Arc<Event>>, batch: &mut Vec<Arc<Event>>, most: usize) {
    while batch.len() < most {
        let room = most - batch.len();
        if events.recv_many(batch, room).await == 0 {
            return;
        }
    }
}

/// Lets through `burst` at once, then so many a second.
struct Allowance {
    /// Pause that pays for one batch; zero is no limit.
    price: Duration,
    /// Up to when everything is paid for.
    paid: tokio::time::Instant,
    credit: Duration,
}

impl Allowance {
    fn new(qps: f32, burst: u32) -> Self {
        let price =
            if qps > 0.0 { Duration::from_secs_f64(1.0 / f64::from(qps)) } else { Duration::ZERO };
        Self { price, paid: tokio::time::Instant::now(), credit: price * burst }
    }

    /// When the next batch may go.
    fn take(&mut self, now: tokio::time::Instant) -> tokio::time::Instant {
        self.paid = self.paid.max(now) + self.price;
        self.paid.checked_sub(self.credit).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let now = tokio::time::Instant::now();
        let mut allowance = Allowance::new(10.0, 5);
        let waits: Vec<u128> = (0..8)
            .map(|_| allowance.take(now))
            .map(|at| at.saturating_duration_since(now).as_millis())
            .collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 100, 200, 300]);
        // An idle time pays for another burst, and for no more.
        let later = now + Duration::from_secs(60);
        assert!((0..5).all(|_| allowance.take(later) <= later));
        assert_eq!(allowance.take(later) - later, Duration::from_millis(100));
    }
}
