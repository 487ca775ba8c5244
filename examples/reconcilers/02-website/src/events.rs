//! What users read in `kubectl describe website`.

use kit::Event;

/// The page can be read, for the first time or again.
#[must_use]
pub fn published(url: &str) -> Event {
    Event::normal("Published", format!("The website is served at {url}"))
}

/// An object could not be written.
#[must_use]
pub fn failed(what: &str, error: &str) -> Event {
    Event::warning("Failed", format!("Could not write the {what}: {error}"))
}
