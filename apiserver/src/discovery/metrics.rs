//! Metrics in the names that dashboards of Kubernetes API servers use.
//!
//! Labels come from what is served, never from what clients send: unknown resources share one label.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::request::RequestInfo;

/// Upper bounds of the request duration buckets, in seconds: from a cached read to a slow webhook.
const SECONDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// What a request was about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Labels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

impl Labels {
    /// The labels of a request to a served resource, or to a path.
    pub fn of(request: &RequestInfo, served: bool) -> Self {
        if !served || !request.is_resource {
            return Self {
                verb: request.verb.to_uppercase(),
                group: String::new(),
                version: String::new(),
                resource: String::new(),
                subresource: String::new(),
                scope: "",
            };
        }
        Self {
            verb: request.verb.to_uppercase(),
            group: request.group.clone(),
            version: request.version.clone(),
            resource: request.resource.clone(),
            subresource: request.subresource.clone(),
            scope: match (request.name.is_empty(), request.namespace.is_empty()) {
                (false, _) => "resource",
                (true, false) => "namespace",
                (true, true) => "cluster",
            },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WithCode {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStore {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Everything the server counts.
pub struct Metrics {
    registry: Registry,
    requests: Family<WithCode, Counter>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    running: Gauge,
    watches: Family<Labels, Gauge>,
    store: Family<OfStore, Histogram, fn() -> Histogram>,
    authentications: Family<Outcome, Counter>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            running: Gauge::default(),
            watches: Family::default(),
            store: Family::new_with_constructor(histogram),
            authentications: Family::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("apiserver_request", "Answered requests", metrics.requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Time to the answer's head, watches left out",
            metrics.durations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests without an answer yet",
            metrics.running.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Open watches",
            metrics.watches.clone(),
        );
        registry.register(
            "etcd_request_duration_seconds",
            "Time that the store took",
            metrics.store.clone(),
        );
        registry.register(
            "authentication_attempts",
            "Requests by what became of their credentials",
            metrics.authentications.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// A request begins; the guard ends it.
    pub fn begin(&self) -> Running {
        self.running.inc();
        Running(self.running.clone())
    }

    /// A request was answered with `code` after `duration`.
    pub fn answered(&self, labels: &Labels, code: u16, duration: Duration) {
        let l = labels.clone();
        let with_code = WithCode {
            verb: l.verb,
            group: l.group,
            version: l.version,
            resource: l.resource,
            subresource: l.subresource,
            scope: l.scope,
            component: "apiserver",
            code,
        };
        self.requests.get_or_create(&with_code).inc();
        if labels.verb != "WATCH" {
            self.durations.get_or_create(labels).observe(duration.as_secs_f64());
        }
    }

    /// A watch is open until the guard is dropped.
    pub fn watching(&self, labels: &Labels) -> Running {
        let gauge = self.watches.get_or_create_owned(labels);
        gauge.inc();
        Running(gauge)
    }

    /// The store took `duration` for `operation` (`get`, `list`, `commit`).
    pub fn stored(&self, operation: &'static str, duration: Duration) {
        self.store.get_or_create(&OfStore { operation }).observe(duration.as_secs_f64());
    }

    /// A request's credentials were good or not.
    pub fn authenticated(&self, good: bool) {
        let outcome = if good { "success" } else { "failure" };
        self.authentications.get_or_create(&Outcome { outcome }).inc();
    }

    /// All of it as text, for `/metrics`.
    ///
    /// # Errors
    /// Only if the text cannot be written, which is a bug.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// Counts as running until it is dropped.
#[derive(Debug)]
pub struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn every_metric_is_used() {
        let metrics = Metrics::default();
        let info = RequestInfo::parse(&Method::GET, "/api/v1/namespaces/a/pods", None);
        let labels = Labels::of(&info, true);
        {
            let _running = metrics.begin();
            let _watching = metrics.watching(&labels);
            metrics.answered(&labels, 200, Duration::from_millis(3));
            metrics.stored("get", Duration::from_millis(1));
            metrics.authenticated(true);
            let text = metrics.render().unwrap();
            for line in [
                "apiserver_request_total{verb=\"LIST\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",scope=\"namespace\",component=\"apiserver\",code=\"200\"} 1",
                "apiserver_current_inflight_requests 1",
                "apiserver_longrunning_requests{verb=\"LIST\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",scope=\"namespace\"} 1",
                "etcd_request_duration_seconds_count{operation=\"get\"} 1",
                "authentication_attempts_total{outcome=\"success\"} 1",
            ] {
                assert!(text.contains(line), "{line} is missing in\n{text}");
            }
        }
        assert!(metrics.render().unwrap().contains("apiserver_current_inflight_requests 0"));
    }

    #[test]
    fn what_is_not_served_has_no_labels() {
        let info = RequestInfo::parse(&Method::GET, "/apis/evil.io/v1/x", None);
        let labels = Labels::of(&info, false);
        assert_eq!(labels.group, "");
        assert_eq!(labels.resource, "");
    }
}
