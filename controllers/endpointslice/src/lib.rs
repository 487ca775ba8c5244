//! endpointslice-controller.
pub mod plan;
