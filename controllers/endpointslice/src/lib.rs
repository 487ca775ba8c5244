//! endpointslice-controller.
