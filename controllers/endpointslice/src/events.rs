//! What users are told about their Services, in upstream's words.

use kit::Event;

/// Its EndpointSlices could not be written.
pub fn slices_failed(service: &str, error: &str) -> Event {
    let note = format!("Error updating Endpoint Slices for Service {service}: {error}");
    Event::warning("FailedToUpdateEndpointSlices", note)
}

/// Its Endpoints could not be written.
pub fn endpoints_failed(service: &str, error: &str) -> Event {
    let note = format!("Failed to update endpoint {service}: {error}");
    Event::warning("FailedToUpdateEndpoint", note)
}
