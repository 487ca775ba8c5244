//! garbage-collector-controller.
pub mod graph;
pub mod plan;
