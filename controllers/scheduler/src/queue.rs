//! Which pod is next.
//!
//! A pod is *active* (its turn comes by priority, then by age), in *back-off* (it failed and must
//! wait a moment), *waiting* (no node will do, until something changes), *gated*, or *in flight*
//! (its decision is being written). Time is given, never taken.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::plan::Rules;
use crate::world::PodInfo;

/// First and longest back-off after a failed attempt; it doubles in between.
///
/// Source: `podInitialBackoffSeconds` and `podMaxBackoffSeconds` in upstream's scheduler configuration.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// After this time a waiting pod is tried again, whether or not something changed.
///
/// Source: `DefaultPodMaxInUnschedulablePodsDuration` in upstream `pkg/scheduler/backend/queue`.
const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

type Uid = Arc<str>;

/// Pods without a node.
#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<Uid, Entry>,
    active: BTreeMap<(Reverse<i32>, u64), Uid>,
    backoff: BTreeSet<(Timestamp, Uid)>,
    /// By the time since which they wait.
    waiting: BTreeSet<(Timestamp, Uid)>,
    /// Counts entries into `active`, so that pods of one priority keep their order.
    turn: u64,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    n_attempts: u32,
    place: Place,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Active {
        priority: i32,
        turn: u64,
    },
    /// `by_fault`: the attempt failed through no fault of the cluster's state, so its end must be awaited.
    Backoff {
        until: Timestamp,
        by_fault: bool,
    },
    Waiting {
        since: Timestamp,
        rules: Rules,
    },
    Gated,
    InFlight,
}

impl Queue {
    /// Adds a pod, or learns its new state. One that changed in what decides about it is tried anew.
    pub fn upsert(&mut self, pod: Arc<PodInfo>, now: Timestamp) {
        let uid = Arc::clone(&pod.uid);
        let gated = pod.is_gated();
        let Some(entry) = self.pods.get_mut(&uid) else {
            self.pods.insert(Arc::clone(&uid), Entry { pod, n_attempts: 0, place: Place::Gated });
            if !gated {
                self.activate(&uid);
            }
            return;
        };
        let changed =
            entry.pod.pod.spec != pod.pod.spec || entry.pod.pod.labels() != pod.pod.labels();
        entry.pod = pod;
        match entry.place {
            Place::Gated if !gated => self.activate(&uid),
            Place::Waiting { since, .. } if changed => self.retry(&uid, since, now),
            _ => (),
        }
    }

    /// Forgets a pod: it is bound, gone, or nobody's concern any more.
    pub fn remove(&mut self, uid: &str) {
        if let Some(entry) = self.pods.remove(uid) {
            self.leave(uid, &entry);
        }
    }

    /// The pod whose turn it is; it is in flight until [`Self::remove`], [`Self::wait`] or
    /// [`Self::fail`].
    ///
    /// When nothing is active, the one whose back-off ends first is taken early: idling helps nobody.
    pub fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let uid = match self.active.pop_first() {
            Some((_, uid)) => uid,
            None => {
                let early = |(_, uid): &&(Timestamp, Uid)| !self.is_faulty(uid);
                let key = self.backoff.iter().find(early)?.clone();
                self.backoff.remove(&key);
                key.1
            }
        };
        let entry = self.pods.get_mut(&uid)?;
        entry.place = Place::InFlight;
        Some(Arc::clone(&entry.pod))
    }

    /// No node will do for the pod, says each of `rules`.
    pub fn wait(&mut self, uid: &str, rules: Rules, now: Timestamp) {
        let Some(entry) = self.in_flight(uid) else { return };
        entry.n_attempts += 1;
        entry.place = Place::Waiting { since: now, rules };
        let uid = Arc::clone(&entry.pod.uid);
        self.waiting.insert((now, uid));
    }

    /// The decision about the pod could not be written.
    pub fn fail(&mut self, uid: &str, now: Timestamp) {
        let Some(entry) = self.in_flight(uid) else { return };
        entry.n_attempts += 1;
        let until = now + backoff(entry.n_attempts);
        entry.place = Place::Backoff { until, by_fault: true };
        let uid = Arc::clone(&entry.pod.uid);
        self.backoff.insert((until, uid));
    }

    /// Something changed: lets those waiting pods try again for which `helps` says so.
    pub fn wake(&mut self, now: Timestamp, helps: impl Fn(&PodInfo, Rules) -> bool) {
        let is_woken = |(_, uid): &&(Timestamp, Uid)| match self.pods.get(uid) {
            Some(Entry { pod, place: Place::Waiting { rules, .. }, .. }) => helps(pod, *rules),
            _ => false,
        };
        let woken: Vec<_> = self.waiting.iter().filter(is_woken).cloned().collect();
        for (since, uid) in woken {
            self.retry(&uid, since, now);
        }
    }

    /// Moves on those whose time has come.
    pub fn advance(&mut self, now: Timestamp) {
        while self.backoff.first().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, uid)) = self.backoff.pop_first() {
                self.activate(&uid);
            }
        }
        while let Some((since, uid)) = self.waiting.first()
            && *since + LONGEST_WAIT <= now
        {
            let uid = Arc::clone(uid);
            self.waiting.pop_first();
            self.activate(&uid);
        }
    }

    /// When [`Self::advance`] has something to do next.
    pub fn next_advance(&self) -> Option<Timestamp> {
        let waiting = self.waiting.first().map(|(since, _)| *since + LONGEST_WAIT);
        let backoff = self.backoff.first().map(|(until, _)| *until);
        backoff.into_iter().chain(waiting).min()
    }

    /// How many pods are to be decided about, now or later; those in flight and gated ones are not.
    pub fn len(&self) -> usize {
        self.active.len() + self.backoff.len() + self.waiting.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Into the active queue, or first into back-off if the failed attempt was only just now.
    fn retry(&mut self, uid: &Uid, since: Timestamp, now: Timestamp) {
        self.waiting.remove(&(since, Arc::clone(uid)));
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let until = since + backoff(entry.n_attempts);
        if until <= now {
            return self.activate(uid);
        }
        entry.place = Place::Backoff { until, by_fault: false };
        self.backoff.insert((until, Arc::clone(uid)));
    }

    fn activate(&mut self, uid: &Uid) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let turn = self.turn;
        self.turn += 1;
        let priority = entry.pod.priority;
        entry.place = Place::Active { priority, turn };
        self.active.insert((Reverse(priority), turn), Arc::clone(uid));
    }

    fn leave(&mut self, uid: &str, entry: &Entry) {
        match entry.place {
            Place::Active { priority, turn } => _ = self.active.remove(&(Reverse(priority), turn)),
            Place::Backoff { until, .. } => _ = self.backoff.remove(&(until, Uid::from(uid))),
            Place::Waiting { since, .. } => _ = self.waiting.remove(&(since, Uid::from(uid))),
            Place::Gated | Place::InFlight => (),
        }
    }

    fn in_flight(&mut self, uid: &str) -> Option<&mut Entry> {
        self.pods.get_mut(uid).filter(|e| matches!(e.place, Place::InFlight))
    }

    fn is_faulty(&self, uid: &str) -> bool {
        let place = self.pods.get(uid).map(|e| e.place);
        matches!(place, Some(Place::Backoff { by_fault: true, .. }))
    }
}

fn backoff(n_attempts: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(n_attempts.saturating_sub(1));
    BACKOFF.0.saturating_mul(doubled).min(BACKOFF.1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::Rule;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        let pod = json!({"metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"priority": priority, "containers": []}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn gated(name: &str) -> Arc<PodInfo> {
        let pod = json!({"metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"containers": [], "schedulingGates": [{"name": "example.com/wait"}]}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn cpu() -> Rules {
        let mut rules = Rules::default();
        rules.insert(Rule::Resources);
        rules
    }

    #[track_caller]
    fn check(queue: &mut Queue, expected: &str) {
        let popped: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|p| p.pod.name_any()).collect();
        assert_eq!(popped.join(" "), expected);
    }

    fn queue(pods: &[Arc<PodInfo>]) -> Queue {
        let mut queue = Queue::default();
        pods.iter().for_each(|pod| queue.upsert(Arc::clone(pod), at(0)));
        queue
    }

    #[test]
    fn priority_goes_first_then_age() {
        check(&mut queue(&[pod("a", 0), pod("b", 5), pod("c", 0), pod("d", 5)]), "b d a c");
    }

    #[test]
    fn a_gated_pod_waits_for_its_gates() {
        let mut queue = queue(&[gated("a"), pod("b", 0)]);
        check(&mut queue, "b");
        assert_eq!(queue.len(), 0);
        queue.upsert(pod("a", 0), at(1));
        check(&mut queue, "a");
    }

    #[test]
    fn an_unschedulable_pod_waits_for_a_change_that_helps() {
        let mut queue = queue(&[pod("a", 0)]);
        check(&mut queue, "a");
        queue.wait("a", cpu(), at(0));
        queue.wake(at(2), |_, rules| rules.has(Rule::Taint));
        check(&mut queue, "");
        queue.wake(at(2), |_, rules| rules.has(Rule::Resources));
        check(&mut queue, "a");
    }

    #[test]
    fn a_pod_in_backoff_is_taken_early_only_if_nothing_else_is_there() {
        let mut queue = queue(&[pod("a", 9)]);
        check(&mut queue, "a");
        queue.wait("a", cpu(), at(0));
        queue.wake(at(0), |_, _| true);
        assert_eq!(queue.backoff.len(), 1);
        queue.upsert(pod("b", 0), at(0));
        check(&mut queue, "b a");
    }

    #[test]
    fn a_failed_write_backs_off_twice_as_long_each_time() {
        let mut queue = queue(&[pod("a", 0)]);
        let mut now = 0;
        for seconds in [1, 2, 4, 8, 10, 10] {
            check(&mut queue, "a");
            queue.fail("a", at(now));
            assert_eq!(queue.next_advance(), Some(at(now + seconds)));
            queue.advance(at(now + seconds - 1));
            check(&mut queue, "");
            now += seconds;
            queue.advance(at(now));
        }
    }

    #[test]
    fn a_waiting_pod_is_tried_after_five_minutes_anyway() {
        let mut queue = queue(&[pod("a", 0)]);
        check(&mut queue, "a");
        queue.wait("a", cpu(), at(0));
        queue.advance(at(299));
        check(&mut queue, "");
        queue.advance(queue.next_advance().unwrap());
        check(&mut queue, "a");
    }

    #[test]
    fn a_removed_pod_is_never_popped() {
        let mut queue = queue(&[pod("a", 0), pod("b", 0)]);
        queue.remove("a");
        check(&mut queue, "b");
        queue.fail("b", at(0));
        queue.remove("b");
        queue.advance(at(60));
        check(&mut queue, "");
        assert!(queue.is_empty() && queue.pods.is_empty());
    }

    #[test]
    fn an_unrelated_update_wakes_nobody_a_new_label_does() {
        let mut queue = queue(&[pod("a", 0)]);
        check(&mut queue, "a");
        queue.wait("a", cpu(), at(0));
        queue.upsert(pod("a", 0), at(5));
        check(&mut queue, "");
        let mut labelled = (*pod("a", 0).pod).clone();
        labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        queue.upsert(Arc::new(PodInfo::new(Arc::new(labelled))), at(5));
        check(&mut queue, "a");
    }
}
