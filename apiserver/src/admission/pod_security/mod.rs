//! Pod Security: what pods of a namespace may do, in three levels, by its labels. Pods are refused, noted for the
//! audit log, or warned of; templates of pods only the latter two.
//!
//! Source: KEP-2579; upstream `pod-security-admission`.

mod baseline;
mod checks;
mod config;
mod look;
mod metrics;
mod namespaces;
mod policy;
mod restricted;
#[cfg(test)]
mod tests;

use serde_json::Value;

use super::{Admitted, Attributes, Operation, OptionError, Plugin, Resources};
use crate::audit;
use crate::status::ApiError;
use crate::types::check::{items, text};
use checks::{Pod, details, violations};
use config::Config;
pub(super) use metrics::Metrics;
use policy::{PREFIX, Policy, Standard};

/// Parts of a pod that cannot change what it may do.
const HARMLESS: [&str; 8] =
    ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// The plugin.
pub(super) struct PodSecurity(Config);

impl PodSecurity {
    /// The plugin with its configuration, if there is one.
    ///
    /// # Errors
    /// The configuration makes no sense.
    pub(super) fn new(configuration: Option<&Value>) -> Result<Self, OptionError> {
        let refused = |reason| OptionError::Plugin { plugin: "PodSecurity", reason };
        Config::read(configuration).map(Self).map_err(refused)
    }
}

impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[
            ("", "pods"),
            ("", "namespaces"),
            ("", "podtemplates"),
            ("", "replicationcontrollers"),
            ("apps", "replicasets"),
            ("apps", "deployments"),
            ("apps", "statefulsets"),
            ("apps", "daemonsets"),
            ("batch", "jobs"),
            ("batch", "cronjobs"),
        ])
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a Value,
    ) -> Admitted<'a> {
        Box::pin(async move {
            match &*attributes.resource.name {
                _ if is_harmless(attributes) => Ok(()),
                "namespaces" => namespaces::validate(&self.0, attributes, object).await,
                "pods" => self.pod(attributes, object).await,
                _ => self.template(attributes, object).await,
            }
        })
    }
}

fn is_harmless(attributes: &Attributes<'_>) -> bool {
    match &*attributes.resource.name {
        "pods" => HARMLESS.contains(&attributes.subresource),
        _ => !attributes.subresource.is_empty(),
    }
}

impl PodSecurity {
    async fn pod(&self, attributes: &mut Attributes<'_>, pod: &Value) -> Result<(), ApiError> {
        if self.is_exempt(attributes) {
            return Ok(());
        }
        let (policy, faults) = self.policy(attributes).await?;
        if policy.is_privileged() && faults.is_empty() {
            note("enforce-policy", Standard::PRIVILEGED);
            counts(attributes).evaluated(attributes, ("enforce", Standard::PRIVILEGED), true);
            return Ok(());
        }
        if attributes.old.is_some_and(|old| !is_significant(&pod["spec"], &old["spec"])) {
            return Ok(());
        }
        note_faults(attributes, &faults);
        let pod_of = Pod { metadata: &pod["metadata"], spec: &pod["spec"] };
        if self.is_exempt_class(attributes, pod_of) {
            return Ok(());
        }
        note("enforce-policy", policy.enforce);
        let found = violations(policy.enforce, pod_of);
        let enforced = ("enforce", policy.enforce);
        counts(attributes).evaluated(attributes, enforced, found.is_empty());
        audit(attributes, policy.audit, pod_of);
        if found.is_empty() {
            warn(attributes, policy.warn, pod_of);
            return Ok(());
        }
        let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, details(&found));
        Err(attributes.forbidden(pod, why))
    }

    /// A workload is not refused, since its pods will be; whoever writes it is told.
    async fn template(
        &self,
        attributes: &mut Attributes<'_>,
        object: &Value,
    ) -> Result<(), ApiError> {
        if self.is_exempt(attributes) {
            return Ok(());
        }
        let (policy, faults) = self.policy(attributes).await?;
        let template = match &*attributes.resource.name {
            "podtemplates" => &object["template"],
            "cronjobs" => &object["spec"]["jobTemplate"]["spec"]["template"],
            _ => &object["spec"]["template"],
        };
        let pod = Pod { metadata: &template["metadata"], spec: &template["spec"] };
        if template.is_null() || self.is_exempt_class(attributes, pod) {
            return Ok(());
        }
        note_faults(attributes, &faults);
        audit(attributes, policy.audit, pod);
        warn(attributes, policy.warn, pod);
        Ok(())
    }

    /// The policy of the request's namespace, and what is wrong with its labels.
    async fn policy(
        &self,
        attributes: &Attributes<'_>,
    ) -> Result<(Policy, Vec<schema::Cause>), ApiError> {
        let defaults = &self.0.defaults;
        if let Some(namespace) = attributes.namespace_object() {
            return Ok(policy::of_labels(|key| namespace.labels().get(key), defaults));
        }
        let namespace = attributes.namespace;
        let found = attributes.lookup("", "namespaces", "", namespace).await?;
        let found = found.ok_or_else(|| {
            counts(attributes).failed(attributes, true);
            ApiError::Internal(format!(
                "Internal error occurred: failed to lookup namespace {namespace:?}"
            ))
        })?;
        Ok(policy::of_object(&found["metadata"]["labels"], defaults))
    }

    fn is_exempt(&self, attributes: &Attributes<'_>) -> bool {
        let reason = if self.0.namespaces.contains(attributes.namespace) {
            "namespace"
        } else if self.0.users.contains(&attributes.user.name) {
            "user"
        } else {
            return false;
        };
        note("exempt", reason);
        counts(attributes).exempted(attributes);
        true
    }

    fn is_exempt_class(&self, attributes: &Attributes<'_>, pod: Pod<'_>) -> bool {
        let exempt = self.0.runtime_classes.contains(text(pod.spec, "runtimeClassName"));
        if exempt {
            note("exempt", "runtimeClass");
            counts(attributes).exempted(attributes);
        }
        exempt
    }
}

fn note(key: &str, value: impl ToString) {
    audit::annotate(&format!("{PREFIX}{key}"), || value.to_string());
}

fn counts<'a>(attributes: &Attributes<'a>) -> &'a Metrics {
    &attributes.core.admission.metrics.pods
}

fn note_faults(attributes: &Attributes<'_>, faults: &[schema::Cause]) {
    if !faults.is_empty() {
        counts(attributes).failed(attributes, false);
        let faults: Vec<String> =
            faults.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        note("error", format!("Failed to parse policy: {}", faults.join(", ")));
    }
}

fn audit(attributes: &Attributes<'_>, standard: Standard, pod: Pod<'_>) {
    if let Some(text) = would_violate(standard, pod) {
        counts(attributes).evaluated(attributes, ("audit", standard), false);
        note("audit-violations", text);
    }
}

fn warn(attributes: &mut Attributes<'_>, standard: Standard, pod: Pod<'_>) {
    if let Some(text) = would_violate(standard, pod) {
        counts(attributes).evaluated(attributes, ("warn", standard), false);
        attributes.warnings.push(text);
    }
}

fn would_violate(standard: Standard, pod: Pod<'_>) -> Option<String> {
    let found = violations(standard, pod);
    let text = || format!("would violate PodSecurity \"{standard}\": {}", details(&found));
    (!found.is_empty()).then(text)
}

/// Whether an update changes anything that the checks look at: a pod that was admitted once is not refused for a new
/// label.
fn is_significant(new: &Value, old: &Value) -> bool {
    let fixed = ["initContainers", "containers"].iter().any(|list| {
        let (new, old) = (items(&new[*list]), items(&old[*list]));
        new.len() != old.len() || new.iter().zip(old).any(|(new, old)| new["image"] != old["image"])
    });
    let before = items(&old["ephemeralContainers"]);
    fixed
        || items(&new["ephemeralContainers"]).iter().any(|container| {
            let old = before.iter().find(|old| old["name"] == container["name"]);
            old.is_none_or(|old| old["image"] != container["image"])
        })
}
