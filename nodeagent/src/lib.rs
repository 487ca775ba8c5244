//! The node agent (kubelet): runs the pods that are bound to its node, on containerd.
//!
//! `pods` holds the life of a pod: pure plans and statuses, and one worker a pod that carries them out. `runtime` is what it asks of a container runtime, with a real and a simulated implementation.
//! `probes` and `volumes` serve the workers, `node` keeps the Node and its Lease, `server` answers logs, exec, attach and port-forward, `agent` wires all of it.

pub mod agent;
pub mod certificates;
pub mod cgroups;
pub mod config;
pub mod events;
pub mod logger;
pub mod metrics;
pub mod network;
pub mod node;
pub mod objects;
pub mod pods;
pub mod probes;
pub mod runtime;
pub mod server;
pub mod volumes;

mod sys;

pub use agent::{Agent, Error};
pub use config::Config;
