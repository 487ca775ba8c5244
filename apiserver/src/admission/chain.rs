//! The plugins of a server in their order.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::attributes::Attributes;
use super::catalog;
use super::options::{OptionError, Options};
use super::plugin::Plugin;
use crate::status::ApiError;

/// Plugins in the order in which they are asked.
type Plugins = Vec<Arc<dyn Plugin>>;

/// Every enabled plugin. Which of them look at a resource is found out once, at start.
pub struct Chain {
    /// Those that look at everything; also what resources get that no plugin names.
    general: Plugins,
    /// Those for resources that a plugin names, by plural name and then group.
    named: HashMap<&'static str, HashMap<&'static str, Plugins>>,
}

impl Chain {
    /// The chain that these options ask for.
    ///
    /// # Errors
    /// [`OptionError`]: an unknown plugin, or a configuration that cannot be read.
    pub fn new(options: &Options) -> Result<Self, OptionError> {
        Ok(Self::of(&catalog::enabled(options)?))
    }

    fn of(plugins: &[Arc<dyn Plugin>]) -> Self {
        let of = |chosen: &dyn Fn(&dyn Plugin) -> bool| -> Plugins {
            plugins.iter().filter(|plugin| chosen(plugin.as_ref())).cloned().collect()
        };
        let mut named: HashMap<_, HashMap<_, _>> = HashMap::new();
        for plugin in plugins {
            let super::Resources::Only(resources) = plugin.resources() else { continue };
            for (group, resource) in resources {
                let chain = of(&|plugin| plugin.resources().contain(group, resource));
                named.entry(*resource).or_default().insert(*group, chain);
            }
        }
        let general = of(&|plugin| matches!(plugin.resources(), super::Resources::All));
        Self { general, named }
    }

    fn plugins(&self, attributes: &Attributes<'_>) -> &[Arc<dyn Plugin>] {
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
        loop {
            for plugin in self.plugins(attributes) {
                if plugin.handles(attributes.operation) {
                    plugin.admit(attributes, object).await?;
                }
            }
            if !attributes.reinvoke || attributes.reinvoked {
                return Ok(());
            }
            attributes.reinvoked = true;
        }
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
        for plugin in self.plugins(attributes) {
            if plugin.handles(attributes.operation) {
                plugin.validate(attributes, object).await?;
            }
        }
        Ok(())
    }
}
