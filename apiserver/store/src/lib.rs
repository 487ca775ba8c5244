//! improv-store.
