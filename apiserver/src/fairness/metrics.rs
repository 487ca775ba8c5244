//! `apiserver_flowcontrol_*`, in upstream's names. Handles are made once a schema, so that a request looks
//! nothing up.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of waiting and running times, in seconds, as upstream has them.
const SECONDS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
/// Upper bounds of lengths of queues.
const LENGTHS: [f64; 8] = [0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
/// Upper bounds of numbers of watchers.
const WATCHERS: [f64; 6] = [0.0, 1.0, 10.0, 100.0, 1000.0, 10_000.0];
/// Upper bounds of estimated seats.
const SEATS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLevel {
    priority_level: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSchema {
    priority_level: String,
    flow_schema: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejection {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Wait {
    priority_level: String,
    flow_schema: String,
    execute: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Execution {
    priority_level: String,
    flow_schema: String,
    r#type: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
type Fractional = Gauge<f64, std::sync::atomic::AtomicU64>;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its queue was full.
    QueueFull,
    /// No seat was free, and its level has no queues.
    NoSeat,
    /// It waited for too long.
    TimedOut,
    /// Its client went away.
    Cancelled,
}

/// Everything that priority and fairness count.
#[derive(Debug)]
pub struct Metrics {
    rejected: Family<Rejection, Counter>,
    dispatched: Family<OfSchema, Counter>,
    in_queue: Family<OfSchema, Gauge>,
    in_queue_seats: Family<OfSchema, Gauge>,
    executing: Family<OfSchema, Gauge>,
    executing_seats: Family<OfSchema, Gauge>,
    wait: Histograms<Wait>,
    execution: Histograms<Execution>,
    estimated: Histograms<OfSchema>,
    queue_length: Histograms<OfSchema>,
    watchers: Histograms<OfSchema>,
    not_accommodated: Family<OfSchema, Counter>,
    nominal: Family<OfLevel, Gauge>,
    lower: Family<OfLevel, Gauge>,
    upper: Family<OfLevel, Gauge>,
    current: Family<OfLevel, Gauge>,
    demand_high: Family<OfLevel, Fractional>,
    demand_average: Family<OfLevel, Fractional>,
    demand_deviation: Family<OfLevel, Fractional>,
    demand_smoothed: Family<OfLevel, Fractional>,
    target: Family<OfLevel, Fractional>,
    fair_fraction: Fractional,
}

impl Metrics {
    /// Makes them and puts them into a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        let metrics = Self {
            rejected: Family::default(),
            dispatched: Family::default(),
            in_queue: Family::default(),
            in_queue_seats: Family::default(),
            executing: Family::default(),
            executing_seats: Family::default(),
            wait: Family::new_with_constructor(seconds),
            execution: Family::new_with_constructor(seconds),
            estimated: Family::new_with_constructor(|| Histogram::new(SEATS)),
            queue_length: Family::new_with_constructor(|| Histogram::new(LENGTHS)),
            watchers: Family::new_with_constructor(|| Histogram::new(WATCHERS)),
            not_accommodated: Family::default(),
            nominal: Family::default(),
            lower: Family::default(),
            upper: Family::default(),
            current: Family::default(),
            demand_high: Family::default(),
            demand_average: Family::default(),
            demand_deviation: Family::default(),
            demand_smoothed: Family::default(),
            target: Family::default(),
            fair_fraction: Fractional::default(),
        };
        metrics.put_into(registry.sub_registry_with_prefix("apiserver_flowcontrol"));
        metrics
    }

    fn put_into(&self, r: &mut Registry) {
        r.register("rejected_requests", "Refused requests", self.rejected.clone());
        r.register("dispatched_requests", "Requests that ran", self.dispatched.clone());
        r.register("current_inqueue_requests", "Requests that wait", self.in_queue.clone());
        r.register("current_inqueue_seats", "Seats waited for", self.in_queue_seats.clone());
        r.register("current_executing_requests", "Requests that run", self.executing.clone());
        r.register("current_executing_seats", "Seats in use", self.executing_seats.clone());
        r.register("request_wait_duration_seconds", "Time in a queue", self.wait.clone());
        r.register("request_execution_seconds", "Time on a seat", self.execution.clone());
        r.register("work_estimated_seats", "Seats a request takes", self.estimated.clone());
        let length = "Requests in a queue, as one that begins to wait sees it";
        r.register("request_queue_length_after_enqueue", length, self.queue_length.clone());
        r.register("watch_count_samples", "Watchers that a change is told", self.watchers.clone());
        let held_back = "Times that the next request found seats free, but too few";
        r.register("request_dispatch_no_accommodation", held_back, self.not_accommodated.clone());
        r.register("nominal_limit_seats", "A level's own seats", self.nominal.clone());
        r.register("lower_limit_seats", "Seats that a level keeps", self.lower.clone());
        r.register("upper_limit_seats", "Seats that a level may have", self.upper.clone());
        r.register("current_limit_seats", "Seats that a level has now", self.current.clone());
        r.register("demand_seats_high_watermark", "Most seats wanted", self.demand_high.clone());
        r.register("demand_seats_average", "Mean of wanted seats", self.demand_average.clone());
        r.register("demand_seats_stdev", "Spread of wanted seats", self.demand_deviation.clone());
        r.register("demand_seats_smoothed", "Wanted seats, smoothed", self.demand_smoothed.clone());
        r.register("target_seats", "Seats that a level should have", self.target.clone());
        r.register(
            "seat_fair_frac",
            "Part of its target given to each",
            self.fair_fraction.clone(),
        );
    }

    /// Handles for one schema at one level.
    pub fn of_schema(&self, level: &str, schema: &str) -> Arc<SchemaMetrics> {
        let of = OfSchema { priority_level: level.to_owned(), flow_schema: schema.to_owned() };
        let rejected = |reason| {
            let (priority_level, flow_schema) = (level.to_owned(), schema.to_owned());
            self.rejected.get_or_create_owned(&Rejection { priority_level, flow_schema, reason })
        };
        let wait = |execute| {
            let (priority_level, flow_schema) = (level.to_owned(), schema.to_owned());
            self.wait.get_or_create_owned(&Wait { priority_level, flow_schema, execute })
        };
        let execution = |r#type| {
            let (priority_level, flow_schema) = (level.to_owned(), schema.to_owned());
            self.execution.get_or_create_owned(&Execution { priority_level, flow_schema, r#type })
        };
        Arc::new(SchemaMetrics {
            queue_full: rejected("queue-full"),
            no_seat: rejected("concurrency-limit"),
            timed_out: rejected("time-out"),
            cancelled: rejected("cancelled"),
            dispatched: self.dispatched.get_or_create_owned(&of),
            in_queue: self.in_queue.get_or_create_owned(&of),
            in_queue_seats: self.in_queue_seats.get_or_create_owned(&of),
            executing: self.executing.get_or_create_owned(&of),
            executing_seats: self.executing_seats.get_or_create_owned(&of),
            waited: wait("true"),
            waited_in_vain: wait("false"),
            ran: execution("regular"),
            initialised: execution("watch"),
            estimated: self.estimated.get_or_create_owned(&of),
            queue_length: self.queue_length.get_or_create_owned(&of),
            watchers: self.watchers.get_or_create_owned(&of),
            not_accommodated: self.not_accommodated.get_or_create_owned(&of),
            schema: of.flow_schema,
        })
    }

    /// What an adjustment came to, for one level.
    pub fn adjusted(&self, level: &str, wish: &super::borrow::Wish, seats: u32) {
        let of = OfLevel { priority_level: level.to_owned() };
        self.nominal.get_or_create(&of).set(wish.bounds.nominal.into());
        self.lower.get_or_create(&of).set(wish.bounds.least.into());
        self.upper.get_or_create(&of).set(wish.bounds.most.into());
        self.current.get_or_create(&of).set(seats.into());
        self.demand_high.get_or_create(&of).set(wish.demand.observed.high);
        self.demand_average.get_or_create(&of).set(wish.demand.observed.average);
        self.demand_deviation.get_or_create(&of).set(wish.demand.observed.deviation);
        self.demand_smoothed.get_or_create(&of).set(wish.demand.smoothed);
        self.target.get_or_create(&of).set(wish.target());
    }

    /// The fraction of the last adjustment.
    pub fn fair_fraction(&self, fraction: f64) {
        self.fair_fraction.set(fraction);
    }
}

/// Handles of one schema.
#[derive(Debug)]
pub struct SchemaMetrics {
    /// Its name.
    pub schema: String,
    queue_full: Counter,
    no_seat: Counter,
    timed_out: Counter,
    cancelled: Counter,
    /// Requests that ran.
    pub dispatched: Counter,
    /// Requests that wait.
    pub in_queue: Gauge,
    /// Seats waited for.
    pub in_queue_seats: Gauge,
    /// Requests that run.
    pub executing: Gauge,
    /// Seats in use.
    pub executing_seats: Gauge,
    /// Time in a queue of those that ran.
    pub waited: Histogram,
    /// Time in a queue of those that did not.
    pub waited_in_vain: Histogram,
    /// Time on a seat.
    pub ran: Histogram,
    /// The same, of watches until their state was sent.
    pub initialised: Histogram,
    /// Seats a request takes.
    pub estimated: Histogram,
    /// Requests in the queue of one that begins to wait.
    pub queue_length: Histogram,
    /// Watchers that a change is told to.
    pub watchers: Histogram,
    /// Times that one was next, and free seats too few for it.
    pub not_accommodated: Counter,
}

impl SchemaMetrics {
    /// Counts a refusal.
    pub fn refused(&self, why: Refused) {
        match why {
            Refused::QueueFull => self.queue_full.inc(),
            Refused::NoSeat => self.no_seat.inc(),
            Refused::TimedOut => self.timed_out.inc(),
            Refused::Cancelled => self.cancelled.inc(),
        };
    }
}
