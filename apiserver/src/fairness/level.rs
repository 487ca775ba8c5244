//! A priority level at work: its queues under a lock that is never held while anybody waits, and the permits
//! that requests hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::borrow::Smoothed;
use super::metrics::{Refused, SchemaMetrics};
use super::queues::{Arrival, Asked, QueueSet, Reason, Shape, Ticket};
use super::retry_after::RetryAfter;
use super::utilization::{Load, Meters};
use super::work::Estimate;
use crate::request::RequestInfo;

/// Wakes a request that waits.
pub type Waker = oneshot::Sender<()>;

/// What people see of a request in the tables of what waits and runs.
#[derive(Debug)]
pub struct Note {
    /// Its schema.
    pub metrics: Arc<SchemaMetrics>,
    /// What tells its flow from others of the schema.
    pub distinguisher: String,
    /// What it was believed to take.
    pub estimate: Estimate,
    /// Who sent it.
    pub user: String,
    /// What it asks for.
    pub info: RequestInfo,
}

/// Queues of a level.
pub type Queues = QueueSet<Waker, Box<Note>>;

/// Seats of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// How many may be taken.
    limit: u32,
    /// How many there are when it is asked how full the level is.
    measure: u32,
}

impl Capacity {
    /// Of a level that has `seats` of the `server`'s. Requests of an exempt one are never held back. A level
    /// that has none is measured by a tenth of the server's.
    pub fn new(exempt: bool, seats: u32, server: u32) -> Self {
        let measure = if seats > 0 { seats } else { (server / 10).max(1) };
        Self { limit: if exempt { u32::MAX } else { seats }, measure }
    }
}

/// The queues and what is measured of them, which change together.
#[derive(Debug)]
struct Measured {
    queues: Queues,
    meters: Meters,
}

/// One level. It lives on while requests hold permits of it, even if its object is gone.
#[derive(Debug)]
pub struct Level {
    /// Its name.
    pub name: String,
    epoch: Instant,
    measured: Mutex<Measured>,
    demand: Mutex<Smoothed>,
    retry_after: Mutex<RetryAfter>,
}

impl Level {
    /// A level; times are counted from `epoch` on.
    pub fn new(name: &str, epoch: Instant, shape: Shape, capacity: Capacity) -> Self {
        let queues = QueueSet::new(shape, capacity.limit);
        let level = Self {
            name: name.to_owned(),
            epoch,
            measured: Mutex::new(Measured { queues, meters: Meters::new(epoch.elapsed()) }),
            demand: Mutex::default(),
            retry_after: Mutex::default(),
        };
        level.configure(shape, capacity);
        level
    }

    /// Takes over another shape and other seats.
    pub fn configure(&self, shape: Shape, capacity: Capacity) {
        let now = self.epoch.elapsed();
        let room = shape.queues.max(1) * shape.length.max(1);
        self.measured.lock().meters.measure_by(now, capacity.measure, room);
        wake(self.change(now, |queues| queues.configure(now, shape, capacity.limit)));
    }

    /// Takes back seats of requests that run for longer than `most`.
    pub fn evict(&self, most: Duration) {
        let now = self.epoch.elapsed();
        wake(self.change(now, |queues| queues.evict(now, most)));
    }

    /// The only way to change the queues: what is measured follows.
    fn change<R>(&self, now: Duration, change: impl FnOnce(&mut Queues) -> R) -> R {
        let mut measured = self.measured.lock();
        let Measured { queues, meters } = &mut *measured;
        let result = change(queues);
        let load = Load {
            waiting: queues.n_waiting() as f64,
            running: queues.n_running() as f64,
            seats: queues.seats_in_use().into(),
            demand: queues.demand().into(),
        };
        meters.set(now, load);
        if let Some(note) = queues.held_back() {
            note.metrics.not_accommodated.inc();
        }
        result
    }

    /// Ends a period of observation; answers what is wanted now.
    pub fn observe(&self) -> Smoothed {
        let observed = self.measured.lock().queues.take_demand(self.epoch.elapsed());
        let mut demand = self.demand.lock();
        demand.update(observed);
        *demand
    }

    /// What was wanted at the last observation.
    pub fn demand(&self) -> Smoothed {
        *self.demand.lock()
    }

    /// Looks at the queues.
    pub fn look<R>(&self, look: impl FnOnce(&Queues) -> R) -> R {
        look(&self.measured.lock().queues)
    }

    /// How full it was, up to now.
    pub fn meters(&self) -> Meters {
        self.measured.lock().meters.until(self.epoch.elapsed())
    }

    /// A request was refused; how many seconds its client is told to wait.
    pub fn retry_after(&self) -> u64 {
        self.retry_after.lock().refused(self.epoch.elapsed().as_secs())
    }

    /// Lets a request in, puts it into a queue, or refuses it.
    pub fn admit(self: &Arc<Self>, flow: u64, note: Note) -> Admission {
        let (estimate, metrics) = (note.estimate, &note.metrics.clone());
        let (seats, after) = (estimate.seats, estimate.work_after());
        let asked = Asked { flow, seats, after, note: Box::new(note) };
        metrics.estimated.observe(estimate.seats.into());
        if let Some(watchers) = estimate.watchers {
            metrics.watchers.observe(watchers as f64);
        }
        let started = Instant::now();
        let now = started - self.epoch;
        let mut woken = None;
        let (arrival, length) = self.change(now, |queues| {
            let arrival = queues.arrive(now, asked, |_| {
                let (waker, wait) = oneshot::channel();
                woken = Some(wait);
                waker
            });
            let length = match arrival {
                Arrival::Waits(ticket) => queues.length_around(ticket),
                Arrival::Runs(_) | Arrival::NoSeat | Arrival::QueueFull => 0,
            };
            (arrival, length)
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
                metrics.queue_length.observe(length as f64);
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
        wake(self.change(now, |queues| queues.leave(now, ticket, reason)));
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
