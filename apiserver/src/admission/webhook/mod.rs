//! Admission webhooks: what they are asked, and what their answers do.
//!
//! Source: KEP-0492, and upstream `apiserver/pkg/admission/plugin/webhook`.

mod call;
mod mutating;
mod response;
mod validating;

pub(super) use mutating::MutatingAdmissionWebhook;
pub(super) use validating::ValidatingAdmissionWebhook;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::attributes::Attributes;
use super::expressions::{Activation, Conditions, Subject};
use super::matching::Criteria;
use crate::backend::Client;
use crate::registry::Resource;
use crate::status::ApiError;

/// Longest wait for an answer, where a webhook says nothing.
///
/// Source: defaults of `admissionregistration.k8s.io/v1`.
const PATIENCE: u64 = 10;

/// One webhook of a configuration.
#[derive(Debug)]
pub(super) struct Webhook {
    /// Fully qualified, as it calls itself.
    name: String,
    configuration: String,
    /// Tells webhooks apart that have the same name.
    uid: String,
    client: Result<Client, String>,
    criteria: Result<Criteria, String>,
    conditions: Conditions,
    /// A webhook that fails is as good as one that allows.
    fails_open: bool,
    timeout: Duration,
    /// Wants to look again if a later one changes the object.
    again: bool,
    /// May be called for dry runs.
    allows_dry_run: bool,
    /// Understands `admission.k8s.io/v1`.
    speaks_v1: bool,
}

/// The webhooks of a `MutatingWebhookConfiguration` or `ValidatingWebhookConfiguration`.
pub(super) fn compile(configuration: &Value) -> Vec<Arc<Webhook>> {
    let name = configuration["metadata"]["name"].as_str().unwrap_or_default();
    let hooks = configuration["webhooks"].as_array().into_iter().flatten().enumerate();
    hooks.map(|(at, hook)| Arc::new(Webhook::compile(name, at, hook))).collect()
}

impl Webhook {
    fn compile(configuration: &str, at: usize, hook: &Value) -> Self {
        let text = |key: &str| hook[key].as_str().unwrap_or_default();
        let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(PATIENCE);
        let versions = hook["admissionReviewVersions"].as_array();
        Self {
            name: text("name").to_owned(),
            configuration: configuration.to_owned(),
            uid: format!("{configuration}/{}/{at}", text("name")),
            client: Client::parse(&hook["clientConfig"]),
            criteria: Criteria::of_webhook(hook),
            conditions: Conditions::of(&hook["matchConditions"]),
            fails_open: text("failurePolicy") == "Ignore",
            timeout: Duration::from_secs(seconds),
            again: text("reinvocationPolicy") == "IfNeeded",
            allows_dry_run: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            speaks_v1: versions.is_some_and(|list| list.iter().any(|v| v == "v1")),
        }
    }

    /// As whose object the webhook is to see the request; none if it is not to see it.
    async fn wants(
        &self,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<Option<Arc<Resource>>, ApiError> {
        let criteria = self.criteria.as_ref().map_err(|e| ApiError::Internal(e.clone()))?;
        let Some(resource) = criteria.matches(attributes, object).await? else { return Ok(None) };
        if self.conditions.is_empty() {
            return Ok(Some(resource));
        }
        let subject = Subject::new(attributes, &resource, object).await?;
        let held = self.conditions.hold(&Activation::new(attributes, &subject));
        match held {
            Ok(held) => Ok(held.then_some(resource)),
            Err(_) if self.fails_open => Ok(None),
            Err(fault) => Err(attributes.forbidden(object, fault)),
        }
    }
}
