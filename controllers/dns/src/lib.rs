//! kube-dns: gives Services and their endpoints names.
//!
//! [`zone`] turns Services and EndpointSlices into records, [`answer`] turns a query into an answer; both are pure.
//! [`server`] owns the sockets.

pub mod answer;
pub mod server;
pub mod zone;
