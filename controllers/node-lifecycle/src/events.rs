//! What users are told about nodes and their pods, in upstream's words.

use kit::Event;

/// A node appeared.
pub fn registered(node: &str) -> Event {
    Event::normal(
        "RegisteredNode",
        format!("Node {node} event: Registered Node {node} in Controller"),
    )
}

/// A node went away.
pub fn removed(node: &str) -> Event {
    Event::normal(
        "RemovingNode",
        format!("Node {node} event: Removing Node {node} from Controller"),
    )
}

/// A node is not ready any more.
pub fn node_not_ready(node: &str) -> Event {
    Event::normal("NodeNotReady", format!("Node {node} status is now: NodeNotReady"))
}

/// A pod's node is not ready any more.
pub fn pod_not_ready() -> Event {
    Event::warning("NodeNotReady", "Node is not ready")
}

/// A pod is evicted.
pub fn evicted(pod: &str) -> Event {
    Event::normal("TaintManagerEviction", format!("Marking for deletion Pod {pod}"))
}
