//! The agent on the simulated runtime against a real API server in this process.

#![expect(clippy::unwrap_used, reason = "helpers of tests too fail by panicking")]

mod bootstrap;
mod pods;
mod streams;
mod world;
