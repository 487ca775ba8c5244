//! Nodes that are silent: what is said about them instead.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How long a node may be silent.
///
/// Source: `--node-monitor-grace-period` of kube-controller-manager.
pub const GRACE: Duration = Duration::from_secs(50);

/// How long a node may be silent that has never said anything.
///
/// Source: `--node-startup-grace-period` of kube-controller-manager.
pub const STARTUP_GRACE: Duration = Duration::from_secs(60);

/// The conditions that its agent keeps.
const KEPT: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The conditions of a node that has been silent for so long; none if nothing has to be said.
pub fn silenced(
    old: &[NodeCondition],
    silent_for: Duration,
    created: Option<Timestamp>,
    now: Timestamp,
) -> Option<Vec<NodeCondition>> {
    let never_spoke = !old.iter().any(|c| c.type_ == "Ready");
    if silent_for < if never_spoke { STARTUP_GRACE } else { GRACE } {
        return None;
    }
    let mut new = old.to_vec();
    for type_ in KEPT {
        match new.iter_mut().find(|c| c.type_ == type_) {
            None => new.push(NodeCondition {
                type_: type_.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: created.map(Time),
                last_transition_time: Some(Time(now)),
            }),
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(Time(now));
            }
            Some(_) => (),
        }
    }
    (new != old).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(type_: &str, status: &str) -> NodeCondition {
        NodeCondition { type_: type_.into(), status: status.into(), ..NodeCondition::default() }
    }

    #[track_caller]
    fn check(old: &[NodeCondition], silent_for: u64, expected: &str) {
        let new = silenced(old, Duration::from_secs(silent_for), None, Timestamp::UNIX_EPOCH);
        let text = new.map(|new| {
            let one = |c: &NodeCondition| {
                format!("{} {} {}", c.type_, c.status, c.reason.as_deref().unwrap_or("-"))
            };
            new.iter().map(one).collect::<Vec<_>>().join(", ")
        });
        assert_eq!(text.unwrap_or_default(), expected);
    }

    #[test]
    fn a_node_is_given_its_grace() {
        check(&[condition("Ready", "True")], 49, "");
        check(
            &[condition("Ready", "True"), condition("NetworkUnavailable", "False")],
            50,
            "Ready Unknown NodeStatusUnknown, NetworkUnavailable False -, MemoryPressure Unknown NodeStatusNeverUpdated, \
             DiskPressure Unknown NodeStatusNeverUpdated, PIDPressure Unknown NodeStatusNeverUpdated",
        );
    }

    #[test]
    fn a_node_that_never_spoke_is_given_longer() {
        check(&[], 59, "");
        check(
            &[],
            60,
            "Ready Unknown NodeStatusNeverUpdated, MemoryPressure Unknown NodeStatusNeverUpdated, \
             DiskPressure Unknown NodeStatusNeverUpdated, PIDPressure Unknown NodeStatusNeverUpdated",
        );
    }

    #[test]
    fn it_is_said_once() {
        let all = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]
            .map(|t| condition(t, "Unknown"));
        check(&all, 1000, "");
    }
}
