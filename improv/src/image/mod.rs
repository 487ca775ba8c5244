//! Images without Docker: build one from files, import one into the cluster's containerd.

pub mod build;
