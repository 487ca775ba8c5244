//! How long a pod may stay on a node with taints that evict.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

/// A taint that evicts, and since when it has.
#[derive(Clone, Debug)]
pub struct Evicting {
    /// The taint.
    pub taint: Taint,
    /// When it was added, or seen first.
    pub since: Timestamp,
}

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may stay for ever.
    Stay,
    /// It must go at this time.
    Leave(Timestamp),
}

/// What becomes of a pod that has been on its node since `since`.
///
/// The shortest toleration of all taints counts, and one taint that is not tolerated is enough.
pub fn verdict(pod: &Pod, since: Timestamp, taints: &[Evicting], now: Timestamp) -> Verdict {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut leave: Option<Timestamp> = None;
    for evicting in taints {
        let mut bearing = tolerations.iter().filter(|t| tolerates(t, &evicting.taint)).peekable();
        if bearing.peek().is_none() {
            return Verdict::Leave(now);
        }
        let shortest = bearing.filter_map(|t| t.toleration_seconds).min();
        if let Some(seconds) = shortest {
            let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            let at = evicting.since.max(since).checked_add(seconds).unwrap_or(Timestamp::MAX);
            leave = Some(leave.map_or(at, |leave| leave.min(at)));
        }
    }
    leave.map_or(Verdict::Stay, |at| Verdict::Leave(at.max(now)))
}

/// Since when a pod is on its node.
pub fn placed_since(pod: &Pod) -> Timestamp {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let scheduled = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "True");
    let scheduled = scheduled.and_then(|c| c.last_transition_time.as_ref());
    let created = pod.metadata.creation_timestamp.as_ref();
    scheduled.or(created).map_or(Timestamp::UNIX_EPOCH, |t| t.0)
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    let exists = toleration.operator.as_deref() == Some("Exists");
    (effect.is_empty() || effect == taint.effect)
        && (key == taint.key || (key.is_empty() && exists))
        && (exists || text(&toleration.value) == text(&taint.value))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Taints since 100 and 200, the pod since 150, and it is 160 now.
    #[track_caller]
    fn check(tolerations: Value, keys: &[&str], expected: &str) {
        let pod: Pod =
            serde_json::from_value(json!({"spec": {"containers": [], "tolerations": tolerations}}))
                .unwrap();
        let evicting = |(i, key): (usize, &&str)| Evicting {
            taint: Taint { key: (*key).into(), effect: "NoExecute".into(), ..Taint::default() },
            since: at(100 + 100 * i64::try_from(i).unwrap()),
        };
        let taints: Vec<_> = keys.iter().enumerate().map(evicting).collect();
        let text = match verdict(&pod, at(150), &taints, at(160)) {
            Verdict::Stay => "stay".to_owned(),
            Verdict::Leave(when) => when.as_second().to_string(),
        };
        assert_eq!(text, expected);
    }

    fn bears(key: &str, seconds: Option<i64>) -> Value {
        json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds})
    }

    #[test]
    fn without_toleration_it_leaves_now() {
        check(json!([]), &["a"], "160");
        check(json!([bears("a", None)]), &["a", "b"], "160");
        check(json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]), &["a"], "160");
    }

    #[test]
    fn without_limit_it_stays() {
        check(json!([]), &[], "stay");
        check(json!([bears("a", None)]), &["a"], "stay");
        check(json!([{"operator": "Exists"}]), &["a", "b"], "stay");
    }

    #[test]
    fn the_limit_counts_from_when_both_were_there() {
        check(json!([bears("a", Some(30))]), &["a"], "180");
        check(json!([bears("a", Some(5))]), &["a"], "160");
        check(json!([bears("a", Some(-1))]), &["a"], "160");
    }

    #[test]
    fn the_shortest_limit_counts() {
        check(
            json!([bears("a", Some(300)), bears("a", Some(20)), bears("a", None)]),
            &["a"],
            "170",
        );
        check(json!([bears("a", Some(300)), bears("b", Some(30))]), &["a", "b"], "230");
    }
}
