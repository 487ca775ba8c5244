//! How full things are, over time: histograms in which every nanosecond is one observation. Pure; time comes in.
//!
//! Source: `TimingHistogram` in upstream's `component-base/metrics`.

use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Bounds of seats in use, as part of those that a level has.
const SEATS: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
/// Bounds of requests that wait or run, as part of those that may.
const REQUESTS: &[f64] = &[0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0];
/// Bounds of seats that are wanted, as part of those that a level has.
const DEMAND: &[f64] = &[0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0, 6.0];

/// For how long a part of a whole was how large.
#[derive(Clone, Debug)]
pub struct Utilization {
    bounds: &'static [f64],
    /// Nanoseconds for each bound, and beyond the last one.
    spent: Vec<u64>,
    /// Integral of the ratio over nanoseconds.
    sum: f64,
    part: f64,
    whole: f64,
    at: Duration,
}

impl Utilization {
    /// Nothing of a whole of one, from `now` on.
    pub fn new(bounds: &'static [f64], now: Duration) -> Self {
        let spent = vec![0; bounds.len() + 1];
        Self { bounds, spent, sum: 0.0, part: 0.0, whole: 1.0, at: now }
    }

    /// From `now` on, the part is this large.
    pub fn set(&mut self, now: Duration, part: f64) {
        self.advance(now);
        self.part = part;
    }

    /// From `now` on, the whole is this large; never less than one.
    pub fn measure_by(&mut self, now: Duration, whole: f64) {
        self.advance(now);
        self.whole = whole.max(1.0);
    }

    /// The same, up to `now`.
    pub fn until(&self, now: Duration) -> Self {
        let mut copy = self.clone();
        copy.advance(now);
        copy
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_nanos();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let ratio = self.part / self.whole;
        self.spent[self.bounds.partition_point(|bound| *bound < ratio)] += passed;
        self.sum += ratio * passed as f64;
        self.at = self.at.max(now);
    }
}

impl EncodeMetric for Utilization {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.spent.iter().copied()).collect();
        let count = self.spent.iter().sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// What a level does at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests that wait.
    pub waiting: f64,
    /// Requests that run.
    pub running: f64,
    /// Seats in use.
    pub seats: f64,
    /// Seats in use or waited for.
    pub demand: f64,
}

/// What a level does, over time.
#[derive(Clone, Debug)]
pub struct Meters {
    /// Requests that wait, of those that its queues hold.
    pub waiting: Utilization,
    /// Requests that run, of its seats.
    pub running: Utilization,
    /// Seats in use, of its seats.
    pub seats: Utilization,
    /// Seats wanted, of its seats.
    pub demand: Utilization,
}

impl Meters {
    /// Of an idle level.
    pub fn new(now: Duration) -> Self {
        let of = |bounds| Utilization::new(bounds, now);
        Self { waiting: of(REQUESTS), running: of(REQUESTS), seats: of(SEATS), demand: of(DEMAND) }
    }

    /// From `now` on, this is its load.
    pub fn set(&mut self, now: Duration, load: Load) {
        self.waiting.set(now, load.waiting);
        self.running.set(now, load.running);
        self.seats.set(now, load.seats);
        self.demand.set(now, load.demand);
    }

    /// From `now` on, it has so many seats and so much room in its queues.
    pub fn measure_by(&mut self, now: Duration, seats: u32, room: usize) {
        self.waiting.measure_by(now, room as f64);
        for of_seats in [&mut self.running, &mut self.seats, &mut self.demand] {
            of_seats.measure_by(now, seats.into());
        }
    }

    /// The same, up to `now`.
    pub fn until(&self, now: Duration) -> Self {
        Self {
            waiting: self.waiting.until(now),
            running: self.running.until(now),
            seats: self.seats.until(now),
            demand: self.demand.until(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nanosecond_counts_where_the_ratio_was() {
        let at = Duration::from_nanos;
        let mut seats = Utilization::new(&[0.0, 0.5, 1.0], at(0));
        seats.set(at(10), 2.0); // Twice the whole.
        seats.measure_by(at(13), 4.0); // Half of it.
        seats.set(at(20), 3.0);
        let seen = seats.until(at(25));
        assert_eq!(seen.spent, [10, 7, 5, 3]);
        assert!((seen.sum - (3.0 * 2.0 + 7.0 * 0.5 + 5.0 * 0.75)).abs() < 1e-9, "{}", seen.sum);
        // Looking changes nothing.
        assert_eq!(seats.spent, [10, 7, 0, 3]);
    }

    #[test]
    fn a_whole_of_nothing_is_one() {
        let mut seats = Utilization::new(SEATS, Duration::ZERO);
        seats.measure_by(Duration::ZERO, 0.0);
        seats.set(Duration::ZERO, 1.0);
        assert!((seats.until(Duration::from_nanos(4)).sum - 4.0).abs() < 1e-9);
    }
}
