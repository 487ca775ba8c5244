//! The plugins of a server in their order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::attributes::Attributes;
use super::catalog;
use super::metrics::{Metrics, Phase, Times};
use super::options::{OptionError, Options};
use super::plugin::Plugin;
use crate::status::ApiError;

/// A plugin, and where its times go.
#[derive(Clone)]
struct Timed {
    plugin: Arc<dyn Plugin>,
    times: Times,
}

/// Plugins in the order in which they are asked.
type Plugins = Vec<Timed>;

/// Every enabled plugin. Which of them look at a resource is found out once, at start.
pub struct Chain {
    /// Those that look at everything; also what resources get that no plugin names.
    general: Plugins,
    /// Those for resources that a plugin names, by plural name and then group.
    named: HashMap<&'static str, HashMap<&'static str, Plugins>>,
    /// Where the times of whole phases go.
    steps: Times,
    pub(super) metrics: Metrics,
}

impl Chain {
    /// The chain that these options ask for.
    ///
    /// # Errors
    /// [`OptionError`]: an unknown plugin, or a configuration that cannot be read.
    pub(crate) fn new(options: &Options, metrics: Metrics) -> Result<Self, OptionError> {
        let plugins = catalog::enabled(options)?;
        let timed = |plugin: Arc<dyn Plugin>| {
            let times = metrics.of_plugin(plugin.name());
            Timed { plugin, times }
        };
        Ok(Self::of(&plugins.into_iter().map(timed).collect::<Plugins>(), metrics))
    }

    fn of(plugins: &[Timed], metrics: Metrics) -> Self {
        let of = |chosen: &dyn Fn(&dyn Plugin) -> bool| -> Plugins {
            plugins.iter().filter(|timed| chosen(timed.plugin.as_ref())).cloned().collect()
        };
        let mut named: HashMap<_, HashMap<_, _>> = HashMap::new();
        for timed in plugins {
            let super::Resources::Only(resources) = timed.plugin.resources() else { continue };
            for (group, resource) in resources {
                let chain = of(&|plugin| plugin.resources().contain(group, resource));
                named.entry(*resource).or_default().insert(*group, chain);
            }
        }
        let general = of(&|plugin| matches!(plugin.resources(), super::Resources::All));
        Self { general, named, steps: metrics.of_steps(), metrics }
    }

    fn plugins(&self, attributes: &Attributes<'_>) -> &[Timed] {
        let resource = attributes.resource;
        let named = self.named.get(&*resource.name).and_then(|groups| groups.get(&*resource.group));
        named.unwrap_or(&self.general)
    }

    /// The mutating phase.
    ///
    /// # Errors
    /// That of the first plugin which refuses.
    pub async fn admit(
        &self,
        attributes: &mut Attributes<'_>,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        let begun = Instant::now();
        let admitted = loop {
            let admitted = self.admit_once(attributes, object).await;
            if admitted.is_err() || !attributes.reinvoke || attributes.reinvoked {
                break admitted;
            }
            attributes.reinvoked = true;
        };
        self.steps.observe(Phase::Admit, attributes.operation, admitted.is_err(), begun.elapsed());
        admitted
    }

    async fn admit_once(
        &self,
        attributes: &mut Attributes<'_>,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        let mut clock = Instant::now();
        for Timed { plugin, times } in self.plugins(attributes) {
            if plugin.handles(attributes.operation) {
                let admitted = plugin.admit(attributes, object).await;
                let now = Instant::now();
                let (operation, rejected) = (attributes.operation, admitted.is_err());
                times.observe(Phase::Admit, operation, rejected, now - clock);
                clock = now;
                admitted?;
            }
        }
        Ok(())
    }

    /// The validating phase.
    ///
    /// # Errors
    /// That of the first plugin which refuses.
    pub async fn validate(
        &self,
        attributes: &mut Attributes<'_>,
        object: &Value,
    ) -> Result<(), ApiError> {
        let begun = Instant::now();
        let (mut clock, operation) = (begun, attributes.operation);
        let mut admitted = Ok(());
        for Timed { plugin, times } in self.plugins(attributes) {
            if plugin.handles(operation) {
                admitted = plugin.validate(attributes, object).await;
                let now = Instant::now();
                times.observe(Phase::Validate, operation, admitted.is_err(), now - clock);
                clock = now;
                if admitted.is_err() {
                    break;
                }
            }
        }
        self.steps.observe(Phase::Validate, operation, admitted.is_err(), begun.elapsed());
        admitted
    }
}
