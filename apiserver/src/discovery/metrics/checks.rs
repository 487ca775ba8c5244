//! Who comes, and whether they may, in upstream's names.
//!
//! Source: upstream `apiserver/pkg/endpoints/filters/metrics.go`.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfUser {
    username: &'static str,
}

/// What authorizers say of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One allows it.
    Allowed,
    /// One forbids it.
    Denied,
    /// None allows it.
    NoOpinion,
}

/// What becomes of requests before they are answered.
#[derive(Clone, Debug)]
pub struct Checks {
    // Gauges, since upstream's names lack the `_total` that every counter gets here.
    attempts: Family<Outcome, Gauge>,
    users: Family<OfUser, Gauge>,
    authentication: Family<Outcome, Histogram, fn() -> Histogram>,
    decisions: Family<Outcome, Counter>,
    authorization: Family<Outcome, Histogram, fn() -> Histogram>,
}

impl Default for Checks {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        Self {
            attempts: Family::default(),
            users: Family::default(),
            authentication: Family::new_with_constructor(histogram),
            decisions: Family::default(),
            authorization: Family::new_with_constructor(histogram),
        }
    }
}

impl Checks {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "authentication_attempts",
            "Requests by their credentials",
            self.attempts.clone(),
        );
        registry.register(
            "authenticated_user_requests",
            "Requests by kind of user",
            self.users.clone(),
        );
        registry.register(
            "authentication_duration_seconds",
            "Time to find out who asks",
            self.authentication.clone(),
        );
        registry.register("authorization_attempts", "Decisions", self.decisions.clone());
        registry.register(
            "authorization_duration_seconds",
            "Time to find out whether they may",
            self.authorization.clone(),
        );
    }

    /// A request's credentials were judged: they are those of `user`, or no good.
    pub fn authenticated(&self, user: Option<&str>, elapsed: Duration) {
        let outcome = Outcome { result: if user.is_some() { "success" } else { "failure" } };
        self.attempts.get_or_create(&outcome).inc();
        self.authentication.get_or_create(&outcome).observe(elapsed.as_secs_f64());
        if let Some(name) = user {
            self.users.get_or_create(&OfUser { username: kind_of(name) }).inc();
        }
    }

    /// A request's rights were judged.
    pub fn authorized(&self, verdict: Verdict, elapsed: Duration) {
        let result = match verdict {
            Verdict::Allowed => "allowed",
            Verdict::Denied => "denied",
            Verdict::NoOpinion => "no-opinion",
        };
        self.decisions.get_or_create(&Outcome { result }).inc();
        self.authorization.get_or_create(&Outcome { result }).observe(elapsed.as_secs_f64());
    }
}

/// Users in a few groups: their names are nobody else's business, and without end.
///
/// Source: `compressUsername` there.
fn kind_of(name: &str) -> &'static str {
    const KNOWN: [&str; 5] =
        ["admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default"];
    match KNOWN.iter().find(|known| **known == name) {
        Some(known) => known,
        None if name.contains('@') => "email_id",
        None => "other",
    }
}
