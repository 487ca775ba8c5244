//! hello-reconciler.
