//! replicaset-controller.
