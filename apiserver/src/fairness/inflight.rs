//! Two plain limits, for servers that run without priority and fairness.
//!
//! Source: upstream `apiserver/pkg/server/filters/maxinflight.go`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Options;

/// Requests that run, by kind, and how many may.
#[derive(Debug)]
pub struct Inflight {
    reading: Kind,
    changing: Kind,
}

#[derive(Debug)]
struct Kind {
    /// 0 is no limit.
    most: usize,
    running: Arc<AtomicUsize>,
}

/// Counts as running until it is dropped.
#[derive(Debug)]
pub struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inflight {
    /// The limits that the options name.
    pub fn new(options: &Options) -> Self {
        let kind = |most: u32| Kind { most: most as usize, running: Arc::default() };
        Self { reading: kind(options.max_requests), changing: kind(options.max_mutating_requests) }
    }

    /// A place for a request, if there is one. Whoever is `trusted` gets one in any case.
    pub fn enter(&self, changes: bool, trusted: bool) -> Option<Slot> {
        let kind = if changes { &self.changing } else { &self.reading };
        let before = kind.running.fetch_add(1, Ordering::Relaxed);
        let slot = Slot(kind.running.clone());
        (kind.most == 0 || before < kind.most || trusted).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_limit() {
        let limits = Inflight::new(&Options {
            max_requests: 1,
            max_mutating_requests: 0,
            ..Options::default()
        });
        let first = limits.enter(false, false).unwrap();
        assert!(limits.enter(false, false).is_none());
        assert!(limits.enter(false, true).is_some());
        assert!((0..9).all(|_| limits.enter(true, false).is_some()));
        drop(first);
        assert!(limits.enter(false, false).is_some());
    }
}
