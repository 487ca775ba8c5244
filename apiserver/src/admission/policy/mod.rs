//! Admission policies: rules in CEL that validate or change what is written.
//!
//! Source: KEP-3488 and KEP-3962, and upstream `apiserver/pkg/admission/plugin/policy`.

mod checking;
mod definition;
mod mutate;
mod mutating;
mod params;
mod validate;
mod validating;

pub(crate) use checking::start as start_checking;
pub(super) use definition::{Binding, Definition};
pub(super) use mutating::MutatingAdmissionPolicy;
pub(super) use validating::ValidatingAdmissionPolicy;

use std::sync::Arc;

use serde_json::Value;

use super::attributes::Attributes;
use super::expressions::Subject;
use crate::status::ApiError;

/// A policy with the bindings that put it into effect.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) definition: Arc<Definition>,
    pub(super) bindings: Vec<Arc<Binding>>,
}

impl Policy {
    /// A definition with its bindings among these, by name.
    pub(super) fn join(definition: &Arc<Definition>, bindings: &[&Arc<Binding>]) -> Self {
        let mine = bindings.iter().filter(|binding| binding.policy == definition.name);
        let mut mine: Vec<Arc<Binding>> = mine.map(|binding| Arc::clone(binding)).collect();
        mine.sort_by(|a, b| a.name.cmp(&b.name));
        Self { definition: definition.clone(), bindings: mine }
    }
}

/// One use of a policy: a binding that matches, with one of its parameters.
struct Invocation<'p> {
    policy: &'p Policy,
    binding: &'p Binding,
    subject: Arc<Subject>,
    /// Set where the policy has parameters; null if there are none to be had.
    params: Option<Value>,
}

/// A policy that cannot do its work; `failurePolicy` decides what that means.
struct Misfit<'p> {
    policy: &'p Policy,
    binding: Option<&'p Binding>,
    message: String,
}

/// Every use of these policies that a request asks for, in order, and what stands in the way of others.
async fn invocations<'p>(
    policies: &'p [Arc<Policy>],
    attributes: &Attributes<'_>,
    object: &Value,
) -> Result<(Vec<Invocation<'p>>, Vec<Misfit<'p>>), ApiError> {
    let (mut found, mut misfits) = (Vec::new(), Vec::new());
    for policy in policies {
        let definition = &*policy.definition;
        let misfit = |binding: Option<&'p Binding>, fault: &dyn std::fmt::Display| {
            let what = if binding.is_some() { "binding" } else { "policy" };
            Misfit { policy, binding, message: format!("failed to configure {what}: {fault}") }
        };
        let matched = match &definition.criteria {
            Ok(criteria) => criteria.matches(attributes, object).await.map_err(|e| e.to_string()),
            Err(fault) => Err(fault.clone()),
        };
        let resource = match matched {
            Ok(Some(resource)) => resource,
            Ok(None) => continue,
            Err(fault) => {
                misfits.push(misfit(None, &fault));
                continue;
            }
        };
        if !policy.bindings.is_empty()
            && let Err(fault) = params::known(attributes, definition)
        {
            misfits.push(misfit(None, &fault));
            continue;
        }
        let mut subject = None;
        for binding in &policy.bindings {
            match binding.matches(attributes, object).await {
                Ok(true) => (),
                Ok(false) => continue,
                Err(fault) => {
                    misfits.push(misfit(Some(binding), &fault));
                    continue;
                }
            }
            let params = params::collect(attributes, definition, binding).await;
            let params = match params {
                Ok(params) => params,
                Err(fault) => {
                    misfits.push(misfit(Some(binding), &fault));
                    continue;
                }
            };
            if subject.is_none() {
                subject = Some(Arc::new(Subject::new(attributes, &resource, object).await?));
            }
            let Some(subject) = &subject else { continue };
            found.extend(params.into_iter().map(|params| Invocation {
                policy,
                binding,
                subject: subject.clone(),
                params,
            }));
        }
    }
    Ok((found, misfits))
}
