//! How the server's seats are divided among priority levels, and lent from idle ones to busy ones.
//!
//! Source: KEP-1040, "Dispatching" and "Borrowing"; constants of upstream's
//! `apiserver/pkg/util/flowcontrol/apf_controller.go`.

use super::demand::Observed;

/// Share of the old value that a falling demand keeps at each adjustment: half is gone after five minutes.
const SMOOTHING: f64 = 0.977;
/// Least demand, so that nothing is divided by zero.
const LEAST: f64 = 0.001;

/// What an administrator gives to a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Whether the level's requests are never held back.
    pub exempt: bool,
    /// Relative weight.
    pub shares: u32,
    /// Part of its seats that others may use, in percent.
    pub lendable_percent: u32,
    /// Seats that it may use of others, in percent of its own; `None` is no limit.
    pub borrowing_percent: Option<u32>,
}

/// Seats of one level, derived from everybody's shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Its own.
    pub nominal: u32,
    /// What it always keeps.
    pub least: u32,
    /// What it may have at most.
    pub most: u32,
}

/// Divides `server` seats by shares.
pub fn bounds(server: u32, levels: &[Shares]) -> Vec<Bounds> {
    let sum: f64 = levels.iter().map(|level| f64::from(level.shares)).sum::<f64>().max(1.0);
    let nominal = |level: &Shares| (f64::from(server) * f64::from(level.shares) / sum).ceil();
    let total = levels.iter().map(nominal).sum::<f64>();
    let of = |level: &Shares| {
        let own = nominal(level);
        let lendable = (own * f64::from(level.lendable_percent) / 100.0).round();
        let most = match level.borrowing_percent {
            Some(percent) => own + (own * f64::from(percent) / 100.0).round(),
            None => total,
        };
        Bounds { nominal: own as u32, least: (own - lendable) as u32, most: most as u32 }
    };
    levels.iter().map(of).collect()
}

/// What a level wanted lately, smoothed: it rises at once and falls slowly.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Smoothed {
    /// The last period.
    pub observed: Observed,
    /// Over several periods.
    pub smoothed: f64,
}

impl Smoothed {
    /// Takes over another period.
    pub fn update(&mut self, observed: Observed) {
        let envelope = observed.high.min(observed.average + observed.deviation);
        let falling = SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope;
        self.smoothed = envelope.max(falling);
        self.observed = observed;
    }
}

/// One level's part in an adjustment.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Whether it takes what it needs.
    pub exempt: bool,
    /// Its seats.
    pub bounds: Bounds,
    /// What it wanted.
    pub demand: Smoothed,
}

impl Wish {
    /// The seats that it used are not lent away, as long as they are its own.
    fn least(&self) -> f64 {
        let used = self.demand.observed.high;
        let used = if self.exempt { used } else { used.min(f64::from(self.bounds.nominal)) };
        used.max(f64::from(self.bounds.least))
    }

    /// What it should get, if there is enough.
    pub fn target(&self) -> f64 {
        self.least().max(self.demand.smoothed)
    }

    fn given(&self, fraction: f64) -> f64 {
        let least = self.least();
        (fraction * self.target().max(LEAST)).min(f64::from(self.bounds.most)).max(least)
    }
}

/// The seats that each level may use until the next adjustment, and the fraction of its target that each gets.
pub fn adjust(levels: &[Wish]) -> (Vec<u32>, f64) {
    let total: f64 = levels.iter().map(|wish| f64::from(wish.bounds.nominal)).sum();
    let limited = || levels.iter().filter(|wish| !wish.exempt);
    let exempt: f64 = levels.iter().filter(|wish| wish.exempt).map(Wish::least).sum();
    let remaining = total - exempt;
    let kept: f64 = limited().map(|wish| f64::from(wish.bounds.least)).sum();
    let used: f64 = limited().map(Wish::least).sum();
    let (fraction, of_used) = if remaining <= kept {
        (0.0, 0.0)
    } else if remaining <= used {
        (0.0, (remaining - kept) / (used - kept))
    } else {
        (fair_fraction(remaining, levels), 1.0)
    };
    let seats = |wish: &Wish| {
        let least = f64::from(wish.bounds.least);
        let seats = match (wish.exempt, of_used < 1.0) {
            (true, _) => wish.least(),
            (false, true) => least + (wish.least() - least) * of_used,
            (false, false) => wish.given(fraction),
        };
        seats.round() as u32
    };
    (levels.iter().map(seats).collect(), fraction)
}

/// The fraction of the targets at which exactly `seats` are given out; the sum only grows with it.
fn fair_fraction(seats: f64, levels: &[Wish]) -> f64 {
    let sum = |fraction: f64| -> f64 {
        levels.iter().filter(|wish| !wish.exempt).map(|wish| wish.given(fraction)).sum()
    };
    let (mut low, mut high) = (0.0, 1.0);
    while sum(high) < seats && high < seats / LEAST {
        (low, high) = (high, high * 2.0);
    }
    for _ in 0..64 {
        let middle = f64::midpoint(low, high);
        if sum(middle) < seats { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(shares: u32, lendable_percent: u32) -> Shares {
        Shares { exempt: false, shares, lendable_percent, borrowing_percent: None }
    }

    #[test]
    fn the_default_levels_have_upstreams_seats() {
        let exempt = Shares { exempt: true, ..shares(0, 0) };
        let defaults = [
            ("catch-all", shares(5, 0), 13, 13),
            ("exempt", exempt, 0, 0),
            ("global-default", shares(20, 50), 49, 24),
            ("leader-election", shares(10, 0), 25, 25),
            ("node-high", shares(40, 25), 98, 73),
            ("system", shares(30, 33), 74, 50),
            ("workload-high", shares(40, 50), 98, 49),
            ("workload-low", shares(100, 90), 245, 24),
        ];
        let levels: Vec<Shares> = defaults.iter().map(|d| d.1).collect();
        for (bounds, (name, _, nominal, least)) in bounds(600, &levels).iter().zip(defaults) {
            assert_eq!(
                (bounds.nominal, bounds.least, bounds.most),
                (nominal, least, 602),
                "{name}"
            );
        }
    }

    fn wish(bounds: Bounds, high: f64, smoothed: f64) -> Wish {
        let observed = Observed { high, average: high, deviation: 0.0 };
        Wish { exempt: false, bounds, demand: Smoothed { observed, smoothed } }
    }

    #[test]
    fn a_busy_level_borrows_what_idle_ones_lend() {
        let bounds = Bounds { nominal: 50, least: 10, most: 100 };
        let (seats, _) = adjust(&[wish(bounds, 200.0, 200.0), wish(bounds, 0.0, 0.0)]);
        assert_eq!(seats, [90, 10]);
        // What the lender needs itself, it has back at the next adjustment.
        let (seats, _) = adjust(&[wish(bounds, 200.0, 200.0), wish(bounds, 50.0, 50.0)]);
        assert_eq!(seats, [50, 50]);
    }

    #[test]
    fn what_exempt_requests_take_is_missing_elsewhere() {
        let bounds = Bounds { nominal: 50, least: 10, most: 100 };
        let none = Bounds { nominal: 0, least: 0, most: 100 };
        let exempt = Wish { exempt: true, ..wish(none, 20.0, 20.0) };
        let (seats, _) = adjust(&[exempt, wish(bounds, 60.0, 60.0), wish(bounds, 0.0, 0.0)]);
        assert_eq!(seats, [20, 69, 11]);
    }

    #[test]
    fn demand_rises_at_once_and_falls_slowly() {
        let mut demand = Smoothed::default();
        demand.update(Observed { high: 100.0, average: 100.0, deviation: 0.0 });
        assert!((demand.smoothed - 100.0).abs() < 1e-9);
        for _ in 0..30 {
            demand.update(Observed::default());
        }
        assert!((45.0..55.0).contains(&demand.smoothed), "{}", demand.smoothed);
    }

    proptest! {
        #[test]
        fn nobody_gets_less_than_they_keep_or_more_than_they_may(
            levels in prop::collection::vec((1..100_u32, 0..=100_u32, prop::option::of(0..300_u32), 0.0..900.0_f64), 1..9),
        ) {
            let given: Vec<Shares> = levels.iter().map(|l| Shares {
                exempt: false, shares: l.0, lendable_percent: l.1, borrowing_percent: l.2,
            }).collect();
            let bounds = bounds(600, &given);
            let wishes: Vec<Wish> = bounds.iter().zip(&levels).map(|(b, l)| wish(*b, l.3, l.3)).collect();
            let (seats, _) = adjust(&wishes);
            let total: u32 = bounds.iter().map(|b| b.nominal).sum();
            for (seats, bounds) in seats.iter().zip(&bounds) {
                prop_assert!(*seats >= bounds.least && *seats <= bounds.most.max(bounds.nominal));
            }
            // Rounding may add half a seat a level.
            prop_assert!(seats.iter().sum::<u32>() <= total + levels.len() as u32);
        }
    }
}
