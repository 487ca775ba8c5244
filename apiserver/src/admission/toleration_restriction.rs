//! Tolerations that pods of a namespace get, and those that they may have.

use serde_json::{Value, json};

use super::{Admitted, Attributes, Operation, Plugin, Resources, tolerations};
use crate::status::ApiError;
use crate::types::check::items;

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

/// Source: upstream `plugin/pkg/admission/podtolerationrestriction`.
pub(super) struct PodTolerationRestriction {
    default: Value,
    allowed: Value,
}

impl PodTolerationRestriction {
    /// Reads `default` and `whitelist`, which hold for namespaces without annotations.
    pub(super) fn new(configuration: Option<&Value>) -> Self {
        let list = |name: &str| configuration.map_or(Value::Null, |c| c[name].clone());
        Self { default: list("default"), allowed: list("whitelist") }
    }
}

impl Plugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "pods")])
    }

    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a mut Value) -> Admitted<'a> {
        Box::pin(async move {
            if !attributes.subresource.is_empty() || !pod["spec"].is_object() {
                return Ok(());
            }
            let mut extra = Vec::new();
            if attributes.operation == Operation::Create {
                let own = of_namespace(attributes, DEFAULTS).await?;
                extra.extend_from_slice(items(own.as_ref().unwrap_or(&self.default)));
            }
            // It can be told apart from pods that go first when memory runs out.
            if !quota::pod::is_best_effort(&pod["spec"]) {
                extra.push(json!({"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}));
            }
            if !extra.is_empty() {
                let merged = tolerations::merge(items(&pod["spec"]["tolerations"]), &extra);
                pod["spec"]["tolerations"] = merged.into();
            }
            Ok(())
        })
    }

    fn validate<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a Value) -> Admitted<'a> {
        Box::pin(async move {
            if !attributes.subresource.is_empty() {
                return Ok(());
            }
            let own = of_namespace(attributes, ALLOWED).await?;
            let scope = if own.is_some() { "namespace" } else { "cluster" };
            let allowed = items(own.as_ref().unwrap_or(&self.allowed));
            if tolerations::are_allowed(items(&pod["spec"]["tolerations"]), allowed) {
                return Ok(());
            }
            Err(ApiError::Unknown(format!(
                "pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist"
            )))
        })
    }
}

/// The list in an annotation of the namespace; `None` if it has none.
async fn of_namespace(
    attributes: &Attributes<'_>,
    annotation: &str,
) -> Result<Option<Value>, ApiError> {
    let namespace = attributes.lookup("", "namespaces", "", attributes.namespace).await?;
    let text = namespace.as_ref().and_then(|n| n["metadata"]["annotations"][annotation].as_str());
    match text {
        None => Ok(None),
        Some("") => Ok(Some(json!([]))),
        Some(text) => serde_json::from_str(text).map(Some).map_err(|error| {
            ApiError::Unknown(format!(
                "failed to read annotation {annotation} of namespace {}: {error}",
                attributes.namespace
            ))
        }),
    }
}
