//! Behaviour of the whole server, as clients see it: one module for each side of it.
//!
//! One program, since linking thirty takes longer than running them. What watches the memory of its
//! own process or would disturb its neighbours has a program of its own beside this one.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod admission;
mod aggregation;
mod audit;
mod conversion;
mod definitions;
mod discovery;
mod enablement;
mod fairness;
mod files;
mod identity;
mod kube_rs;
mod kubeadm;
mod limits;
mod metrics;
mod node_restriction;
mod objects;
mod outside;
mod policies;
mod presence;
mod proxies;
mod restarts;
mod rights;
mod servers;
mod service_addresses;
mod support;
mod unavailable;
mod watches;
mod webhooks;
