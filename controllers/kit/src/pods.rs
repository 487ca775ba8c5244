//! What several players must agree on about a pod.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};

/// Whether the pod has ended for good.
#[must_use]
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod counts as a replica: neither ended nor being deleted.
#[must_use]
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Whether the pod is being deleted and has not ended yet.
#[must_use]
pub fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_some()
}

/// `status.phase`; a pod that nobody has looked at is pending.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Whether the condition `Ready` is true.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when the pod is ready, if it is and says so.
#[must_use]
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// How long it takes until the pod has been ready for `min_ready`: zero if it has, `None` if it is
/// not ready.
///
/// Source: `IsPodAvailable` in upstream `pkg/api/v1/pod/util.go`.
#[must_use]
pub fn available_in(pod: &Pod, min_ready: Duration, now: Timestamp) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready.is_zero() {
        return Some(Duration::ZERO);
    }
    let ready_for = now.duration_since(ready_since(pod)?);
    let left = SignedDuration::try_from(min_ready).ok()?.checked_sub(ready_for)?;
    Some(Duration::try_from(left).unwrap_or_default())
}

/// The pod's condition of that type.
#[must_use]
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::PodStatus, apimachinery::pkg::apis::meta::v1::Time};

    use super::*;

    fn ready_at(second: i64) -> Pod {
        let ready = PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(Time(Timestamp::from_second(second).unwrap())),
            ..PodCondition::default()
        };
        let status = PodStatus { conditions: Some(vec![ready]), ..PodStatus::default() };
        Pod { status: Some(status), ..Pod::default() }
    }

    #[track_caller]
    fn check(pod: &Pod, min_ready: u64, now: i64, expected: Option<u64>) {
        let now = Timestamp::from_second(now).unwrap();
        let left = available_in(pod, Duration::from_secs(min_ready), now);
        assert_eq!(left, expected.map(Duration::from_secs));
    }

    #[test]
    fn a_pod_is_available_after_its_time() {
        check(&Pod::default(), 0, 0, None);
        check(&ready_at(100), 0, 0, Some(0));
        check(&ready_at(100), 10, 103, Some(7));
        check(&ready_at(100), 10, 110, Some(0));
        check(&ready_at(100), 10, 500, Some(0));
    }
}
