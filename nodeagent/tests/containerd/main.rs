//! The runtime on a real, private containerd. Needs root, containerd, runc, nft, busybox-static, docker-registry.

#![expect(clippy::unwrap_used, reason = "helpers of tests too fail by panicking")]

mod agent;
mod images;
mod life;
mod network;
mod recovery;
mod resize;
mod rights;
mod streams;
mod world;
