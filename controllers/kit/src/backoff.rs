//! How long to wait before an object is tried again.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// First delay. Source: client-go's `DefaultTypedControllerRateLimiter`.
pub const FIRST_DELAY: Duration = Duration::from_millis(5);

/// Longest delay. Source: client-go's `DefaultTypedControllerRateLimiter`.
pub const LONGEST_DELAY: Duration = Duration::from_secs(1000);

/// Forget an object that has not failed for this long: it is mended or gone.
const FORGET_AFTER: Duration = Duration::from_secs(2 * 1000);

/// Failures in a row, an object each.
///
/// kube's `error_policy` is given no count (kube-rs/kube#1916), so it is kept here.
#[derive(Debug)]
pub struct Backoff<K> {
    failures: Mutex<Failures<K>>,
}

#[derive(Debug)]
struct Failures<K> {
    by_key: HashMap<K, (u32, Instant)>,
    sweep_at: usize,
}

impl<K> Default for Backoff<K> {
    fn default() -> Self {
        Self { failures: Mutex::new(Failures { by_key: HashMap::new(), sweep_at: 64 }) }
    }
}

impl<K: Eq + Hash> Backoff<K> {
    /// Notes a failure of `key`; the answer is how long to wait: 5 ms, doubled each time, up to 1000 s.
    pub fn next(&self, key: K) -> Duration {
        let mut failures = self.failures.lock();
        let now = Instant::now();
        if failures.by_key.len() >= failures.sweep_at {
            failures.by_key.retain(|_, (_, last)| now.duration_since(*last) < FORGET_AFTER);
            failures.sweep_at = (failures.by_key.len() * 2).max(64);
        }
        let (count, last) = failures.by_key.entry(key).or_insert((0, now));
        let delay = delay_after(*count);
        *count = count.saturating_add(1);
        *last = now;
        delay
    }

    /// Forgets the failures of `key`, because it succeeded.
    pub fn reset(&self, key: &K) {
        self.failures.lock().by_key.remove(key);
    }
}

/// The delay after `failures` earlier ones.
fn delay_after(failures: u32) -> Duration {
    FIRST_DELAY
        .saturating_mul(1_u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX))
        .min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let backoff = Backoff::default();
        let delays: Vec<_> = (0..4).map(|_| backoff.next("a").as_millis()).collect();
        assert_eq!(delays, [5, 10, 20, 40]);
        assert_eq!(delay_after(17), Duration::from_millis(5 * (1 << 17)));
        assert_eq!(delay_after(18), LONGEST_DELAY);
        assert_eq!(delay_after(u32::MAX), LONGEST_DELAY);
    }

    #[test]
    fn success_starts_anew_and_objects_do_not_share() {
        let backoff = Backoff::default();
        backoff.next("a");
        assert_eq!(backoff.next("b"), FIRST_DELAY);
        backoff.reset(&"a");
        assert_eq!(backoff.next("a"), FIRST_DELAY);
    }
}
