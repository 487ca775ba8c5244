//! What was seen of one object, and whether it can have been so.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// One answered call about the register: when it ran, and the version that it showed or made.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) from: Instant,
    pub(crate) to: Instant,
    /// The version that a write expected; `None` for reads.
    pub(crate) expected: Option<u64>,
    pub(crate) version: u64,
    pub(crate) value: String,
}

/// A run of a watch: the version that it began from, and every change up to its end with its version.
pub(crate) type Watched = (u64, Vec<(u64, String)>);

/// Everything that was seen of the register.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) calls: Mutex<Vec<Call>>,
    pub(crate) watched: Mutex<Vec<Watched>>,
}

/// Checks that all calls fit one order: that of the versions.
pub(crate) fn check(history: &History) -> usize {
    let mut calls = history.calls.lock().clone();
    let mut values: BTreeMap<u64, String> = BTreeMap::new();
    let watched = history.watched.lock();
    let seen = watched.iter().flat_map(|(_, run)| run.iter().cloned());
    for (version, value) in calls.iter().map(|c| (c.version, c.value.clone())).chain(seen) {
        let known = values.entry(version).or_insert_with(|| value.clone());
        assert_eq!(*known, value, "one version, one value: {version}");
    }
    for write in calls.iter().filter(|c| c.expected.is_some()) {
        let expected = write.expected.unwrap();
        let between = values.range(expected + 1..write.version).next();
        assert_eq!(between, None, "{write:?} replaced what it did not expect");
    }
    // Whoever begins after another has ended sees at least what that one saw.
    calls.sort_by_key(|c| c.from);
    let mut ended: Vec<&Call> = calls.iter().collect();
    ended.sort_by_key(|c| c.to);
    let (mut next, mut newest) = (0, 0);
    for call in &calls {
        while next < ended.len() && ended[next].to < call.from {
            newest = newest.max(ended[next].version);
            next += 1;
        }
        assert!(call.version >= newest, "{call:?} is older than {newest}, which was seen before");
        let is_new = call.expected.is_none() || call.version > newest;
        assert!(is_new, "{call:?} made a version that was there");
    }
    for (start, run) in watched.iter() {
        assert!(
            run.is_sorted_by(|a, b| a.0 < b.0),
            "a watch is ordered, without duplicates: {run:?}"
        );
        let end = run.last().map_or(*start, |(version, _)| *version);
        let later = (Bound::Excluded(*start), Bound::Included(end));
        let complete = values.range(later).map(|(v, text)| (*v, text.clone()));
        assert!(complete.eq(run.iter().cloned()), "a watch from {start} misses changes: {run:?}");
    }
    calls.iter().filter(|c| c.expected.is_some()).count()
}

#[test]
fn the_checker_finds_what_must_not_be() {
    let start = Instant::now();
    let call = |from: u64, to: u64, expected: Option<u64>, version: u64, value: &str| Call {
        from: start + Duration::from_secs(from),
        to: start + Duration::from_secs(to),
        expected,
        version,
        value: value.into(),
    };
    let judge = |calls: &[Call], watched: Vec<(u64, Vec<(u64, String)>)>| {
        let history = History { calls: Mutex::new(calls.to_vec()), watched: Mutex::new(watched) };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&history))).is_ok()
    };
    let good = [
        call(0, 1, None, 5, "a"),
        call(2, 3, Some(5), 7, "b"),
        call(2, 5, None, 5, "a"),
        call(6, 7, None, 7, "b"),
    ];
    assert!(judge(&good, vec![(5, vec![(7, "b".into())])]));
    assert!(!judge(&good, vec![(5, vec![(7, "b".into()), (7, "b".into())])]), "twice");
    let lost = [call(0, 1, Some(5), 7, "b"), call(2, 3, None, 5, "a")];
    assert!(!judge(&lost, Vec::new()), "a lost write");
    let forked = [call(0, 1, Some(5), 7, "b"), call(0, 2, Some(5), 8, "c")];
    assert!(!judge(&forked, Vec::new()), "two writes over one version");
    let three = [call(0, 1, Some(5), 7, "b"), call(2, 3, Some(7), 8, "c")];
    assert!(!judge(&three, vec![(5, vec![(8, "c".into())])]), "a watch with a hole");
}
