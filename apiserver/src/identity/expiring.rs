//! A bounded memory of answers that hold for a while.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Answers by question, each with the time until which it holds.
#[derive(Debug)]
pub(super) struct Expiring<K, V> {
    capacity: usize,
    entries: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> Expiring<K, V> {
    /// Remembers at most `capacity` answers.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, entries: Mutex::default() }
    }

    /// The answer, if there is one that holds at `now`.
    pub(super) fn get<Q>(&self, key: &Q, now: Instant) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries
            .lock()
            .get(key)
            .filter(|(until, _)| now < *until)
            .map(|(_, value)| value.clone())
    }

    /// Remembers an answer for `life` from `now` on. When there is no room, those that are over go;
    /// if there are none, all of them, which costs a few questions and no bookkeeping.
    pub(super) fn insert(&self, key: K, value: V, now: Instant, life: Duration) {
        if life.is_zero() {
            return;
        }
        let mut entries = self.entries.lock();
        if entries.len() >= self.capacity {
            entries.retain(|_, (until, _)| now < *until);
        }
        if entries.len() >= self.capacity {
            entries.clear();
        }
        entries.insert(key, (now + life, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_and_are_bounded() {
        let known = Expiring::new(2);
        let now = Instant::now();
        let second = Duration::from_secs(1);
        known.insert("a".to_owned(), 1, now, second);
        assert_eq!(known.get("a", now), Some(1));
        assert_eq!(known.get("a", now + second), None);
        known.insert("b".to_owned(), 2, now, second * 9);
        known.insert("c".to_owned(), 3, now + second, second);
        assert_eq!(known.get("b", now), Some(2));
        known.insert("d".to_owned(), 4, now + second, second);
        assert!(known.entries.lock().len() <= 2);
        known.insert("e".to_owned(), 5, now, Duration::ZERO);
        assert_eq!(known.get("e", now), None);
    }
}
