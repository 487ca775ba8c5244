//! garbage-collector-controller.
