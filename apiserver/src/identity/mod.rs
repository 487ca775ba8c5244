//! Who asks, and what they may: certificates, tokens, RBAC.

pub mod aggregate;
pub mod authn;
pub mod authz;
pub mod escalation;
pub mod node;
pub mod pki;
pub mod rbac;
pub mod reviews;
pub mod tls;
pub mod tokens;

pub use authn::{Authenticator, Peer};
pub use authz::{Attributes, Authorizer, Decision};
pub use pki::Pki;
