//! Prometheus metrics: a registry a process, a set of series a player.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Metric,
};

/// Upper bounds in seconds: from a no-op to a reconcile that waits for a slow server.
const BUCKETS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// All metrics of a process. Cheap to clone; all clones share.
#[derive(Clone)]
pub struct Registry {
    registry: Arc<Mutex<prometheus_client::registry::Registry>>,
    reconciles: Family<Controller, Counter>,
    errors: Family<ErrorKind, Counter>,
    duration: Family<Controller, Histogram, fn() -> Histogram>,
    queue: Family<Controller, Gauge>,
    leader: Family<Controller, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Controller {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorKind {
    controller: &'static str,
    kind: &'static str,
}

impl Default for Registry {
    fn default() -> Self {
        let mut registry = prometheus_client::registry::Registry::with_prefix("improv");
        let reconciles = Family::default();
        let errors = Family::default();
        let duration =
            Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        let queue = Family::default();
        let leader = Family::default();
        registry.register(
            "reconciles",
            "Reconciles that ended, failed ones included",
            reconciles.clone(),
        );
        registry.register(
            "reconcile_errors",
            "Reconciles that failed, by kind of error",
            errors.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "Time that a reconcile took",
            duration.clone(),
        );
        registry.register("queue_length", "Objects that wait for their reconcile", queue.clone());
        registry.register(
            "leader",
            "1 while this process leads for the controller",
            leader.clone(),
        );
        Self {
            registry: Arc::new(Mutex::new(registry)),
            reconciles,
            errors,
            duration,
            queue,
            leader,
        }
    }
}

impl Registry {
    /// The metrics in the OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::new();
        if text::encode(&mut out, &self.registry.lock()).is_err() {
            tracing::error!("metrics could not be encoded");
        }
        out
    }

    /// The series of one player.
    #[must_use]
    pub fn player(&self, name: &'static str) -> Metrics {
        let label = Controller { controller: name };
        Metrics {
            name,
            reconciles: self.reconciles.get_or_create(&label).clone(),
            errors: self.errors.clone(),
            n_errors: Arc::default(),
            duration: self.duration.get_or_create(&label).clone(),
            queue: self.queue.get_or_create(&label).clone(),
            leader: self.leader.get_or_create(&label).clone(),
            registry: self.clone(),
        }
    }

    /// Adds a metric of a player's own; `name` without the prefix `improv_`.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.registry.lock().register(name, help, metric);
    }
}

/// The series of one player. Cheap to clone; all clones share.
#[derive(Clone)]
pub struct Metrics {
    name: &'static str,
    /// Reconciles that ended.
    pub reconciles: Counter,
    errors: Family<ErrorKind, Counter>,
    n_errors: Arc<AtomicU64>,
    duration: Histogram,
    /// Objects that wait for their reconcile.
    pub queue: Gauge,
    /// 1 while this process leads.
    pub leader: Gauge,
    /// To register more with.
    pub registry: Registry,
}

impl Metrics {
    /// Counts a reconcile that took `duration`; `error` is its kind, from a closed set.
    pub fn reconciled(&self, duration: Duration, error: Option<&'static str>) {
        self.reconciles.inc();
        self.duration.observe(duration.as_secs_f64());
        if let Some(kind) = error {
            self.n_errors.fetch_add(1, Ordering::Relaxed);
            self.errors.get_or_create(&ErrorKind { controller: self.name, kind }).inc();
        }
    }

    /// Failed reconciles, of all kinds.
    #[must_use]
    pub fn n_errors(&self) -> u64 {
        self.n_errors.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_exposed() {
        let registry = Registry::default();
        let metrics = registry.player("demo");
        metrics.reconciled(Duration::from_millis(2), None);
        metrics.reconciled(Duration::from_millis(2), Some("conflict"));
        metrics.queue.set(3);
        metrics.leader.set(1);
        let text = registry.encode();
        for line in [
            "improv_reconciles_total{controller=\"demo\"} 2",
            "improv_reconcile_errors_total{controller=\"demo\",kind=\"conflict\"} 1",
            "improv_reconcile_duration_seconds_count{controller=\"demo\"} 2",
            "improv_queue_length{controller=\"demo\"} 3",
            "improv_leader{controller=\"demo\"} 1",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
        assert_eq!(metrics.n_errors(), 1);
    }
}
