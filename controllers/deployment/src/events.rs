//! Events about Deployments; reasons and wording equal upstream's, since people and tools match them.

use std::cmp::Ordering;

use kit::Event;

/// A ReplicaSet was created with replicas, or scaled; `None` if its size stayed.
#[must_use]
pub fn scaling_replica_set(name: &str, from: i32, to: i32) -> Option<Event> {
    let direction = match to.cmp(&from) {
        Ordering::Greater => "up",
        Ordering::Less => "down",
        Ordering::Equal => return None,
    };
    let note = format!("Scaled {direction} replica set {name} from {from} to {to}");
    Some(Event::normal("ScalingReplicaSet", note))
}

/// The new ReplicaSet could not be created.
#[must_use]
pub fn replica_set_create_error(message: &str) -> Event {
    Event::warning("ReplicaSetCreateError", message)
}

/// The selector would take in everything.
#[must_use]
pub fn selecting_all() -> Event {
    Event::warning(
        "SelectingAll",
        "This deployment is selecting all pods. A non-empty selector is required.",
    )
}
