//! Pods: what is wanted, what is seen, what to do, and what to report.

pub mod admission;
pub mod adopt;
pub mod allotment;
pub mod context;
pub mod dns;
pub mod env;
pub mod ledger;
pub mod leftovers;
pub mod observed;
pub mod plan;
pub mod quantity;
mod report;
pub mod shares;
pub mod spec;
pub mod status;
mod steps;
pub mod worker;

pub use steps::log_path;
