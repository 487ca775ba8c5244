//! Namespaces that are bound to some nodes: their pods get the namespace's node selector.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Admitted, Attributes, Operation, OptionError, Plugin, Resources};
use crate::status::ApiError;
use crate::types::check::{ensure, members, text};

/// Annotation of a namespace with its node selector.
const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
/// Member of the configuration for namespaces without one.
const DEFAULT: &str = "clusterDefaultNodeSelector";

type Labels = BTreeMap<String, String>;

/// Source: upstream `plugin/pkg/admission/podnodeselector`.
pub(super) struct PodNodeSelector {
    /// For namespaces without the annotation.
    default: Labels,
    /// What pods of a namespace may ask for.
    allowed: BTreeMap<String, Labels>,
}

impl PodNodeSelector {
    /// Reads `podNodeSelectorPluginConfig`.
    ///
    /// # Errors
    /// A selector cannot be read.
    pub(super) fn new(configuration: Option<&Value>) -> Result<Self, OptionError> {
        let mut allowed = BTreeMap::new();
        let none = Value::Null;
        let selectors = &configuration.unwrap_or(&none)["podNodeSelectorPluginConfig"];
        for (namespace, selector) in members(selectors) {
            let labels = parse(selector.as_str().unwrap_or_default());
            let labels = labels.map_err(|reason| OptionError::Plugin {
                plugin: "PodNodeSelector",
                reason: format!("podNodeSelectorPluginConfig.{namespace}: {reason}"),
            })?;
            allowed.insert(namespace.clone(), labels);
        }
        Ok(Self { default: allowed.remove(DEFAULT).unwrap_or_default(), allowed })
    }

    async fn of_namespace(&self, attributes: &Attributes<'_>) -> Result<Labels, ApiError> {
        let namespace = attributes.lookup("", "namespaces", "", attributes.namespace).await?;
        let annotations =
            namespace.map(|mut namespace| namespace["metadata"]["annotations"].take());
        match annotations.as_ref().and_then(|annotations| annotations[ANNOTATION].as_str()) {
            Some(selector) => parse(selector).map_err(ApiError::Unknown),
            None => Ok(self.default.clone()),
        }
    }
}

impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "pods")])
    }

    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a mut Value) -> Admitted<'a> {
        Box::pin(async move {
            if !attributes.subresource.is_empty() || !pod["spec"].is_object() {
                return Ok(());
            }
            let wanted = self.of_namespace(attributes).await?;
            refuse_conflict(attributes, pod, &wanted)?;
            if !wanted.is_empty() {
                let selector = ensure(&mut pod["spec"], "nodeSelector");
                selector.extend(wanted.into_iter().map(|(key, value)| (key, value.into())));
            }
            Ok(())
        })
    }

    fn validate<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a Value) -> Admitted<'a> {
        Box::pin(async move {
            if !attributes.subresource.is_empty() {
                return Ok(());
            }
            refuse_conflict(attributes, pod, &self.of_namespace(attributes).await?)?;
            let allowed =
                self.allowed.get(attributes.namespace).filter(|labels| !labels.is_empty());
            let fits = |allowed: &Labels| {
                let mut selector = members(&pod["spec"]["nodeSelector"]);
                selector.all(|(key, value)| allowed.get(key).is_some_and(|v| value == v.as_str()))
            };
            if allowed.is_none_or(fits) {
                return Ok(());
            }
            let why = "pod node label selector labels conflict with its namespace whitelist";
            Err(attributes.forbidden(pod, why))
        })
    }
}

fn refuse_conflict(
    attributes: &Attributes<'_>,
    pod: &Value,
    wanted: &Labels,
) -> Result<(), ApiError> {
    let selector = &pod["spec"]["nodeSelector"];
    let conflict = wanted
        .iter()
        .any(|(key, value)| !selector[key].is_null() && text(selector, key) != value.as_str());
    let why = "pod node label selector conflicts with its namespace node label selector";
    if conflict { Err(attributes.forbidden(pod, why)) } else { Ok(()) }
}

/// `a=b,c=d`.
fn parse(selector: &str) -> Result<Labels, String> {
    let pairs = selector.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| format!("invalid selector: {pair}"))?;
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read() {
        let labels = parse("a=b, c = d,").unwrap();
        assert_eq!(labels["a"], "b");
        assert_eq!(labels["c"], "d");
        assert!(parse("a").is_err());
    }
}
