//! Whether the server is alive and ready, check by check.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use store::Store;

/// How long the store may take to say where it stands.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// What the server has done since it started; the checks read it.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    /// How long after the start what is not done yet makes nobody take the server for dead.
    livez_grace: Duration,
    caches_synced: AtomicBool,
    bootstrapped: AtomicBool,
    shutting_down: AtomicBool,
    results: Results,
}

impl Default for Health {
    fn default() -> Self {
        Self::new(Duration::ZERO)
    }
}

impl Health {
    /// Nothing has been done yet.
    #[must_use]
    pub fn new(livez_grace: Duration) -> Self {
        Self {
            started: Instant::now(),
            livez_grace,
            caches_synced: AtomicBool::default(),
            bootstrapped: AtomicBool::default(),
            shutting_down: AtomicBool::default(),
            results: Results::default(),
        }
    }

    /// The caches of all hosted types hold what the store holds.
    pub fn caches_are_synced(&self) {
        self.caches_synced.store(true, Ordering::Release);
    }

    /// Namespaces, roles and the other objects of a fresh cluster exist.
    pub fn objects_are_there(&self) {
        self.bootstrapped.store(true, Ordering::Release);
    }

    /// When the server began to start.
    pub fn started(&self) -> Timestamp {
        let age = jiff::SignedDuration::try_from(self.started.elapsed()).unwrap_or_default();
        Timestamp::now() - age
    }

    /// What came out of the checks so far, to be scraped.
    pub fn indicators(&self) -> Registry {
        let mut registry = Registry::default();
        let last = self.results.last.clone();
        registry.register("kubernetes_healthcheck", "What came out of a check last", last);
        let total = self.results.total.clone();
        registry.register("kubernetes_healthchecks", "What came out of checks", total);
        registry
    }

    /// From now on the server is not ready any more.
    pub fn shutting_down(&self) {
        self.shutting_down.store(true, Ordering::Release);
    }

    fn holds(&self, endpoint: Endpoint, check: Check, store_answers: bool) -> bool {
        let starts = endpoint == Endpoint::Live && self.started.elapsed() < self.livez_grace;
        match check {
            Check::Caches | Check::Objects if starts => true,
            Check::Always => true,
            Check::Store => store_answers,
            Check::Caches => self.caches_synced.load(Ordering::Acquire),
            Check::Objects => self.bootstrapped.load(Ordering::Acquire),
            Check::NotStopping => !self.shutting_down.load(Ordering::Acquire),
        }
    }
}

type Label = (&'static str, &'static str);

/// What came out of checks, for `/metrics/slis`.
///
/// Source: KEP-3466; upstream `component-base/metrics/prometheus/slis`.
#[derive(Default)]
struct Results {
    last: Family<[Label; 2], Gauge>,
    total: Family<[Label; 3], Counter>,
}

impl fmt::Debug for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results").finish_non_exhaustive()
    }
}

impl Results {
    fn observe(&self, endpoint: Endpoint, name: &'static str, holds: bool) {
        let [name, endpoint] = [("name", name), ("type", endpoint.name())];
        self.last.get_or_create(&[name, endpoint]).set(holds.into());
        let status = ("status", if holds { "success" } else { "error" });
        self.total.get_or_create(&[name, status, endpoint]).inc();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Always,
    Store,
    Caches,
    Objects,
    NotStopping,
}

/// Checks by the names that monitoring knows, in the order of the answers.
const CHECKS: &[(&str, Check)] = &[
    ("ping", Check::Always),
    ("log", Check::Always),
    ("loopback-serving-certificate", Check::Always),
    ("etcd", Check::Store),
    ("etcd-readiness", Check::Store),
    ("informer-sync", Check::Caches),
    ("poststarthook/start-apiserver-admission-initializer", Check::Caches),
    ("poststarthook/generic-apiserver-start-informers", Check::Caches),
    ("poststarthook/priority-and-fairness-config-consumer", Check::Caches),
    ("poststarthook/priority-and-fairness-filter", Check::Caches),
    ("poststarthook/storage-object-count-tracker-hook", Check::Caches),
    ("poststarthook/start-apiextensions-informers", Check::Caches),
    ("poststarthook/start-apiextensions-controllers", Check::Caches),
    ("poststarthook/crd-informer-synced", Check::Caches),
    ("poststarthook/start-system-namespaces-controller", Check::Objects),
    ("poststarthook/peer-endpoint-reconciler-controller", Check::Caches),
    ("poststarthook/start-cluster-authentication-info-controller", Check::Objects),
    ("poststarthook/start-kube-apiserver-identity-lease-controller", Check::Caches),
    ("poststarthook/start-kube-apiserver-identity-lease-garbage-collector", Check::Caches),
    ("poststarthook/storage-readiness", Check::Store),
    ("poststarthook/start-legacy-token-tracking-controller", Check::Caches),
    ("poststarthook/start-service-ip-repair-controllers", Check::Caches),
    ("poststarthook/rbac/bootstrap-roles", Check::Objects),
    ("poststarthook/scheduling/bootstrap-system-priority-classes", Check::Objects),
    ("poststarthook/priority-and-fairness-config-producer", Check::Objects),
    ("poststarthook/bootstrap-controller", Check::Objects),
    ("poststarthook/start-kubernetes-service-cidr-controller", Check::Objects),
    ("poststarthook/start-kube-aggregator-informers", Check::Caches),
    ("poststarthook/apiservice-status-local-available-controller", Check::Caches),
    ("poststarthook/apiservice-status-remote-available-controller", Check::Caches),
    ("poststarthook/apiservice-registration-controller", Check::Caches),
    ("poststarthook/apiservice-wait-for-first-sync", Check::Objects),
    ("poststarthook/apiservice-discovery-controller", Check::Caches),
    ("poststarthook/kube-apiserver-autoregistration", Check::Objects),
    ("autoregister-completion", Check::Objects),
    ("poststarthook/apiservice-openapi-controller", Check::Caches),
    ("poststarthook/apiservice-openapiv3-controller", Check::Caches),
    ("shutdown", Check::NotStopping),
];

/// `/healthz`, `/livez` or `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/healthz`
    Health,
    /// `/livez`
    Live,
    /// `/readyz`
    Ready,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Health, Self::Live, Self::Ready];

    /// The name, which is also the path's first segment.
    pub fn name(self) -> &'static str {
        match self {
            Self::Health => "healthz",
            Self::Live => "livez",
            Self::Ready => "readyz",
        }
    }

    fn has(self, name: &str) -> bool {
        match name {
            "shutdown" | "informer-sync" | "etcd-readiness" => self == Self::Ready,
            "loopback-serving-certificate" => self != Self::Ready,
            _ => true,
        }
    }

    fn checks(self) -> impl Iterator<Item = (&'static str, Check)> {
        CHECKS.iter().copied().filter(move |(name, _)| self.has(name))
    }

    /// The paths of the endpoint and of its checks.
    pub fn paths(self) -> impl Iterator<Item = String> {
        let checks = self.checks().map(move |(name, _)| format!("/{}/{name}", self.name()));
        std::iter::once(format!("/{}", self.name())).chain(checks)
    }
}

/// Answers `/healthz`, `/healthz/<check>` and the like; `None` if there is no such check.
pub async fn answer(
    health: &Health,
    store: &dyn Store,
    path: &str,
    query: Option<&str>,
) -> Option<Response> {
    let path = path.strip_prefix('/')?;
    let (first, check) = match path.split_once('/') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (path, ""),
    };
    let endpoint = Endpoint::ALL.into_iter().find(|endpoint| endpoint.name() == first)?;
    let store_answers =
        matches!(tokio::time::timeout(STORE_PATIENCE, store.revision()).await, Ok(Ok(_)));
    if !check.is_empty() {
        let (_, kind) = endpoint.checks().find(|(name, _)| *name == check)?;
        return Some(if health.holds(endpoint, kind, store_answers) {
            plain(StatusCode::OK, "ok".to_owned())
        } else {
            plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("internal server error: {check} failed"),
            )
        });
    }
    let asked = Asked::parse(query);
    Some(report(endpoint, &asked, |name, kind| {
        let holds = health.holds(endpoint, kind, store_answers);
        health.results.observe(endpoint, name, holds);
        holds
    }))
}

#[derive(Debug, Default)]
struct Asked {
    verbose: bool,
    excluded: BTreeSet<String>,
}

impl Asked {
    fn parse(query: Option<&str>) -> Self {
        let mut asked = Self::default();
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*key {
                "verbose" => asked.verbose = true,
                "exclude" => asked.excluded.extend(value.split(',').map(str::to_owned)),
                _ => {}
            }
        }
        asked
    }
}

fn report(
    endpoint: Endpoint,
    asked: &Asked,
    holds: impl Fn(&'static str, Check) -> bool,
) -> Response {
    let (mut text, mut failed) = (String::new(), Vec::new());
    let mut unknown = asked.excluded.clone();
    for (name, check) in endpoint.checks() {
        if unknown.remove(name) || asked.excluded.contains(name) {
            text.push_str(&format!("[+]{name} excluded: ok\n"));
        } else if holds(name, check) {
            text.push_str(&format!("[+]{name} ok\n"));
        } else {
            text.push_str(&format!("[-]{name} failed: reason withheld\n"));
            failed.push(name);
        }
    }
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|name| format!("{name:?}")).collect();
        text.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {}\n",
            names.join(",")
        ));
    }
    let name = endpoint.name();
    if !failed.is_empty() {
        text.push_str(&format!("{name} check failed\n"));
        return plain(StatusCode::INTERNAL_SERVER_ERROR, text);
    }
    if !asked.verbose {
        return plain(StatusCode::OK, "ok".to_owned());
    }
    text.push_str(&format!("{name} check passed\n"));
    plain(StatusCode::OK, text)
}

fn plain(code: StatusCode, text: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (code, headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use store::MemoryStore;

    async fn ask(health: &Health, path: &str) -> Option<(u16, String)> {
        let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        let response = answer(health, &MemoryStore::new(), path, query).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Some((status, String::from_utf8(body.to_vec()).unwrap()))
    }

    fn ready() -> Health {
        let health = Health::default();
        health.caches_are_synced();
        health.objects_are_there();
        health
    }

    #[tokio::test]
    async fn a_started_server_is_ready_until_it_stops() {
        assert_eq!(ask(&Health::default(), "/readyz").await.unwrap().0, 500);
        let health = ready();
        assert_eq!(ask(&health, "/readyz").await, Some((200, "ok".to_owned())));
        health.shutting_down();
        let (code, text) = ask(&health, "/readyz").await.unwrap();
        assert_eq!(code, 500);
        assert!(text.contains("[-]shutdown failed: reason withheld\n"), "{text}");
        assert_eq!(ask(&health, "/livez").await, Some((200, "ok".to_owned())));
    }

    #[tokio::test]
    async fn results_can_be_scraped() {
        let health = ready();
        ask(&health, "/readyz?exclude=ping").await.unwrap();
        health.shutting_down();
        ask(&health, "/readyz?exclude=ping").await.unwrap();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &health.indicators()).unwrap();
        for line in [
            "kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1\n",
            "kubernetes_healthcheck{name=\"shutdown\",type=\"readyz\"} 0\n",
            "kubernetes_healthchecks_total{name=\"etcd\",status=\"success\",type=\"readyz\"} 2\n",
            "kubernetes_healthchecks_total{name=\"shutdown\",status=\"error\",type=\"readyz\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(!text.contains("ping"), "{text}");
    }

    #[tokio::test]
    async fn a_starting_server_is_alive_for_as_long_as_it_may_start() {
        let patient = Health::new(Duration::from_secs(60));
        assert_eq!(ask(&patient, "/livez").await.unwrap().0, 200);
        assert_eq!(ask(&patient, "/readyz").await.unwrap().0, 500);
        assert_eq!(ask(&Health::default(), "/livez").await.unwrap().0, 500);
    }

    #[tokio::test]
    async fn verbose_answers_name_each_check() {
        let (_, text) = ask(&ready(), "/healthz?verbose").await.unwrap();
        let first = "[+]ping ok\n[+]log ok\n[+]loopback-serving-certificate ok\n[+]etcd ok\n";
        assert!(text.starts_with(first), "{text}");
        assert!(text.ends_with("healthz check passed\n"), "{text}");
        assert!(!text.contains("shutdown"), "{text}");
    }

    #[tokio::test]
    async fn checks_can_be_excluded_and_asked_alone() {
        let starting = Health::default();
        starting.caches_are_synced();
        let excluded = "/livez?verbose&exclude=etcd&exclude=nope";
        let (code, text) = ask(&starting, excluded).await.unwrap();
        assert_eq!(code, 500);
        assert!(text.contains("[+]etcd excluded: ok\n"), "{text}");
        assert!(text.contains("no matches for \"nope\"\n"), "{text}");
        assert_eq!(ask(&starting, "/livez/ping").await, Some((200, "ok".to_owned())));
        assert_eq!(
            ask(&starting, "/livez/poststarthook/bootstrap-controller").await.unwrap().0,
            500
        );
        assert_eq!(ask(&starting, "/livez/nope").await, None);
        assert_eq!(ask(&starting, "/elsewhere").await, None);
    }
}
