//! Election with rank, on an ordinary Lease.
//!
//! Of two candidates that could both play, the better one leads: a chart's before a built-in one, a
//! higher version before a lower. A better candidate writes a *claim* on the Lease as an annotation;
//! the holder sees it, finishes its reconciles and releases. A killed leader's Lease expires, one
//! that gets SIGTERM releases at once. It needs nothing but `coordination.k8s.io/v1`, so it works
//! on any Kubernetes, and holders that know nothing of ranks are left alone.
//!
//! [`decide`](decide()) is the rule, [`Election`] does what it says.

mod decide;
mod hold;

pub use decide::{BUILT_IN, CHART, Candidate, Claim, Rank, Record, Step, Timing, View, decide};
pub use hold::{Election, Leadership};
