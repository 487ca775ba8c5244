//! Events about ReplicaSets; reasons and wording equal upstream's, since people and tools match them.

use kit::Event;

/// A pod was created.
#[must_use]
pub fn successful_create(pod: &str) -> Event {
    Event {
        action: "CreatePod",
        ..Event::normal("SuccessfulCreate", format!("Created pod: {pod}"))
    }
}

/// A pod could not be created.
#[must_use]
pub fn failed_create(error: &str) -> Event {
    Event {
        action: "CreatePod",
        ..Event::warning("FailedCreate", format!("Error creating: {error}"))
    }
}

/// A pod was deleted.
#[must_use]
pub fn successful_delete(pod: &str) -> Event {
    Event {
        action: "DeletePod",
        ..Event::normal("SuccessfulDelete", format!("Deleted pod: {pod}"))
    }
}

/// A pod could not be deleted.
#[must_use]
pub fn failed_delete(error: &str) -> Event {
    Event {
        action: "DeletePod",
        ..Event::warning("FailedDelete", format!("Error deleting: {error}"))
    }
}
