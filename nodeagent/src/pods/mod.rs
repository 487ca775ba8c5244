//! Pods: what is wanted, what is seen, what to do, and what to report.

pub mod dns;
pub mod env;
pub mod observed;
pub mod plan;
pub mod quantity;
pub mod spec;
pub mod status;
