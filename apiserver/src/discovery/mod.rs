//! Documents about what is served, and health.

pub mod documents;
pub mod health;
pub mod metrics;
