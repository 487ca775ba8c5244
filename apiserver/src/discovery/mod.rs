//! Documents about what is served, and health.
