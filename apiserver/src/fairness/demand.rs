//! How many seats a priority level wanted over a period: the most, the mean and the spread.

use std::time::Duration;

/// What the seats of one period looked like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observed {
    /// The most that were wanted at once.
    pub high: f64,
    /// The mean over time.
    pub average: f64,
    /// The standard deviation over time.
    pub deviation: f64,
}

/// Integrates wanted seats over time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    since: Duration,
    at: Duration,
    now: f64,
    high: f64,
    sum: f64,
    squares: f64,
}

impl Demand {
    /// From `now` on, this many seats are wanted (in use or waited for).
    pub fn set(&mut self, now: Duration, seats: f64) {
        self.advance(now);
        self.now = seats;
        self.high = self.high.max(seats);
    }

    /// Ends a period and begins the next one.
    pub fn take(&mut self, now: Duration) -> Observed {
        self.advance(now);
        let period = (now - self.since).as_secs_f64();
        let observed = if period > 0.0 {
            let average = self.sum / period;
            let variance = (self.squares / period - average * average).max(0.0);
            Observed { high: self.high, average, deviation: variance.sqrt() }
        } else {
            Observed { high: self.high, average: self.now, deviation: 0.0 }
        };
        *self = Self { since: now, at: now, now: self.now, high: self.now, ..Self::default() };
        observed
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.sum += self.now * passed;
        self.squares += self.now * self.now * passed;
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_integrated_over_time() {
        let at = Duration::from_secs;
        let mut demand = Demand::default();
        demand.set(at(0), 4.0);
        demand.set(at(5), 0.0);
        let first = demand.take(at(10));
        assert_eq!(first, Observed { high: 4.0, average: 2.0, deviation: 2.0 });
        assert_eq!(demand.take(at(20)), Observed::default());
    }
}
