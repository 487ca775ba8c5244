//! serviceaccount-controller.
