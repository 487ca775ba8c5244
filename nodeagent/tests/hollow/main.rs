//! The agent on the simulated runtime against a real API server in this process.

mod pods;
mod world;
