//! Which objects have to be looked at, each by one worker at a time. Time is given, never taken.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::graph::Uid;

/// First and longest delay before an object is looked at again; it doubles in between.
///
/// The first is short: most often a write met a newer version whose event is on its way.
const DELAY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(60));

/// The objects to look at.
#[derive(Debug, Default)]
pub(crate) struct Work {
    queue: VecDeque<Uid>,
    queued: HashSet<Uid>,
    in_flight: HashSet<Uid>,
    /// In flight, and to be looked at once more.
    again: HashSet<Uid>,
    delayed: BTreeSet<(Duration, Uid)>,
    n_attempts: HashMap<Uid, u32>,
}

impl Work {
    pub(crate) fn add(&mut self, uid: Uid) {
        if self.in_flight.contains(&uid) {
            self.again.insert(uid);
        } else if self.queued.insert(uid.clone()) {
            self.queue.push_back(uid);
        }
    }

    /// The next object; it is in flight until [`Self::done`] or [`Self::retry`].
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Uid> {
        while let Some((at, uid)) = self.delayed.first()
            && *at <= now
        {
            let uid = uid.clone();
            self.delayed.pop_first();
            self.add(uid);
        }
        let uid = self.queue.pop_front()?;
        self.queued.remove(&uid);
        self.in_flight.insert(uid.clone());
        Some(uid)
    }

    /// Nothing is left to do about the object for now.
    pub(crate) fn done(&mut self, uid: &Uid) {
        self.n_attempts.remove(uid);
        self.finish(uid);
    }

    /// The object is to be looked at again after a while, at least `least`; longer each time.
    pub(crate) fn retry(&mut self, uid: &Uid, now: Duration, least: Duration) {
        let n = self.n_attempts.entry(uid.clone()).or_default();
        let delay = DELAY.0.max(least).saturating_mul(2_u32.saturating_pow(*n)).min(DELAY.1);
        *n += 1;
        self.delayed.insert((now + delay, uid.clone()));
        self.finish(uid);
    }

    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.delayed.first().map(|(at, _)| *at)
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len() + self.delayed.len()
    }

    fn finish(&mut self, uid: &Uid) {
        self.in_flight.remove(uid);
        if self.again.remove(uid) {
            self.add(uid.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn an_object_is_in_one_hand_at_a_time() {
        let mut work = Work::default();
        work.add("a".into());
        work.add("a".into());
        let a = work.pop(seconds(0)).unwrap();
        assert_eq!(work.pop(seconds(0)), None);
        work.add("a".into());
        assert_eq!(work.pop(seconds(0)), None, "it is in flight");
        work.done(&a);
        assert_eq!(work.pop(seconds(0)), Some("a".into()), "it was asked for meanwhile");
        work.done(&a);
        assert_eq!(work.pop(seconds(0)), None);
    }

    #[test]
    fn retries_wait_longer_each_time() {
        let mut work = Work::default();
        work.add("a".into());
        let mut now = seconds(0);
        for delay in [1, 2, 4, 8, 16, 32, 60, 60].map(seconds) {
            let a = work.pop(now).unwrap();
            work.retry(&a, now, seconds(1));
            assert_eq!(work.next_due(), Some(now + delay));
            assert_eq!(work.pop(now + delay - Duration::from_millis(1)), None);
            now += delay;
        }
    }
}
