//! What a refused client is told to wait, in seconds: longer while refusals go on, shorter when they cease.
//!
//! Source: upstream `apiserver/pkg/util/flowcontrol/dropped_requests_tracker.go`.

use std::collections::VecDeque;

/// Longest wait.
const MOST: u64 = 32;

/// Refusals of the last seconds, and what follows from them.
#[derive(Debug)]
pub struct RetryAfter {
    /// (second, refusals in it), oldest first; the last one is not over yet.
    history: VecDeque<(u64, u64)>,
    seconds: u64,
    raised_at: u64,
}

impl Default for RetryAfter {
    fn default() -> Self {
        Self { history: VecDeque::new(), seconds: 1, raised_at: 0 }
    }
}

impl RetryAfter {
    /// A request was refused in this second; answers what its client is told.
    pub fn refused(&mut self, second: u64) -> u64 {
        match self.history.back_mut() {
            Some((last, count)) if *last >= second => *count += 1,
            _ => {
                self.judge(second);
                self.history.push_back((second, 1));
            }
        }
        self.seconds
    }

    /// Many refusals double the wait, few shorten it by a second.
    fn judge(&mut self, second: u64) {
        let keep = (2 * self.seconds).min(MOST);
        self.history.retain(|(at, _)| second - at <= keep);
        let recent = self.history.iter().filter(|(at, _)| second - at <= self.seconds);
        let refusals: u64 = recent.map(|(_, count)| count).sum();
        if second.saturating_sub(self.raised_at) >= self.seconds && refusals >= 3 * self.seconds {
            self.seconds = (self.seconds * 2).min(MOST);
            self.raised_at = second;
        } else if refusals < self.seconds {
            self.seconds = (self.seconds - 1).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_raises_the_wait_and_calm_lowers_it() {
        let mut retry = RetryAfter::default();
        for second in 100..220 {
            for _ in 0..200 {
                retry.refused(second);
            }
        }
        assert_eq!(retry.refused(220), MOST);
        let told: Vec<u64> = (1..40).map(|n| retry.refused(220 + n * 100)).collect();
        assert!(told.is_sorted_by(|a, b| a >= b));
        assert_eq!(told.last(), Some(&1));
    }

    #[test]
    fn one_refusal_now_and_then_is_no_storm() {
        let mut retry = RetryAfter::default();
        assert!((0..100).all(|n| retry.refused(n * 10) == 1));
    }
}
