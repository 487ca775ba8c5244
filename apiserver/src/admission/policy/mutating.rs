//! `MutatingAdmissionPolicy`: the plugin. Policies run one after the other; each sees what those before it made.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use serde_json::Value;

use super::{Invocation, Policy, invocations, mutate, validate};
use crate::admission::attributes::{Attributes, Operation};
use crate::admission::expressions::Subject;
use crate::admission::plugin::{Admitted, Plugin, admitted};
use crate::admission::{matching, mutation};
use crate::status::{ApiError, StatusCause};

/// The plugin.
pub(in crate::admission) struct MutatingAdmissionPolicy;

impl Plugin for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Delete // There is nothing to change.
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a mut Value,
    ) -> Admitted<'a> {
        let policies = attributes.core.hooks.mutating.policies.load_full();
        let is_exempt = matching::is_exempt(attributes) || matching::is_review(attributes);
        if policies.is_empty() || is_exempt {
            return admitted();
        }
        admit(policies, attributes, object).boxed()
    }
}

async fn admit(
    policies: Arc<Vec<Arc<Policy>>>,
    attributes: &mut Attributes<'_>,
    object: &mut Value,
) -> Result<(), ApiError> {
    let (found, misfits) = invocations(&policies, attributes, object).await?;
    let strict = |policy: &Policy| !policy.definition.fails_open;
    let mut faults: Vec<String> = Vec::new();
    for misfit in misfits.iter().filter(|misfit| strict(misfit.policy)) {
        let binding = misfit.binding.map(|binding| &*binding.name);
        faults.push(denial(&misfit.policy.definition.name, binding, &misfit.message));
    }
    attributes.policy_rounds.begin(attributes.reinvoked, object);
    for invocation in &found {
        let begun = Instant::now();
        let failed = run(invocation, attributes, object).await?;
        let of = (invocation.policy.definition.name.as_str(), invocation.binding.name.as_str());
        let error_type = failed.first().map_or(validate::NO_ERROR, |f| validate::error_type(f));
        attributes.core.admission.metrics.changed(of, error_type, begun.elapsed());
        if strict(invocation.policy) {
            let name = &invocation.policy.definition.name;
            let words = |fault: String| denial(name, Some(&invocation.binding.name), &fault);
            faults.extend(failed.into_iter().map(words));
        }
    }
    if !found.is_empty() {
        attributes.policy_rounds.end(object);
    }
    if faults.is_empty() { Ok(()) } else { Err(refuse(attributes, object, faults)) }
}

/// Runs all mutations of one use of a policy; answers those that failed.
async fn run(
    invocation: &Invocation<'_>,
    attributes: &mut Attributes<'_>,
    object: &mut Value,
) -> Result<Vec<String>, ApiError> {
    let resource = &invocation.subject.resource;
    let mut subject = Subject::new(attributes, resource, object).await?;
    match mutate::applies(invocation, attributes, &subject) {
        Ok(true) => (),
        Ok(false) => return Ok(Vec::new()),
        Err(fault) => return Ok(vec![fault]),
    }
    let key = key(invocation);
    if attributes.reinvoked && !attributes.policy_rounds.is_due(&key) {
        return Ok(Vec::new());
    }
    let schema = mutation::schema(attributes, resource);
    let before = subject.object.clone();
    let mut faults = Vec::new();
    for mutation in &invocation.policy.definition.mutations {
        if !subject.object.is_object() {
            break;
        }
        let made = mutate::apply(mutation, invocation, attributes, &subject, schema.as_ref());
        let made = made.and_then(|mut made| {
            mutation::normalize(attributes, resource, &mut made)?;
            Ok(made)
        });
        match made {
            Ok(made) => subject.object = made,
            Err(fault) => faults.push(fault),
        }
    }
    if subject.object != before {
        *object = matching::convert_back(attributes, resource, subject.object).await?;
        attributes.policy_rounds.changed();
        attributes.reinvoke = true;
    }
    if invocation.policy.definition.again {
        attributes.policy_rounds.asked(&key);
    }
    Ok(faults)
}

fn key(invocation: &Invocation<'_>) -> String {
    let params = invocation.params.as_ref().map(|params| &params["metadata"]);
    let text = |key: &str| params.and_then(|p| p[key].as_str()).unwrap_or_default();
    let (policy, binding) = (&invocation.policy.definition.name, &invocation.binding.name);
    format!("{policy}/{binding}/{}/{}", text("namespace"), text("name"))
}

/// Source: `PolicyError` in upstream's `plugin/policy/generic/interfaces.go`.
fn denial(policy: &str, binding: Option<&str>, fault: &str) -> String {
    match binding {
        Some(binding) => {
            format!("policy '{policy}' with binding '{binding}' denied request: {fault}")
        }
        None => format!("policy {policy:?} denied request: {fault}"),
    }
}

fn refuse(attributes: &Attributes<'_>, object: &Value, faults: Vec<String>) -> ApiError {
    let causes = faults.iter().map(|fault| StatusCause::new("", "", fault.clone())).collect();
    let message = faults.into_iter().next().unwrap_or_default();
    ApiError::Forbidden {
        resource: Some(attributes.resource.group_resource()),
        name: attributes.shown_name(object),
        message,
        causes,
    }
}
