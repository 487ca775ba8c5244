//! Priorities come from classes, not from pods.

use serde::Deserialize;
use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, Resources};
use crate::status::ApiError;
use crate::types::check::{copy, flag, part, text};

const CLASSES: (&str, &str) = ("scheduling.k8s.io", "priorityclasses");

/// Source: upstream `plugin/pkg/admission/priority`.
pub(super) struct Priority;

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "pods"), CLASSES])
    }

    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a mut Value) -> Admitted<'a> {
        Box::pin(async move {
            if !attributes.is("", "pods") {
                return Ok(());
            }
            let Some(spec) = part(pod, "spec") else { return Ok(()) };
            let Some(old) = attributes.old else { return resolve(attributes, pod).await };
            for field in ["priority", "preemptionPolicy"] {
                if spec[field].is_null() {
                    copy(spec, &old["spec"], field);
                }
            }
            Ok(())
        })
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        class: &'a Value,
    ) -> Admitted<'a> {
        Box::pin(async move {
            if !attributes.is(CLASSES.0, CLASSES.1) || !flag(class, "globalDefault") {
                return Ok(());
            }
            let Some(other) = default_class(attributes).await? else { return Ok(()) };
            let name = &other.metadata.name;
            if attributes.operation == Operation::Update
                && *name == text(&class["metadata"], "name")
            {
                return Ok(());
            }
            let why = format!(
                "PriorityClass {name} is already marked as default. Only one default can exist"
            );
            Err(attributes.forbidden(class, why))
        })
    }
}

/// What matters of a class here; every pod that is created looks at those that there are.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Class {
    metadata: Named,
    value: i64,
    global_default: bool,
    preemption_policy: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

/// Priority and preemption policy of the pod's class, of the default class, or zero.
async fn resolve(attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let wanted = text(&pod["spec"], "priorityClassName").to_owned();
    let class = if wanted.is_empty() {
        let class = default_class(attributes).await?;
        if let Some(class) = &class {
            pod["spec"]["priorityClassName"] = class.metadata.name.as_str().into();
        }
        class.unwrap_or_default()
    } else {
        let value = |value| Class { value, ..Class::default() };
        match (attributes.lookup_as(CLASSES.0, CLASSES.1, "", &wanted).await?, &*wanted) {
            (Some(class), _) => class,
            // They exist from the start, but a server without the type has no objects of it.
            (None, "system-cluster-critical") => value(2_000_000_000),
            (None, "system-node-critical") => value(2_000_001_000),
            (None, _) => {
                let why = format!("no PriorityClass with name {wanted} was found");
                return Err(attributes.forbidden(pod, why));
            }
        }
    };
    let value = class.value;
    if let Some(given) = pod["spec"]["priority"].as_i64().filter(|given| *given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(attributes.forbidden(pod, why));
    }
    let policy = class.preemption_policy.as_deref().unwrap_or("PreemptLowerPriority");
    if let Some(given) = pod["spec"]["preemptionPolicy"].as_str().filter(|given| *given != policy) {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(attributes.forbidden(pod, why));
    }
    pod["spec"]["priority"] = value.into();
    pod["spec"]["preemptionPolicy"] = policy.into();
    Ok(())
}

/// The class for pods without one: of several, which can only come about in a race, the least.
async fn default_class(attributes: &Attributes<'_>) -> Result<Option<Class>, ApiError> {
    let classes: Vec<Class> = attributes.list_as(CLASSES.0, CLASSES.1, None).await?;
    let defaults = classes.into_iter().filter(|class| class.global_default);
    Ok(defaults.min_by_key(|class| class.value))
}
