//! `ValidatingAdmissionWebhook`: all webhooks that match are asked at the same time; each may refuse.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::join_all;
use serde_json::Value;

use super::Webhook;
use super::call::Fault;
use super::response::refusal;
use crate::admission::attributes::{Attributes, Operation};
use crate::admission::matching;
use crate::admission::metrics::Phase;
use crate::admission::plugin::{Admitted, Plugin, admitted};
use crate::registry::Resource;
use crate::status::ApiError;

/// The plugin.
pub(in crate::admission) struct ValidatingAdmissionWebhook;

impl Plugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, _operation: Operation) -> bool {
        true
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a Value,
    ) -> Admitted<'a> {
        let hooks = attributes.core.hooks.validating.webhooks.load_full();
        if hooks.is_empty() || matching::is_exempt(attributes) {
            return admitted();
        }
        validate(hooks, attributes, object).boxed()
    }
}

async fn validate(
    hooks: Arc<Vec<Arc<Webhook>>>,
    attributes: &mut Attributes<'_>,
    object: &Value,
) -> Result<(), ApiError> {
    let mut wanted = Vec::new();
    for hook in hooks.iter() {
        if let Some(resource) = hook.wants(attributes, object).await? {
            wanted.push((hook, resource));
        }
    }
    let seen = &*attributes;
    let calls = wanted
        .iter()
        .enumerate()
        .map(|(at, (hook, resource))| judge(hook, seen, resource, object, at));
    let answers = join_all(calls).await;
    let mut refused = None;
    for answer in answers {
        match answer {
            Ok((warnings, outcome)) => {
                attributes.warnings.extend(warnings);
                refused = refused.or(outcome.err());
            }
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    refused.map_or(Ok(()), Err)
}

/// What one webhook says: its warnings, and whether it refuses.
async fn judge(
    hook: &Webhook,
    attributes: &Attributes<'_>,
    resource: &Arc<Resource>,
    object: &Value,
    at: usize,
) -> Result<(Vec<String>, Result<(), ApiError>), ApiError> {
    let shown = matching::convert(attributes, resource, object).await?;
    let begun = Instant::now();
    let mut warnings = Vec::new();
    let outcome = hook.ask(attributes, resource, &shown, false).await.and_then(|response| {
        warnings = response.warnings;
        match response.allowed {
            true => Ok(()),
            false => Err(Fault::Rejected(refusal(&hook.name, &response.result))),
        }
    });
    hook.count(attributes, Phase::Validate, begun, outcome.as_ref());
    match outcome {
        Ok(()) => Ok((warnings, Ok(()))),
        Err(Fault::Rejected(refusal)) => Ok((warnings, Err(refusal))),
        Err(fault) => {
            let place =
                format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{at}");
            hook.settle(fault, attributes, &place)?;
            Ok((Vec::new(), Ok(())))
        }
    }
}
