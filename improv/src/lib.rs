//! improv.
