//! How much of the node each pod holds, and which resizes wait for room. Pure.
//!
//! The node never refuses a resize for its size: the API server has refused what is larger than the node. What does
//! not fit beside the other pods waits.
//!
//! Source: KEP-1287; upstream `pkg/kubelet/allocation`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::jiff::Timestamp;

/// CPU and memory that a pod has reserved, or wants to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Thousandths of a core.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
}

impl Share {
    /// The larger of both, resource by resource.
    #[must_use]
    pub fn at_least(self, other: Self) -> Self {
        Self { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory) }
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let memory = self.memory.saturating_add(other.memory);
        Self { cpu: self.cpu.saturating_add(other.cpu), memory }
    }

    fn covers(self, other: Self) -> bool {
        self.at_least(other) == self
    }
}

/// A resize that asks for room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// All that the pod will hold.
    pub share: Share,
    /// `spec.priority`.
    pub priority: i32,
    /// Whether the pod's class is `Guaranteed`.
    pub guaranteed: bool,
    /// Since when it waits.
    pub since: Timestamp,
}

/// What is missing for a resize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// `cpu` or `memory`.
    pub resource: &'static str,
    /// In thousandths of a core or bytes, as the others.
    pub requested: u64,
    /// By the other pods.
    pub used: u64,
    /// Of the node, for pods.
    pub capacity: u64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, requested, used, capacity } = self;
        write!(
            f,
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        )
    }
}

/// What the ledger says to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The room is the pod's.
    Granted,
    /// Not all pods of the node are known yet: the claim waits.
    TooEarly,
    /// The claim waits until others need less.
    Short(Shortage),
}

/// The node's pods with what they hold and wait for.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    capacity: Share,
    complete: bool,
    pods: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    share: Share,
    claim: Option<Claim>,
}

impl Ledger {
    /// An empty ledger; nothing is granted before [`Ledger::complete`].
    pub fn new(capacity: Share) -> Self {
        Self { capacity, ..Self::default() }
    }

    /// Notes what a pod holds, nothing once it has ended; answers whose claims are granted by that.
    pub fn hold(&mut self, uid: &str, share: Option<Share>) -> Vec<String> {
        match share {
            Some(share) => self.pods.entry(uid.to_owned()).or_default().share = share,
            None => _ = self.pods.remove(uid),
        }
        self.settle()
    }

    /// All pods of the node are known; answers whose claims are granted by that.
    pub fn complete(&mut self) -> Vec<String> {
        self.complete = true;
        self.settle()
    }

    /// Asks for room; what is not granted now waits, in the place of an earlier claim of the pod.
    pub fn claim(&mut self, uid: &str, claim: Claim) -> Answer {
        let shortage = self.shortage(uid, &claim);
        let entry = self.pods.entry(uid.to_owned()).or_default();
        if !self.complete {
            entry.claim = Some(claim);
            return Answer::TooEarly;
        }
        match shortage {
            None => {
                entry.share = entry.share.at_least(claim.share);
                entry.claim = None;
                Answer::Granted
            }
            Some(shortage) => {
                entry.claim = Some(claim);
                Answer::Short(shortage)
            }
        }
    }

    /// The pod asks for nothing any more.
    pub fn withdraw(&mut self, uid: &str) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.claim = None;
        }
    }

    /// Grants what fits: first what needs no more, then by priority, class, and time of waiting.
    fn settle(&mut self) -> Vec<String> {
        if !self.complete {
            return Vec::new();
        }
        let mut waiting: Vec<(String, Claim)> =
            self.pods.iter().filter_map(|(uid, e)| Some((uid.clone(), e.claim.clone()?))).collect();
        waiting.sort_by_key(|(uid, claim)| {
            let grows = !self.held(uid).covers(claim.share);
            (grows, Reverse(claim.priority), !claim.guaranteed, claim.since, uid.clone())
        });
        let granted = waiting
            .into_iter()
            .filter_map(|(uid, claim)| (self.claim(&uid, claim) == Answer::Granted).then_some(uid));
        granted.collect()
    }

    fn held(&self, uid: &str) -> Share {
        self.pods.get(uid).map(|e| e.share).unwrap_or_default()
    }

    fn shortage(&self, uid: &str, claim: &Claim) -> Option<Shortage> {
        if self.held(uid).covers(claim.share) {
            return None;
        }
        let others = || self.pods.iter().filter(|(other, _)| *other != uid).map(|(_, e)| e.share);
        let short = |resource, requested: u64, used: u64, capacity: u64| {
            (requested > 0 && requested.saturating_add(used) > capacity).then_some(Shortage {
                resource,
                requested,
                used,
                capacity,
            })
        };
        let cpu = others().map(|s| s.cpu).sum();
        let memory = others().map(|s| s.memory).sum();
        short("cpu", claim.share.cpu, cpu, self.capacity.cpu)
            .or_else(|| short("memory", claim.share.memory, memory, self.capacity.memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(cpu: u64) -> Share {
        Share { cpu, memory: 0 }
    }

    fn claim(share: u64, priority: i32) -> Claim {
        Claim { share: cpu(share), priority, guaranteed: false, since: Timestamp::UNIX_EPOCH }
    }

    /// A node of 1000 with three pods of 300.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(cpu(1000));
        for uid in ["a", "b", "c"] {
            assert!(ledger.hold(uid, Some(cpu(300))).is_empty());
        }
        assert!(ledger.complete().is_empty());
        ledger
    }

    #[test]
    fn what_fits_is_granted_and_kept() {
        let mut ledger = ledger();
        assert_eq!(ledger.claim("a", claim(400, 0)), Answer::Granted);
        let Answer::Short(shortage) = ledger.claim("b", claim(400, 0)) else { panic!("granted") };
        assert_eq!(
            shortage.to_string(),
            "Node didn't have enough resource: cpu, requested: 400, used: 700, capacity: 1000"
        );
        assert_eq!(ledger.hold("a", Some(cpu(300))), ["b"]);
    }

    #[test]
    fn who_waits_is_served_by_rank() {
        let mut ledger = ledger();
        for (uid, priority) in [("a", 0), ("b", 5)] {
            assert!(matches!(ledger.claim(uid, claim(600, priority)), Answer::Short(_)));
        }
        assert_eq!(ledger.hold("c", None), ["b"]);
        assert_eq!(ledger.hold("b", None), ["a"]);
    }

    #[test]
    fn to_need_less_is_always_granted() {
        let mut ledger = ledger();
        assert!(ledger.hold("d", Some(cpu(5000))).is_empty());
        assert_eq!(ledger.claim("a", claim(200, 0)), Answer::Granted);
        assert!(matches!(ledger.claim("a", claim(301, 0)), Answer::Short(_)));
        ledger.withdraw("a");
        assert!(ledger.hold("d", None).is_empty());
    }

    #[test]
    fn nothing_is_granted_before_all_pods_are_known() {
        let mut ledger = Ledger::new(cpu(1000));
        ledger.hold("a", Some(cpu(100)));
        assert_eq!(ledger.claim("a", claim(900, 0)), Answer::TooEarly);
        ledger.hold("b", Some(cpu(300)));
        assert!(ledger.complete().is_empty());
        assert_eq!(ledger.hold("b", Some(cpu(100))), ["a"]);
    }
}
