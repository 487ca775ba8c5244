//! Tokens that clients ask for: for how long, for whom, and what they end with.

use jiff::SignedDuration;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{AUTHENTICATION, Context, seconds, text, texts};
use crate::identity::tokens::{Binding, Claims, Reference};
use crate::status::{ApiError, GroupResource, StatusCause};

/// What a kubelet asks for a mounted token; pods of old clients get a year instead, so that those
/// which never read the file again keep working.
///
/// Source: upstream `pkg/serviceaccount/claims.go`, `WarnOnlyBoundTokenExpirationSeconds`, and the
/// flag `--service-account-extend-token-expiration`, which is on by default.
const MOUNTED_TOKEN_SECONDS: i64 = 3607;
const EXTENDED_TOKEN_SECONDS: i64 = 365 * 24 * 3600;

/// Answers a TokenRequest for the account `name` in the context's namespace.
///
/// # Errors
/// [`ApiError::NotFound`] if the account or the object to bind to does not exist,
/// [`ApiError::Invalid`] for a life too short, [`ApiError::BadRequest`] for an object of a type
/// that tokens cannot be bound to, [`ApiError::Conflict`] if it is another object of that name.
pub fn token_request(ctx: &Context<'_>, name: &str, body: &Value) -> Result<Value, ApiError> {
    ctx.check_namespace(body)?;
    check_name(name, text(body, "/metadata/name"))?;
    let account = ctx.objects.find("serviceaccounts", ctx.namespace, name);
    let account = account.ok_or_else(|| not_found("serviceaccounts", name))?;
    let asked = body.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(3600);
    check_expiration(asked)?;
    let asked = ctx.limits.max_seconds.map_or(asked, |most| asked.min(most));
    let mut binding = Binding {
        namespace: ctx.namespace.to_owned(),
        serviceaccount: Some(Reference { name: name.to_owned(), uid: account.uid }),
        ..Binding::default()
    };
    let bound_to = body.pointer("/spec/boundObjectRef").filter(|r| !r.is_null());
    if let Some(reference) = bound_to {
        bind(ctx, name, reference, &mut binding)?;
    }
    let issuer = ctx.authenticator.keys().issuer();
    let ours = ctx.authenticator.keys().audiences();
    let audiences: Vec<String> = match texts(body, "/spec/audiences").as_slice() {
        [] => ours.to_vec(),
        some => some.iter().map(|a| (*a).to_owned()).collect(),
    };
    let now = ctx.now.as_second();
    let mut life = asked;
    let mounted = binding.pod.is_some() && asked == MOUNTED_TOKEN_SECONDS && audiences == ours;
    if ctx.limits.extend && mounted {
        life = EXTENDED_TOKEN_SECONDS;
        binding.warnafter = Some(now + asked);
    }
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + life,
        iat: now,
        iss: issuer.to_owned(),
        jti: Uuid::new_v4().to_string(),
        binding,
        nbf: now,
        sub: format!("system:serviceaccount:{}:{name}", ctx.namespace),
    };
    let token = ctx.authenticator.keys().sign(&claims).map_err(ApiError::internal)?;
    let expires = ctx.now.saturating_add(SignedDuration::from_secs(asked)).unwrap_or(ctx.now);
    Ok(json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": metadata(ctx, name, body),
        "spec": {
            "audiences": audiences,
            "expirationSeconds": asked,
            "boundObjectRef": bound_to,
        },
        "status": { "token": token, "expirationTimestamp": seconds(expires) },
    }))
}

/// What the client sent of the metadata, and what the server adds.
fn metadata(ctx: &Context<'_>, name: &str, body: &Value) -> Value {
    let mut metadata = json!({
        "name": name,
        "namespace": ctx.namespace,
        "uid": Uuid::new_v4().to_string(),
        "creationTimestamp": seconds(ctx.now),
    });
    for field in
        ["generateName", "labels", "annotations", "finalizers", "ownerReferences", "managedFields"]
    {
        if let Some(value) = body.pointer(&format!("/metadata/{field}")) {
            metadata[field] = value.clone();
        }
    }
    metadata
}

fn check_expiration(seconds: i64) -> Result<(), ApiError> {
    let problem = match seconds {
        ..600 => "may not specify a duration less than 10 minutes",
        600..=0x1_0000_0000 => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    Err(invalid("", "spec.expirationSeconds", format!("Invalid value: {seconds}: {problem}")))
}

/// A request that names its account must mean the one in the path.
fn check_name(account: &str, given: &str) -> Result<(), ApiError> {
    if given.is_empty() || given == account {
        return Ok(());
    }
    let problem = "must match the service account name if specified";
    Err(invalid(account, "metadata.name", format!("Invalid value: {given:?}: {problem}")))
}

fn invalid(name: &str, field: &str, message: String) -> ApiError {
    ApiError::Invalid {
        kind: GroupResource::new(AUTHENTICATION, "TokenRequest"),
        name: name.to_owned(),
        causes: vec![StatusCause {
            reason: "FieldValueInvalid".to_owned(),
            message,
            field: field.to_owned(),
        }],
    }
}

/// Ties the token to the pod, node or secret that `reference` names.
fn bind(
    ctx: &Context<'_>,
    account: &str,
    reference: &Value,
    binding: &mut Binding,
) -> Result<(), ApiError> {
    let part = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
    let (kind, version, name) = (part("kind"), part("apiVersion"), part("name"));
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let (resource, namespace) = match (kind, group) {
        ("Pod", "") => ("pods", ctx.namespace),
        ("Secret", "") => ("secrets", ctx.namespace),
        ("Node", "") => ("nodes", ""),
        _ => {
            return Err(ApiError::BadRequest(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    if name.is_empty() {
        return Err(ApiError::BadRequest("Name parameter required.".to_owned()));
    }
    let object = ctx.objects.object(resource, namespace, name);
    let object = object.ok_or_else(|| not_found(resource, name))?;
    let uid = text(&object, "/metadata/uid").to_owned();
    if !part("uid").is_empty() && part("uid") != uid {
        return Err(ApiError::Conflict {
            resource: GroupResource::new("", kind),
            name: name.to_owned(),
            message: format!(
                "the UID in the bound object reference ({}) does not match the UID in record. \
                 The object might have been deleted and then recreated",
                part("uid")
            ),
        });
    }
    let bound = Some(Reference { name: name.to_owned(), uid });
    match kind {
        "Secret" => binding.secret = bound,
        "Node" => binding.node = bound,
        _ => {
            if text(&object, "/spec/serviceAccountName") != account {
                return Err(ApiError::BadRequest(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with \
                     different serviceaccount name."
                )));
            }
            let node = text(&object, "/spec/nodeName");
            let uid = ctx.objects.find("nodes", "", node).map(|found| found.uid);
            binding.node = (!node.is_empty())
                .then(|| Reference { name: node.to_owned(), uid: uid.unwrap_or_default() });
            binding.pod = bound;
        }
    }
    Ok(())
}

fn not_found(resource: &str, name: &str) -> ApiError {
    ApiError::NotFound { resource: GroupResource::new("", resource), name: name.to_owned() }
}
