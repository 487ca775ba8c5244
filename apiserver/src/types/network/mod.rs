//! Ingresses, network policies, endpoints, and addresses of services.

mod endpoints;
mod ingress;
mod policy;
mod ranges;

pub(super) use endpoints::{Endpoints, Slices};
pub(super) use ingress::{IngressClasses, Ingresses};
pub(super) use policy::Policies;
pub(super) use ranges::{Addresses, Ranges};
