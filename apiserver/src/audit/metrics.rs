//! `apiserver_audit_*`, in upstream's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::event::Level;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Plugin {
    plugin: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLevel {
    level: &'static str,
}

/// What auditing counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    events: Counter,
    errors: Family<Plugin, Counter>,
    levels: Family<OfLevel, Counter>,
    rejected: Counter,
}

impl Metrics {
    /// Makes them and puts them into a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let r = registry.sub_registry_with_prefix("apiserver_audit");
        r.register("event", "Events that were made", metrics.events.clone());
        r.register("error", "Events that were lost", metrics.errors.clone());
        r.register("level", "Requests by the level of their events", metrics.levels.clone());
        r.register(
            "requests_rejected",
            "Requests refused for lost events",
            metrics.rejected.clone(),
        );
        metrics
    }

    /// An event was made.
    pub fn made(&self) {
        self.events.inc();
    }

    /// Events were lost.
    pub fn failed(&self, plugin: &'static str, events: u64) {
        self.errors.get_or_create(&Plugin { plugin }).inc_by(events);
    }

    /// The policy chose a level.
    pub fn chosen(&self, level: Level) {
        self.levels.get_or_create(&OfLevel { level: level.as_str() }).inc();
    }

    /// A request was refused, since its event was lost.
    pub fn rejected(&self) {
        self.rejected.inc();
    }
}
