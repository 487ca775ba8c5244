//! The node agent (kubelet): runs the pods that are bound to its node, on containerd.

pub mod runtime;
