//! `ValidatingAdmissionPolicy`: the plugin, and what follows from the verdicts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use serde_json::{Value, json};

use super::validate::{self, Violation};
use super::{Binding, Policy, invocations};
use crate::admission::attributes::{Attributes, Operation};
use crate::admission::matching;
use crate::admission::plugin::{Admitted, Plugin, admitted};
use crate::audit;
use crate::status::{ApiError, Details, Status, StatusCause};

/// The plugin.
pub(in crate::admission) struct ValidatingAdmissionPolicy;

impl Plugin for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, _operation: Operation) -> bool {
        true
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a Value,
    ) -> Admitted<'a> {
        let policies = attributes.core.hooks.validating.policies.load_full();
        let is_exempt = matching::is_exempt(attributes) || matching::is_review(attributes);
        if policies.is_empty() || is_exempt {
            return admitted();
        }
        validate(policies, attributes, object).boxed()
    }
}

/// What a binding may want done, and how metrics call it.
const ACTIONS: [(&str, &str); 3] = [("Deny", "deny"), ("Warn", "warn"), ("Audit", "audit")];

/// A refusal that is still to be put into words.
struct Refusal {
    policy: String,
    binding: Option<String>,
    message: String,
    reason: String,
}

async fn validate(
    policies: Arc<Vec<Arc<Policy>>>,
    attributes: &mut Attributes<'_>,
    object: &Value,
) -> Result<(), ApiError> {
    let (found, misfits) = invocations(&policies, attributes, object).await?;
    let mut refusals: Vec<Refusal> = Vec::new();
    for misfit in misfits.iter().filter(|m| !m.policy.definition.fails_open) {
        refusals.push(Refusal {
            policy: misfit.policy.definition.name.clone(),
            binding: misfit.binding.map(|binding| binding.name.clone()),
            message: misfit.message.clone(),
            reason: "Invalid".to_owned(),
        });
    }
    let mut notes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for invocation in &found {
        let (policy, binding) = (&invocation.policy.definition.name, invocation.binding);
        let begun = Instant::now();
        let verdict = validate::judge(invocation, attributes);
        let elapsed = begun.elapsed();
        let metrics = &attributes.core.admission.metrics;
        let of = (policy.as_str(), binding.name.as_str());
        for error_type in verdict.ignored {
            metrics.checked(of, error_type, "allow", elapsed);
        }
        for _ in &verdict.faults {
            metrics.checked(of, validate::INVALID, "deny", elapsed);
        }
        for violation in verdict.violations {
            for (action, label) in ACTIONS {
                if binding.wants(action) {
                    metrics.checked(of, violation.error_type, label, elapsed);
                }
            }
            refusals.extend(act(attributes, policy, binding, violation));
        }
        for (key, value) in verdict.annotations {
            let values = notes.entry(format!("{policy}/{key}")).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        refusals.extend(verdict.faults.into_iter().map(|message| Refusal {
            policy: policy.clone(),
            binding: Some(binding.name.clone()),
            message,
            reason: "Invalid".to_owned(),
        }));
    }
    for (key, values) in notes {
        audit::annotate(&key, || values.join(", "));
    }
    match refusals.first() {
        Some(first) => Err(refuse(attributes, object, first)),
        None => Ok(()),
    }
}

/// Does what the binding wants done about a violation; answers a refusal if it is to be one.
fn act(
    attributes: &mut Attributes<'_>,
    policy: &str,
    binding: &Binding,
    violation: Violation,
) -> Option<Refusal> {
    if binding.wants("Warn") {
        attributes.warnings.push(format!(
            "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{}': {}",
            binding.name, violation.message
        ));
    }
    if binding.wants("Audit") {
        let note = json!([{
            "message": violation.message,
            "policy": policy,
            "binding": binding.name,
            "expressionIndex": violation.index,
            "validationActions": binding.actions,
        }]);
        let key = "validation.policy.admission.k8s.io/validation_failure";
        audit::annotate(key, || note.to_string());
    }
    binding.wants("Deny").then(|| Refusal {
        policy: policy.to_owned(),
        binding: Some(binding.name.clone()),
        message: violation.message,
        reason: violation.reason,
    })
}

fn refuse(attributes: &Attributes<'_>, object: &Value, refusal: &Refusal) -> ApiError {
    let policy = &refusal.policy;
    let with = refusal.binding.as_ref().map(|name| format!(" with binding '{name}'"));
    let message = format!(
        "ValidatingAdmissionPolicy '{policy}'{} denied request: {}",
        with.unwrap_or_default(),
        refusal.message
    );
    let code = match refusal.reason.as_str() {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    let resource = attributes.resource.group_resource();
    let name = attributes.shown_name(object);
    ApiError::Other(Box::new(Status {
        message: format!("{resource} \"{name}\" is forbidden: {message}"),
        reason: refusal.reason.clone(),
        code,
        details: Some(Details {
            name,
            group: resource.group,
            kind: resource.resource,
            causes: vec![StatusCause::new("", "", message)],
            ..Details::default()
        }),
        ..Status::failure()
    }))
}
