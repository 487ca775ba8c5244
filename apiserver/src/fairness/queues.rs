//! The fair queues of one priority level, as a state machine: no clock, no lock, no waker.
//!
//! Time comes in as the age of the server; a request that may run comes out as the waiter that was put in.
//! Each queue has a virtual clock that says how much work it was given; the queue that is furthest behind
//! is served next. A wide request that does not fit yet holds the others back, so that it does not starve.
//!
//! Source: KEP-1040, "Fair Queuing for Server Requests"; constants of upstream's
//! `apiserver/pkg/util/flowcontrol/fairqueuing`.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashMap;

use super::demand::{Demand, Observed};
use super::shuffle::deal;

/// What a request is believed to take, until it is known, in seconds.
const GUESS: f64 = 0.003;

/// How a level queues; `queues` 0 refuses what does not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Queues of the level.
    pub queues: usize,
    /// Queues that one flow may use.
    pub hand: usize,
    /// Requests that may wait in one queue.
    pub length: usize,
}

/// Names a request inside its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What a request asks of its level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked<N = ()> {
    /// Stands for the flow; its requests share queues.
    pub flow: u64,
    /// Seats that it occupies, at least one.
    pub seats: u32,
    /// Work that it causes after its end (for watchers), in seat-seconds.
    pub after: f64,
    /// What others want to know of it; nothing is decided by it.
    pub note: N,
}

/// What became of a request that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It runs.
    Runs(Ticket),
    /// It waits; its waiter comes out of a later call.
    Waits(Ticket),
    /// There is no seat, and this level does not queue.
    NoSeat,
    /// Its queue is full.
    QueueFull,
}

/// Why a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has ended, or its client has gone.
    Done,
    /// It has waited for too long.
    TimedOut,
}

/// Numbers that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that ran.
    pub dispatched: u64,
    /// Requests that were refused.
    pub rejected: u64,
    /// Requests that waited for too long.
    pub timed_out: u64,
    /// Requests whose clients went while they waited.
    pub cancelled: u64,
}

/// A queue as people see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Requests that wait.
    pub waiting: usize,
    /// Requests that run.
    pub running: usize,
    /// Seats in use.
    pub seats: u32,
    /// Virtual time at which its next request begins.
    pub next: f64,
    /// Seats waited for.
    pub wanted: u32,
    /// Work waited for, in seat-seconds.
    pub work: f64,
}

/// A request as people see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen<'a, N> {
    /// Its queue; none in a level without queues.
    pub queue: Option<usize>,
    /// Its place in the queue, while it waits.
    pub place: Option<usize>,
    /// When it came.
    pub came: Duration,
    /// When it began to run.
    pub started: Option<Duration>,
    /// What it asked for.
    pub asked: &'a Asked<N>,
}

/// The last time that a queue was served, in virtual time: seat-seconds that each queue was given.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    /// When it was.
    pub at: f64,
    /// When the request began that was let run.
    pub start: f64,
    /// The first and the last of the times at which the queues' heads begin.
    pub starts: (f64, f64),
    /// The same, less the work that the queues' running requests are believed to take.
    pub discounted: (f64, f64),
}

#[derive(Debug)]
struct Waiting<T, N> {
    ticket: Ticket,
    asked: Asked<N>,
    came: Duration,
    /// Virtual time of its arrival.
    since: f64,
    waiter: T,
}

#[derive(Debug)]
struct Running<N> {
    queue: Option<usize>,
    asked: Asked<N>,
    came: Duration,
    started: Duration,
}

#[derive(Debug)]
struct Queue<T, N> {
    waiting: VecDeque<Waiting<T, N>>,
    /// Virtual time at which its next request begins.
    next: f64,
    running: usize,
    /// Seats of those that run.
    seats: u32,
    /// Seats of those that wait.
    wanted: u32,
}

impl<T, N> Default for Queue<T, N> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), next: 0.0, running: 0, seats: 0, wanted: 0 }
    }
}

impl<T, N> Queue<T, N> {
    fn is_active(&self) -> bool {
        self.running > 0 || !self.waiting.is_empty()
    }

    /// When its head begins. A queue that could not use its turns does not save them up.
    fn start(&self) -> Option<f64> {
        Some(self.next.max(self.waiting.front()?.since))
    }
}

/// The queues of one level. `T` wakes whoever waits, `N` is noted of each request.
#[derive(Debug)]
pub struct QueueSet<T, N = ()> {
    shape: Shape,
    limit: u32,
    queues: Vec<Queue<T, N>>,
    running: HashMap<Ticket, Running<N>>,
    waiting: HashMap<Ticket, usize>,
    in_use: u32,
    wanted: u32,
    active: usize,
    virtual_now: f64,
    at: Duration,
    last: usize,
    tickets: u64,
    demand: Demand,
    counts: Counts,
    served: Option<Served>,
}

impl<T, N> QueueSet<T, N> {
    /// Queues of this shape, over `limit` seats.
    pub fn new(shape: Shape, limit: u32) -> Self {
        Self {
            shape,
            limit,
            queues: (0..shape.queues).map(|_| Queue::default()).collect(),
            running: HashMap::new(),
            waiting: HashMap::new(),
            in_use: 0,
            wanted: 0,
            active: 0,
            virtual_now: 0.0,
            at: Duration::ZERO,
            last: 0,
            tickets: 0,
            demand: Demand::default(),
            counts: Counts::default(),
            served: None,
        }
    }

    /// A request comes; `waiter` is made only if it has to wait.
    pub fn arrive(
        &mut self,
        now: Duration,
        asked: Asked<N>,
        waiter: impl FnOnce(Ticket) -> T,
    ) -> Arrival {
        self.advance(now);
        let ticket = Ticket(self.tickets);
        let queue = self.choose(asked.flow);
        if self.waiting.is_empty() && self.fits(asked.seats) {
            self.tickets += 1;
            self.start(ticket, asked, queue);
            self.note_demand();
            return Arrival::Runs(ticket);
        }
        let Some(queue) = queue else {
            self.counts.rejected += 1;
            return Arrival::NoSeat;
        };
        if self.queues[queue].waiting.len() >= self.shape.length {
            self.counts.rejected += 1;
            return Arrival::QueueFull;
        }
        self.tickets += 1;
        let (came, since, waiter) = (self.at, self.virtual_now, waiter(ticket));
        self.enqueue(queue, Waiting { ticket, asked, came, since, waiter });
        self.note_demand();
        Arrival::Waits(ticket)
    }

    /// A request goes, whether it waits or runs; answers the waiters of those that may run now.
    pub fn leave(&mut self, now: Duration, ticket: Ticket, reason: Reason) -> Vec<T> {
        self.advance(now);
        if let Some(running) = self.running.remove(&ticket) {
            self.stop(&running);
        } else if let Some(queue) = self.waiting.remove(&ticket) {
            self.withdraw(queue, ticket);
            match reason {
                Reason::Done => self.counts.cancelled += 1,
                Reason::TimedOut => self.counts.timed_out += 1,
            }
        }
        let woken = self.dispatch();
        self.note_demand();
        woken
    }

    /// Takes over another shape and limit; those that wait are dealt anew.
    pub fn configure(&mut self, now: Duration, shape: Shape, limit: u32) -> Vec<T> {
        self.advance(now);
        self.limit = limit;
        if self.shape != shape {
            self.reshape(shape);
        }
        let woken = self.dispatch();
        self.note_demand();
        woken
    }

    /// Gives back the seats of requests that run for longer than `most`: whoever still reads an answer so
    /// slowly has no more claim to a seat.
    pub fn evict(&mut self, now: Duration, most: Duration) -> Vec<T> {
        self.advance(now);
        let late: Vec<Ticket> = self
            .running
            .iter()
            .filter(|(_, running)| now.saturating_sub(running.started) > most)
            .map(|(ticket, _)| *ticket)
            .collect();
        for running in
            late.iter().filter_map(|ticket| self.running.remove(ticket)).collect::<Vec<_>>()
        {
            self.stop(&running);
        }
        let woken = self.dispatch();
        self.note_demand();
        woken
    }

    /// Ends a period of observation.
    pub fn take_demand(&mut self, now: Duration) -> Observed {
        self.demand.take(now)
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Requests that wait.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests that run.
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Seats in use.
    pub fn seats_in_use(&self) -> u32 {
        self.in_use
    }

    /// Seats that may be in use.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Each queue, for people who look.
    pub fn queues(&self) -> impl Iterator<Item = Look> {
        self.queues.iter().map(|q| Look {
            waiting: q.waiting.len(),
            running: q.running,
            seats: q.seats,
            next: q.next,
            wanted: q.wanted,
            work: q.waiting.iter().map(|waiting| work(&waiting.asked, GUESS)).sum(),
        })
    }

    /// Each request, for people who look.
    pub fn requests(&self) -> impl Iterator<Item = Seen<'_, N>> {
        let waiting = self.queues.iter().enumerate().flat_map(|(queue, q)| {
            q.waiting.iter().enumerate().map(move |(place, waiting)| Seen {
                queue: Some(queue),
                place: Some(place),
                came: waiting.came,
                started: None,
                asked: &waiting.asked,
            })
        });
        waiting.chain(self.running.values().map(|running| Seen {
            queue: running.queue,
            place: None,
            came: running.came,
            started: Some(running.started),
            asked: &running.asked,
        }))
    }

    /// Requests in the queue of one that waits, itself among them.
    pub fn length_around(&self, ticket: Ticket) -> usize {
        self.waiting.get(&ticket).map_or(0, |queue| self.queues[*queue].waiting.len())
    }

    /// The note of the request that would run next, while seats are free but too few for it.
    pub fn held_back(&self) -> Option<&N> {
        if self.in_use >= self.limit {
            return None;
        }
        let head = self.queues[self.next()?].waiting.front()?;
        (!self.fits(head.asked.seats)).then_some(&head.asked.note)
    }

    /// Seats in use or waited for.
    pub fn demand(&self) -> u32 {
        self.in_use + self.wanted
    }

    /// Seat-seconds that each busy queue was given so far.
    pub fn virtual_now(&self) -> f64 {
        self.virtual_now
    }

    /// The last time that a queue was served.
    pub fn served(&self) -> Option<Served> {
        self.served
    }

    /// Of the queues that the flow is dealt, the one with the least work before it.
    fn choose(&self, flow: u64) -> Option<usize> {
        deal(flow, self.queues.len(), self.shape.hand)
            .min_by_key(|queue| self.queues[*queue].wanted + self.queues[*queue].seats)
    }

    fn fits(&self, seats: u32) -> bool {
        // A request that is wider than the whole level runs alone.
        self.in_use == 0 || self.in_use.saturating_add(seats) <= self.limit
    }

    fn enqueue(&mut self, at: usize, waiting: Waiting<T, N>) {
        let queue = &mut self.queues[at];
        if !queue.is_active() {
            self.active += 1;
            queue.next = self.virtual_now;
        }
        queue.wanted += waiting.asked.seats;
        self.wanted += waiting.asked.seats;
        self.waiting.insert(waiting.ticket, at);
        queue.waiting.push_back(waiting);
    }

    fn withdraw(&mut self, at: usize, ticket: Ticket) {
        let queue = &mut self.queues[at];
        let Some(place) = queue.waiting.iter().position(|w| w.ticket == ticket) else { return };
        if let Some(waiting) = queue.waiting.remove(place) {
            queue.wanted -= waiting.asked.seats;
            self.wanted -= waiting.asked.seats;
        }
        self.active -= usize::from(!self.queues[at].is_active());
    }

    fn start(&mut self, ticket: Ticket, asked: Asked<N>, at: Option<usize>) {
        if let Some(at) = at {
            let queue = &mut self.queues[at];
            if !queue.is_active() {
                self.active += 1;
                queue.next = self.virtual_now;
            }
            let (start, discounted) = (queue.next, queue.next - f64::from(queue.seats) * GUESS);
            self.served = Some(Served {
                at: self.virtual_now,
                start,
                starts: (start, start),
                discounted: (discounted, discounted),
            });
            queue.running += 1;
            queue.seats += asked.seats;
            queue.next += work(&asked, GUESS);
        }
        self.in_use += asked.seats;
        self.counts.dispatched += 1;
        let running = Running { queue: at, asked, came: self.at, started: self.at };
        self.running.insert(ticket, running);
    }

    fn stop(&mut self, running: &Running<N>) {
        self.in_use -= running.asked.seats;
        let Some(queue) = running.queue.and_then(|at| self.queues.get_mut(at)) else { return };
        queue.running -= 1;
        queue.seats -= running.asked.seats;
        // The guess becomes what it really took.
        let took = self.at.saturating_sub(running.started).as_secs_f64();
        queue.next += work(&running.asked, took) - work(&running.asked, GUESS);
        self.active -= usize::from(!queue.is_active());
    }

    /// Lets run what fits, in the order of virtual finish times.
    fn dispatch(&mut self) -> Vec<T> {
        let mut woken = Vec::new();
        while let Some(at) = self.next() {
            let fits = self.queues[at].waiting.front().is_some_and(|w| self.fits(w.asked.seats));
            if !fits {
                break;
            }
            self.served = self.serving(at);
            let queue = &mut self.queues[at];
            queue.next = queue.start().unwrap_or(queue.next);
            let Some(waiting) = queue.waiting.pop_front() else { break };
            queue.wanted -= waiting.asked.seats;
            self.wanted -= waiting.asked.seats;
            // It stays active: what waited runs now.
            queue.running += 1;
            queue.seats += waiting.asked.seats;
            queue.next += work(&waiting.asked, GUESS);
            self.in_use += waiting.asked.seats;
            self.counts.dispatched += 1;
            let Waiting { ticket, asked, came, waiter, .. } = waiting;
            self.waiting.remove(&ticket);
            let running = Running { queue: Some(at), asked, came, started: self.at };
            self.running.insert(ticket, running);
            self.last = at;
            woken.push(waiter);
        }
        woken
    }

    /// What serving the queue `at` now looks like to people.
    fn serving(&self, at: usize) -> Option<Served> {
        let heads = || self.queues.iter().filter_map(|queue| Some((queue.start()?, queue)));
        let bounds = |times: &mut dyn Iterator<Item = f64>| {
            times.fold((f64::INFINITY, f64::NEG_INFINITY), |(first, last), time| {
                (time.min(first), time.max(last))
            })
        };
        Some(Served {
            at: self.virtual_now,
            start: self.queues[at].start()?,
            starts: bounds(&mut heads().map(|(start, _)| start)),
            discounted: bounds(
                &mut heads().map(|(start, queue)| start - f64::from(queue.seats) * GUESS),
            ),
        })
    }

    /// The queue whose head would finish first; among equals the one after the last.
    fn next(&self) -> Option<usize> {
        if self.waiting.is_empty() {
            return None;
        }
        let finish = |at: &usize| {
            let queue = &self.queues[*at];
            let head = queue.waiting.front()?;
            Some(queue.start()? + work(&head.asked, GUESS))
        };
        let n = self.queues.len();
        let candidates = (1..=n).map(|step| (self.last + step) % n);
        let finishes = candidates.filter_map(|at| Some((at, finish(&at)?)));
        finishes.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
    }

    fn reshape(&mut self, shape: Shape) {
        let old = std::mem::take(&mut self.queues);
        self.queues = (0..shape.queues.max(1)).map(|_| Queue::default()).collect();
        self.shape = shape;
        self.waiting.clear();
        self.running.values_mut().for_each(|running| running.queue = None);
        (self.wanted, self.active, self.last) = (0, 0, 0);
        let mut waiting: Vec<Waiting<T, N>> =
            old.into_iter().flat_map(|queue| queue.waiting).collect();
        waiting.sort_by_key(|waiting| waiting.ticket);
        for waiting in waiting {
            // Who waits already goes on waiting, even where nobody else may begin to.
            let queue = self.choose(waiting.asked.flow).unwrap_or(0);
            self.enqueue(queue, waiting);
        }
        if shape.queues == 0 && self.waiting.is_empty() {
            self.queues.clear();
        }
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        if self.active > 0 {
            let served = f64::from(self.limit.min(self.in_use + self.wanted));
            self.virtual_now += passed * served / self.active as f64;
        }
        self.at = self.at.max(now);
    }

    fn note_demand(&mut self) {
        self.demand.set(self.at, f64::from(self.demand()));
    }
}

/// Work of a request that takes `seconds`, in seat-seconds.
fn work<N>(asked: &Asked<N>, seconds: f64) -> f64 {
    f64::from(asked.seats) * seconds + asked.after
}

#[cfg(test)]
mod tests;
