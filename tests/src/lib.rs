//! improv-tests.
