//! `MutatingAdmissionWebhook`: webhooks are asked one after the other; each sees what those before it made.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use serde_json::{Value, json};

use super::Webhook;
use super::call::Fault;
use super::response::refusal;
use crate::admission::attributes::{Attributes, Operation};
use crate::admission::metrics::Phase;
use crate::admission::plugin::{Admitted, Plugin, admitted};
use crate::admission::{matching, mutation};
use crate::audit;
use crate::registry::Resource;
use crate::status::ApiError;

/// The plugin.
pub(in crate::admission) struct MutatingAdmissionWebhook;

impl Plugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn handles(&self, _operation: Operation) -> bool {
        true
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a mut Value,
    ) -> Admitted<'a> {
        let hooks = attributes.core.hooks.mutating.webhooks.load_full();
        if hooks.is_empty() || matching::is_exempt(attributes) {
            return admitted();
        }
        admit(hooks, attributes, object).boxed()
    }
}

async fn admit(
    hooks: Arc<Vec<Arc<Webhook>>>,
    attributes: &mut Attributes<'_>,
    object: &mut Value,
) -> Result<(), ApiError> {
    attributes.webhook_rounds.begin(attributes.reinvoked, object);
    let mut was_asked = false;
    for (at, hook) in hooks.iter().enumerate() {
        let Some(resource) = hook.wants(attributes, object).await? else { continue };
        if attributes.reinvoked && !attributes.webhook_rounds.is_due(&hook.uid) {
            continue;
        }
        was_asked = true;
        let begun = Instant::now();
        let outcome = mutate(hook, attributes, &resource, object, at).await;
        hook.count(attributes, Phase::Admit, begun, outcome.as_ref());
        let changed = match outcome {
            Ok(changed) => changed,
            Err(fault) => {
                let place = format!("failed-open.{}", place(attributes, at));
                hook.settle(fault, attributes, &place)?;
                false
            }
        };
        if changed {
            attributes.webhook_rounds.changed();
            attributes.reinvoke = true;
        }
        if hook.again {
            attributes.webhook_rounds.asked(&hook.uid);
        }
    }
    if was_asked {
        attributes.webhook_rounds.end(object);
    }
    Ok(())
}

/// Where an audit annotation belongs: the round, and the webhook's place in it.
fn place(attributes: &Attributes<'_>, at: usize) -> String {
    let round = u8::from(attributes.reinvoked);
    format!("mutation.webhook.admission.k8s.io/round_{round}_index_{at}")
}

/// Asks one webhook and takes over its changes; whether there were any.
async fn mutate(
    hook: &Webhook,
    attributes: &mut Attributes<'_>,
    resource: &Arc<Resource>,
    object: &mut Value,
    at: usize,
) -> Result<bool, Fault> {
    let shown = matching::convert(attributes, resource, object).await.map_err(Fault::Refused)?;
    let response = hook.ask(attributes, resource, &shown, true).await?;
    attributes.warnings.extend(response.warnings);
    if !response.allowed {
        return Err(Fault::Rejected(refusal(&hook.name, &response.result)));
    }
    let patched = patch(hook, attributes, resource, &shown, &response.patch)?;
    let changed = patched.is_some();
    if let Some(patched) = patched {
        let back = matching::convert_back(attributes, resource, patched).await;
        *object = back.map_err(Fault::Refused)?;
    }
    let note =
        json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
    audit::annotate(&place(attributes, at), || note.to_string());
    Ok(changed)
}

/// The object after the patch, if that changed it.
fn patch(
    hook: &Webhook,
    attributes: &Attributes<'_>,
    resource: &Arc<Resource>,
    shown: &Value,
    patch: &[u8],
) -> Result<Option<Value>, Fault> {
    let internal = |text: String| Fault::Refused(ApiError::Internal(text));
    let is_empty = matches!(patch.trim_ascii(), b"" | b"[]" | b"null");
    if is_empty {
        return Ok(None);
    }
    if !shown.is_object() {
        return Err(internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        )));
    }
    let mut patched = shown.clone();
    schema::patch::json(&mut patched, patch).map_err(|fault| match fault {
        schema::patch::PatchError::Decode(error) => Fault::Call(format!(
            "failed calling webhook {:?}: received undecodable patch in webhook response: {error}",
            hook.name
        )),
        other => internal(other.to_string()),
    })?;
    mutation::normalize(attributes, resource, &mut patched).map_err(internal)?;
    Ok((patched != *shown).then_some(patched))
}
