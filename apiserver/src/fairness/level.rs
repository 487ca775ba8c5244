//! A priority level at work: its queues under a lock that is never held while anybody waits, and the permits
//! that requests hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::borrow::{Bounds, Smoothed};
use super::metrics::{Refused, SchemaMetrics};
use super::queues::{Arrival, Asked, QueueSet, Reason, Shape, Ticket};
use super::retry_after::RetryAfter;
use super::work::Estimate;

/// Wakes a request that waits.
pub type Waker = oneshot::Sender<()>;

/// One level. It lives on while requests hold permits of it, even if its object is gone.
#[derive(Debug)]
pub struct Level {
    /// Its name.
    pub name: String,
    epoch: Instant,
    queues: Mutex<QueueSet<Waker>>,
    demand: Mutex<Smoothed>,
    retry_after: Mutex<RetryAfter>,
}

/// Seats of a level whose requests are never held back.
pub const UNLIMITED: u32 = u32::MAX;

impl Level {
    /// A level; times are counted from `epoch` on.
    pub fn new(name: &str, epoch: Instant, shape: Shape, limit: u32) -> Self {
        Self {
            name: name.to_owned(),
            epoch,
            queues: Mutex::new(QueueSet::new(shape, limit)),
            demand: Mutex::default(),
            retry_after: Mutex::default(),
        }
    }

    /// Takes over another shape and limit.
    pub fn configure(&self, shape: Shape, limit: u32) {
        let now = self.epoch.elapsed();
        wake(self.queues.lock().configure(now, shape, limit));
    }

    /// Seats of its own at the start, before the first adjustment.
    pub fn first_limit(exempt: bool, bounds: Bounds) -> u32 {
        if exempt { UNLIMITED } else { bounds.nominal }
    }

    /// Takes back seats of requests that run for longer than `most`.
    pub fn evict(&self, most: Duration) {
        let now = self.epoch.elapsed();
        wake(self.queues.lock().evict(now, most));
    }

    /// Ends a period of observation; answers what is wanted now.
    pub fn observe(&self) -> Smoothed {
        let observed = self.queues.lock().take_demand(self.epoch.elapsed());
        let mut demand = self.demand.lock();
        demand.update(observed);
        *demand
    }

    /// What was wanted at the last observation.
    pub fn demand(&self) -> Smoothed {
        *self.demand.lock()
    }

    /// Looks at the queues.
    pub fn look<R>(&self, look: impl FnOnce(&QueueSet<Waker>) -> R) -> R {
        look(&self.queues.lock())
    }

    /// A request was refused; how many seconds its client is told to wait.
    pub fn retry_after(&self) -> u64 {
        self.retry_after.lock().refused(self.epoch.elapsed().as_secs())
    }

    /// Lets a request in, puts it into a queue, or refuses it.
    pub fn admit(
        self: &Arc<Self>,
        flow: u64,
        estimate: Estimate,
        metrics: &Arc<SchemaMetrics>,
    ) -> Admission {
        let asked = Asked { flow, seats: estimate.seats, after: estimate.work_after() };
        metrics.estimated.observe(estimate.seats.into());
        let started = Instant::now();
        let mut woken = None;
        let arrival = self.queues.lock().arrive(started - self.epoch, asked, |_| {
            let (waker, wait) = oneshot::channel();
            woken = Some(wait);
            waker
        });
        let permit = |ticket| Permit {
            level: self.clone(),
            metrics: metrics.clone(),
            ticket,
            estimate,
            since: started,
            state: State::Waiting,
        };
        match (arrival, woken) {
            (Arrival::Runs(ticket), _) => Admission::Runs(permit(ticket).run(started)),
            (Arrival::Waits(ticket), Some(woken)) => {
                metrics.in_queue.inc();
                metrics.in_queue_seats.inc_by(estimate.seats.into());
                Admission::Waits(Waiting { permit: permit(ticket), woken })
            }
            (Arrival::QueueFull, _) => self.refuse(metrics, Refused::QueueFull),
            (Arrival::NoSeat | Arrival::Waits(_), _) => self.refuse(metrics, Refused::NoSeat),
        }
    }

    fn refuse(&self, metrics: &SchemaMetrics, why: Refused) -> Admission {
        metrics.refused(why);
        metrics.waited_in_vain.observe(0.0);
        Admission::Refused { retry_after: self.retry_after() }
    }

    fn leave(&self, ticket: Ticket, reason: Reason) {
        let now = self.epoch.elapsed();
        let woken = self.queues.lock().leave(now, ticket, reason);
        wake(woken);
    }
}

fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        // Whoever is gone gives its seat back as its permit is dropped.
        let _ = waker.send(());
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Admission {
    /// It runs while the permit is held.
    Runs(Permit),
    /// It is in a queue.
    Waits(Waiting),
    /// There is no place for it.
    Refused {
        /// Seconds that the client is told to wait.
        retry_after: u64,
    },
}

/// A request in a queue; dropped, it leaves the queue.
#[derive(Debug)]
pub struct Waiting {
    permit: Permit,
    woken: oneshot::Receiver<()>,
}

impl Waiting {
    /// Waits for a seat, for at most `patience`.
    ///
    /// # Errors
    /// The seconds that the client is told to wait before it tries again.
    pub async fn seat(self, patience: Duration) -> Result<Permit, u64> {
        let Self { mut permit, woken } = self;
        match tokio::time::timeout(patience, woken).await {
            Ok(Ok(())) => {
                permit.leave_queue();
                Ok(permit.run(Instant::now()))
            }
            Ok(Err(_)) | Err(_) => {
                permit.state = State::TimedOut;
                Err(permit.level.retry_after())
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    TimedOut,
    Running { watch: bool },
}

/// The right to run; dropped, its seats are free for others.
#[derive(Debug)]
pub struct Permit {
    level: Arc<Level>,
    metrics: Arc<SchemaMetrics>,
    ticket: Ticket,
    estimate: Estimate,
    /// When it came, and once it runs, when it began to.
    since: Instant,
    state: State,
}

impl Permit {
    fn run(mut self, now: Instant) -> Self {
        let metrics = &self.metrics;
        metrics.waited.observe((now - self.since).as_secs_f64());
        metrics.dispatched.inc();
        metrics.executing.inc();
        metrics.executing_seats.inc_by(self.estimate.seats.into());
        self.since = now;
        self.state = State::Running { watch: false };
        self
    }

    /// Counts as a watch, which runs only until its state is sent.
    pub fn of_watch(&mut self) {
        self.state = State::Running { watch: true };
    }

    fn leave_queue(&self) {
        self.metrics.in_queue.dec();
        self.metrics.in_queue_seats.dec_by(self.estimate.seats.into());
    }

    fn stop_waiting(&self, why: Refused, reason: Reason) {
        self.leave_queue();
        self.metrics.refused(why);
        self.metrics.waited_in_vain.observe(self.since.elapsed().as_secs_f64());
        self.level.leave(self.ticket, reason);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let watch = match self.state {
            State::Waiting => return self.stop_waiting(Refused::Cancelled, Reason::Done),
            State::TimedOut => return self.stop_waiting(Refused::TimedOut, Reason::TimedOut),
            State::Running { watch } => watch,
        };
        let metrics = &self.metrics;
        let histogram = if watch { &metrics.initialised } else { &metrics.ran };
        histogram.observe(self.since.elapsed().as_secs_f64());
        metrics.executing.dec();
        metrics.executing_seats.dec_by(self.estimate.seats.into());
        let (level, ticket, after) = (self.level.clone(), self.ticket, self.estimate.after);
        if after.is_zero() {
            return level.leave(ticket, Reason::Done);
        }
        // Its watchers are still being served.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    tokio::time::sleep(after).await;
                    level.leave(ticket, Reason::Done);
                });
            }
            Err(_) => level.leave(ticket, Reason::Done),
        }
    }
}
