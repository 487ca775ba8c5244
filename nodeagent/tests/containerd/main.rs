//! The runtime on a real, private containerd. Needs root, containerd, runc, nft, busybox-static, docker-registry.

mod life;
mod world;
