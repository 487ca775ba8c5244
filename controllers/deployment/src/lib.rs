//! deployment-controller.
