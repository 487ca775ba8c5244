//! Who asks, and what they may: certificates, tokens, RBAC.

pub mod access;
pub mod aggregate;
pub mod authn;
pub mod authz;
pub mod escalation;
mod expiring;
pub mod file;
pub mod flags;
pub mod graph;
pub mod node;
pub mod options;
pub mod pki;
pub mod rbac;
pub mod reviews;
pub mod setup;
pub mod suites;
pub mod tls;
pub mod tokens;
mod webhook;

pub use authn::{Authenticator, Peer};
pub use authz::{Attributes, Authorizer, Decision};
pub use pki::Pki;
