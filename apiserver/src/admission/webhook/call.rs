//! One call of one webhook.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::Webhook;
use super::response::{self, Response};
use crate::admission::attributes::Attributes;
use crate::admission::metrics::{Called, Phase};
use crate::admission::{matching, review};
use crate::audit;
use crate::registry::Resource;
use crate::status::ApiError;

/// Why a call brought no permission.
#[derive(Debug)]
pub(super) enum Fault {
    /// The webhook cannot be asked, or its answer makes no sense: `failurePolicy` decides.
    Call(String),
    /// The request ends here, whatever `failurePolicy` says.
    Refused(ApiError),
    /// The webhook refuses the request.
    Rejected(ApiError),
}

impl Webhook {
    /// Asks the webhook about a request, seen as one for `resource`; `object` has that version.
    pub(super) async fn ask(
        &self,
        attributes: &Attributes<'_>,
        resource: &Arc<Resource>,
        object: &Value,
        mutating: bool,
    ) -> Result<Response, Fault> {
        if attributes.dry_run && !self.allows_dry_run {
            let text = format!("admission webhook {:?} does not support dry run", self.name);
            return Err(Fault::Refused(ApiError::BadRequest(text)));
        }
        let failed =
            |text: String| Fault::Call(format!("failed calling webhook {:?}: {text}", self.name));
        if !self.speaks_v1 {
            let text = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1)";
            return Err(failed(text.to_owned()));
        }
        let client = self
            .client
            .as_ref()
            .map_err(|error| failed(format!("could not get REST client: {error}")))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let old = match attributes.old {
            Some(old) => matching::convert(attributes, resource, old).await,
            None => Ok(Value::Null),
        };
        let old = old.map_err(Fault::Refused)?;
        let document = document(attributes, resource, (object, old), &uid);
        let left = attributes.deadline.saturating_duration_since(Instant::now());
        let answered = client.post(attributes.core, &document, self.timeout.min(left)).await;
        let answer = match answered {
            Ok(answer) => answer,
            Err(error) => return Err(failed(format!("failed to call webhook: {error}"))),
        };
        let response = response::read(&answer, &uid, mutating)
            .map_err(|error| failed(format!("received invalid webhook response: {error}")))?;
        for (key, value) in &response.annotations {
            audit::annotate(&format!("{}/{key}", self.name), || value);
        }
        Ok(response)
    }

    /// Counts a call that began at `begun`, and what became of it.
    pub(super) fn count<T>(
        &self,
        attributes: &Attributes<'_>,
        phase: Phase,
        begun: Instant,
        outcome: Result<&T, &Fault>,
    ) {
        let called = match outcome {
            Ok(_) => Called::Allowed,
            Err(Fault::Rejected(error)) => Called::Refused(error.code().as_u16()),
            Err(Fault::Refused(_)) => Called::Broken,
            Err(Fault::Call(_)) if self.fails_open => Called::FailedOpen,
            Err(Fault::Call(_)) => Called::FailedClosed,
        };
        let metrics = &attributes.core.admission.metrics;
        metrics.called(&self.name, phase, attributes.operation, called, begun.elapsed());
    }

    /// What a fault does to the request: nothing, if the webhook fails open.
    ///
    /// `place` is the key of the audit annotation for webhooks that were passed over.
    pub(super) fn settle(
        &self,
        fault: Fault,
        attributes: &Attributes<'_>,
        place: &str,
    ) -> Result<(), ApiError> {
        match fault {
            Fault::Refused(error) | Fault::Rejected(error) => Err(error),
            Fault::Call(text) if !self.fails_open => Err(ApiError::Internal(text)),
            Fault::Call(text) => {
                tracing::warn!(webhook = self.name, text, "webhook failed, the request goes on");
                audit::annotate(place, || self.name.clone());
                if attributes.deadline <= Instant::now() {
                    return Err(ApiError::Timeout {
                        message: "request did not complete within requested timeout".to_owned(),
                        retry_after: 0,
                        causes: Vec::new(),
                    });
                }
                Ok(())
            }
        }
    }
}

fn document(
    attributes: &Attributes<'_>,
    resource: &Arc<Resource>,
    (object, old): (&Value, Value),
    uid: &str,
) -> Value {
    let mut request = review::request(attributes, resource, object);
    request.insert("uid".to_owned(), uid.into());
    request.insert("object".to_owned(), object.clone());
    request.insert("oldObject".to_owned(), old);
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})
}
