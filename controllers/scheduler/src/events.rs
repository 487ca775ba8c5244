//! What users are told about their pods, in upstream's words.

use kit::Event;

/// The pod has a node.
pub fn scheduled(namespace: &str, name: &str, node: &str) -> Event {
    let note = format!("Successfully assigned {namespace}/{name} to {node}");
    Event { action: "Binding", ..Event::normal("Scheduled", note) }
}

/// No node will do, or the decision was refused.
pub fn failed(message: &str) -> Event {
    Event { action: "Scheduling", ..Event::warning("FailedScheduling", message) }
}
