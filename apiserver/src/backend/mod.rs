//! Servers that this one calls: webhooks, and API servers behind Services.
//!
//! A name is resolved once and that address is dialled; redirects are never followed (CVE-2020-8561).

mod client;
mod dial;
mod service;
mod trust;

pub use client::{Client, Place};
pub(crate) use dial::{BoxedStream, DialError, connect};
pub(crate) use service::resolve;
pub(crate) use trust::{Trust, config as tls_config};
