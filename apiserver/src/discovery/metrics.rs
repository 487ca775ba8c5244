//! Metrics in the names that dashboards of Kubernetes API servers use.
//!
//! Labels come from what is served, never from what clients send: unknown resources share one label.

mod checks;
mod scraped;

use std::fmt;
use std::time::{Duration, Instant};

pub use checks::{Checks, Verdict};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::registry::Resource;
use crate::request::RequestInfo;
use crate::server::Core;

/// Upper bounds of the request duration buckets, in seconds: from a cached read to a slow webhook.
const SECONDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Verbs and methods that are told apart.
const VERBS: [&str; 14] = [
    "CONNECT",
    "CREATE",
    "DELETE",
    "DELETECOLLECTION",
    "GET",
    "HEAD",
    "LIST",
    "OPTIONS",
    "PATCH",
    "POST",
    "PUT",
    "TRACE",
    "UPDATE",
    "WATCH",
];

/// Who answers.
const COMPONENT: &str = "apiserver";

/// What a request was about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Labels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

impl Labels {
    /// The labels of a request to a served resource, or to a path.
    pub fn of(request: &RequestInfo, resource: Option<&Resource>) -> Self {
        let verb = request.verb.to_uppercase();
        let verb = if VERBS.contains(&&*verb) { verb } else { "OTHER".to_owned() };
        let Some(resource) = resource.filter(|_| request.is_resource) else {
            return Self {
                verb,
                group: String::new(),
                version: String::new(),
                resource: String::new(),
                subresource: String::new(),
                scope: "",
                component: COMPONENT,
            };
        };
        let subresource = match request.subresource.as_str() {
            "" => "",
            known if resource.subresources.contains_key(known) => known,
            _ => "other",
        };
        Self {
            verb,
            group: request.group.clone(),
            version: request.version.clone(),
            resource: request.resource.clone(),
            subresource: subresource.to_owned(),
            scope: match (request.name.is_empty(), request.namespace.is_empty()) {
                (false, _) => "resource",
                (true, false) => "namespace",
                (true, true) => "cluster",
            },
            component: COMPONENT,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WithCode {
    #[prometheus(flatten)]
    labels: Labels,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResource {
    group: String,
    version: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStore {
    operation: &'static str,
}

/// Everything the server counts.
pub struct Metrics {
    registry: Registry,
    requests: Family<WithCode, Counter>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    reading: Gauge,
    changing: Gauge,
    watches: Family<Labels, Gauge>,
    store: Family<OfStore, Histogram, fn() -> Histogram>,
    watch_events: Family<OfResource, Counter>,
    checks: Checks,
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
            reading: Gauge::default(),
            changing: Gauge::default(),
            watches: Family::default(),
            store: Family::new_with_constructor(histogram),
            watch_events: Family::default(),
            checks: Checks::default(),
        };
        let running = Family::<OfKind, Gauge>::default();
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
            running.clone(),
        );
        metrics.reading = running.get_or_create_owned(&OfKind { request_kind: "readOnly" });
        metrics.changing = running.get_or_create_owned(&OfKind { request_kind: "mutating" });
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
            "apiserver_watch_events",
            "Events that watches were sent",
            metrics.watch_events.clone(),
        );
        metrics.checks.register(registry);
        metrics
    }
}

impl Metrics {
    /// Where other areas put theirs, before the server starts.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// A request begins; the guard ends it. Watches and streams do not count.
    pub fn begin(&self, changes: bool) -> Running {
        let gauge = if changes { &self.changing } else { &self.reading };
        gauge.inc();
        Running(gauge.clone())
    }

    /// A request was answered with `code` after `duration`.
    pub fn answered(&self, labels: &Labels, code: u16, duration: Duration) {
        self.requests.get_or_create(&WithCode { labels: labels.clone(), code }).inc();
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

    /// Measures how long the store takes for `operation` (`get`, `create`, `update`, `delete`).
    pub async fn timed<T>(&self, operation: &'static str, asked: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let answer = asked.await;
        self.store.get_or_create(&OfStore { operation }).observe(started.elapsed().as_secs_f64());
        answer
    }

    /// What becomes of requests before they are answered.
    pub fn checks(&self) -> &Checks {
        &self.checks
    }

    /// Counts the events of watches of one resource.
    pub fn watch_events(&self, resource: &Resource) -> Counter {
        self.watch_events.get_or_create_owned(&OfResource {
            group: resource.group.clone(),
            version: resource.version.clone(),
            resource: resource.name.clone(),
        })
    }

    /// All of it as text, for `/metrics`, with what `core` is made of now.
    ///
    /// # Errors
    /// Only if the text cannot be written, which is a bug.
    pub fn render(&self, core: Option<&Core>) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode_registry(&mut out, &self.registry)?;
        if let Some(core) = core {
            text::encode_registry(&mut out, &scraped::registry(core))?;
        }
        text::encode_eof(&mut out)?;
        Ok(out)
    }
}

/// Counts as running until it is dropped.
#[derive(Debug)]
pub struct Running(Gauge);

impl Running {
    /// Passes something on; whoever does, holds the guard.
    pub fn pass<T>(&self, value: T) -> T {
        value
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;
    use std::sync::Arc;

    fn registry() -> crate::registry::Registry {
        let store: Arc<dyn store::Store> = Arc::new(store::MemoryStore::new());
        crate::registry::Registry::hosted(&store)
    }

    #[tokio::test]
    async fn every_metric_is_used() {
        let metrics = Metrics::default();
        let info = RequestInfo::parse(&Method::GET, "/api/v1/namespaces/a/pods", None);
        let registry = registry();
        let labels = Labels::of(&info, registry.get("", "v1", "pods").map(|pods| &**pods));
        {
            let _running = metrics.begin(true);
            let _watching = metrics.watching(&labels);
            metrics.answered(&labels, 200, Duration::from_millis(3));
            metrics.timed("get", async {}).await;
            metrics.checks().authenticated(Some("jane@example.com"), Duration::ZERO);
            metrics.checks().authorized(Verdict::NoOpinion, Duration::ZERO);
            let text = metrics.render(None).unwrap();
            for line in [
                "apiserver_request_total{verb=\"LIST\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",scope=\"namespace\",component=\"apiserver\",code=\"200\"} 1",
                "apiserver_current_inflight_requests{request_kind=\"mutating\"} 1",
                "apiserver_longrunning_requests{verb=\"LIST\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",scope=\"namespace\",component=\"apiserver\"} 1",
                "etcd_request_duration_seconds_count{operation=\"get\"} 1",
                "authentication_attempts{result=\"success\"} 1",
                "authenticated_user_requests{username=\"email_id\"} 1",
                "authentication_duration_seconds_count{result=\"success\"} 1",
                "authorization_attempts_total{result=\"no-opinion\"} 1",
                "authorization_duration_seconds_count{result=\"no-opinion\"} 1",
            ] {
                assert!(text.contains(line), "{line} is missing in\n{text}");
            }
        }
        assert!(
            metrics
                .render(None)
                .unwrap()
                .contains("apiserver_current_inflight_requests{request_kind=\"mutating\"} 0")
        );
    }

    #[test]
    fn what_is_not_served_has_no_labels() {
        let info = RequestInfo::parse(&Method::GET, "/apis/evil.io/v1/x", None);
        let labels = Labels::of(&info, None);
        assert_eq!(labels.group, "");
        assert_eq!(labels.resource, "");
    }

    #[test]
    fn clients_make_no_labels() {
        let registry = registry();
        let pods = registry.get("", "v1", "pods").map(|pods| &**pods);
        let labels = |method: &str, path: &str| {
            let info = RequestInfo::parse(&method.parse().unwrap(), path, None);
            let labels = Labels::of(&info, pods);
            (labels.verb, labels.subresource)
        };
        let pod = "/api/v1/namespaces/a/pods/b";
        assert_eq!(labels("GET", &format!("{pod}/log")), ("GET".into(), "log".into()));
        assert_eq!(labels("GET", &format!("{pod}/x1")), ("GET".into(), "other".into()));
        assert_eq!(labels("X1", "/").0, "OTHER");
        assert_eq!(labels("X1", pod).0, "OTHER");
    }
}
