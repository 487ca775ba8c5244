//! Observe, plan, apply, for one certificate signing request. All the I/O is here.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kit::{CallError, RESYNC, Requeue, call};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tracing::info;

use crate::Context;
use crate::plan::{self, Action, Observed};
use crate::request::Asked;
use crate::sign;

pub(crate) async fn reconcile(
    request: Arc<CertificateSigningRequest>,
    context: Arc<Context>,
) -> Result<Requeue, CallError> {
    let now = context.stage.clock.now().as_second();
    let observed = Observed {
        request: &request,
        now,
        can_sign: context.authority.is_some(),
        is_over: plan::certificate(&request).is_some_and(|pem| sign::is_over(pem, now)),
    };
    if let Some(action) = plan::plan(&observed) {
        apply(&context, &request, action).await?;
    }
    Ok(Requeue::requeue(RESYNC))
}

async fn apply(
    context: &Context,
    request: &CertificateSigningRequest,
    action: Action,
) -> Result<(), CallError> {
    let failed = |operation| {
        let what = format!("certificate signing request {}", request.name_any());
        move |source| CallError::new(operation, what, source)
    };
    let api: Api<CertificateSigningRequest> = Api::all(context.stage.client.clone());
    let (name, params) = (request.name_any(), PatchParams::default());
    match action {
        Action::ApproveIf { right, message } => {
            if !may(context, request, right).await.map_err(failed("review"))? {
                return Ok(());
            }
            let patch = condition(request, "Approved", "AutoApproved", message);
            api.patch_approval(&name, &params, &patch).await.map_err(failed("approve"))?;
            info!(name, right, "certificate signing request approved");
        }
        Action::Sign => match signed(context, request) {
            Ok(pem) => {
                let patch = Patch::Merge(json!({
                    "metadata": { "resourceVersion": request.resource_version() },
                    "status": { "certificate": STANDARD.encode(pem) },
                }));
                api.patch_status(&name, &params, &patch).await.map_err(failed("sign"))?;
                info!(name, signer = request.spec.signer_name, "certificate issued");
            }
            Err(reason) => {
                let patch = condition(request, "Failed", "SignerValidationFailure", &reason);
                api.patch_status(&name, &params, &patch).await.map_err(failed("fail"))?;
            }
        },
        Action::Fail(reason) => {
            let patch = condition(request, "Failed", "SignerValidationFailure", reason);
            api.patch_status(&name, &params, &patch).await.map_err(failed("fail"))?;
            info!(name, reason, "certificate signing request failed");
        }
        Action::Delete => match api.delete(&name, &call::only(request.uid())).await {
            Ok(_) => info!(name, "old certificate signing request deleted"),
            Err(error) if call::is_gone(&error) => (),
            Err(source) => return Err(failed("delete")(source)),
        },
    }
    Ok(())
}

/// A patch that adds a condition to the request as it was seen.
fn condition(
    request: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: &str,
) -> Patch<Value> {
    Patch::Strategic(json!({
        "metadata": { "resourceVersion": request.resource_version() },
        "status": { "conditions": [
            { "type": kind, "status": "True", "reason": reason, "message": message },
        ] },
    }))
}

fn signed(context: &Context, request: &CertificateSigningRequest) -> Result<String, String> {
    let authority = context.authority.as_ref().ok_or("there is no key to sign with")?;
    let usages = request.spec.usages.clone().unwrap_or_default();
    let pem = &request.spec.request.0;
    let asked = Asked::read(pem, &usages).ok_or("the request cannot be read")?;
    let seconds = request.spec.expiration_seconds.and_then(|s| u64::try_from(s).ok());
    authority.sign(pem, &asked, seconds.map(Duration::from_secs))
}

/// Whether who asks may have such a certificate without a human's look.
async fn may(
    context: &Context,
    request: &CertificateSigningRequest,
    right: &str,
) -> Result<bool, kube::Error> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: request.spec.username.clone(),
            uid: request.spec.uid.clone(),
            groups: request.spec.groups.clone(),
            extra: request.spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                verb: Some("create".to_owned()),
                group: Some("certificates.k8s.io".to_owned()),
                version: Some("*".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                subresource: Some(right.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(context.stage.client.clone());
    let review = reviews.create(&PostParams::default(), &review).await?;
    Ok(review.status.is_some_and(|status| status.allowed))
}
