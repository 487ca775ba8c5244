//! The node agent (kubelet): runs the pods that are bound to its node, on containerd.

pub mod cgroups;
pub mod config;
pub mod events;
pub mod logger;
pub mod network;
pub mod objects;
pub mod pods;
pub mod probes;
pub mod runtime;
pub mod volumes;

mod sys;
