//! improv-schema.
