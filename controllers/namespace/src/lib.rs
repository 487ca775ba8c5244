//! namespace-controller.
