//! Questions that clients post: who am I, whose token is this, may they do that; and the one that
//! asks for a token. Nothing of it is stored.

mod token_request;
mod validate;

use jiff::Timestamp;
use serde_json::{Value, json};
pub use token_request::token_request;
use validate::About;

use super::authn::{Authenticator, Lookup};
use super::authz::{Attributes, Authorizer};
use super::options::AccountOptions;
use crate::handlers::selector::{Fields, Labels};
use crate::request::User;
use crate::status::{ApiError, GroupResource};

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// What a review may look at.
pub struct Context<'a> {
    /// Who asks.
    pub user: &'a User,
    /// Namespace in the path; empty if there is none.
    pub namespace: &'a str,
    /// Recognises tokens.
    pub authenticator: &'a Authenticator,
    /// Knows who may what.
    pub authorizer: &'a Authorizer,
    /// Objects that tokens are bound to.
    pub objects: &'a dyn Lookup,
    /// How long tokens may live.
    pub limits: &'a AccountOptions,
    /// The time.
    pub now: Timestamp,
}

impl Context<'_> {
    /// Whether the object that was posted belongs where it was posted.
    fn check_namespace(&self, body: &Value) -> Result<(), ApiError> {
        let given = text(body, "/metadata/namespace");
        match given.is_empty() || given == self.namespace {
            true => Ok(()),
            false => Err(ApiError::other_namespace()),
        }
    }
}

/// Answers the review `body` posted to `resource`; `None` if that is no review.
///
/// # Errors
/// [`ApiError::Invalid`] and [`ApiError::BadRequest`] for questions that make no sense.
pub async fn answer(
    ctx: &Context<'_>,
    resource: &str,
    body: &Value,
) -> Option<Result<Value, ApiError>> {
    Some(match resource {
        "selfsubjectreviews" => Ok(who_am_i(ctx, body)),
        "tokenreviews" => token_review(ctx, body).await,
        "subjectaccessreviews" => access_review(ctx, body, About::Named).await,
        "localsubjectaccessreviews" => local_access_review(ctx, body).await,
        "selfsubjectaccessreviews" => access_review(ctx, body, About::Myself).await,
        "selfsubjectrulesreviews" => rules_review(ctx, body),
        _ => return None,
    })
}

fn who_am_i(ctx: &Context<'_>, body: &Value) -> Value {
    let mut answer = body.clone();
    answer["metadata"] = json!({ "creationTimestamp": seconds(ctx.now) });
    answer["status"] = json!({ "userInfo": user_info(ctx.user) });
    answer
}

/// The user as reviews show them; what is empty is left out.
pub fn user_info(user: &User) -> Value {
    let mut info = serde_json::Map::new();
    if !user.name.is_empty() {
        info.insert("username".into(), user.name.clone().into());
    }
    if !user.uid.is_empty() {
        info.insert("uid".into(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        info.insert("groups".into(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        let extra: serde_json::Map<String, Value> =
            user.extra.iter().map(|(key, values)| (key.clone(), values.clone().into())).collect();
        info.insert("extra".into(), extra.into());
    }
    info.into()
}

async fn token_review(ctx: &Context<'_>, body: &Value) -> Result<Value, ApiError> {
    let token = text(body, "/spec/token");
    if token.is_empty() {
        let message = "token is required for TokenReview in authentication";
        return Err(ApiError::BadRequest(message.to_owned()));
    }
    let asked: Vec<String> =
        texts(body, "/spec/audiences").into_iter().map(str::to_owned).collect();
    let ours = ctx.authenticator.keys().audiences();
    let wanted = if asked.is_empty() { ours } else { &asked };
    let found = ctx.authenticator.token(token, &asked, ctx.objects, ctx.now.as_second()).await;
    let mut fault = "invalid bearer token".to_owned();
    let status = found.and_then(|found| {
        // A token that says nothing of audiences is for us, and for nobody else.
        let meant = found.audiences.as_deref().unwrap_or(ours);
        let shared: Vec<&String> = wanted.iter().filter(|a| meant.contains(a)).collect();
        if shared.is_empty() {
            let (meant, wanted) = (quoted(meant), quoted(wanted));
            fault = format!(
                "[{fault}, token audiences {meant} is invalid for the target audiences {wanted}]"
            );
            return None;
        }
        let user = super::authn::with_everyone(found.user);
        Some(json!({ "authenticated": true, "user": user_info(&user), "audiences": shared }))
    });
    let mut answer = body.clone();
    answer["status"] = status.unwrap_or_else(|| json!({ "user": {}, "error": fault }));
    Ok(with_metadata(answer))
}

/// Texts as Go prints a list of them.
fn quoted(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", texts.join(" "))
}

async fn local_access_review(ctx: &Context<'_>, body: &Value) -> Result<Value, ApiError> {
    ctx.check_namespace(body)?;
    access_review(ctx, body, About::NamedIn(ctx.namespace)).await
}

async fn access_review(
    ctx: &Context<'_>,
    body: &Value,
    about: About<'_>,
) -> Result<Value, ApiError> {
    let causes = validate::access(body, about);
    if !causes.is_empty() {
        return Err(ApiError::Invalid {
            kind: GroupResource::new(AUTHORIZATION, ""),
            name: String::new(),
            causes: causes.into_iter().map(Into::into).collect(),
        });
    }
    let user = if about == About::Myself { ctx.user.clone() } else { named_user(body) };
    let mut ignored = Vec::new();
    let fields = selector(body, "fieldSelector", &|text| Fields::parse(text).is_ok(), &mut ignored);
    let labels = selector(body, "labelSelector", &|text| Labels::parse(text).is_ok(), &mut ignored);
    let attributes = if body["spec"]["resourceAttributes"].is_null() {
        Attributes {
            verb: text(body, "/spec/nonResourceAttributes/verb"),
            path: text(body, "/spec/nonResourceAttributes/path"),
            is_resource: false,
            ..Attributes::of_nothing(&user)
        }
    } else {
        Attributes {
            field_selector: &fields,
            label_selector: &labels,
            ..resource_question(&user, body)
        }
    };
    let decision = ctx.authorizer.authorize(&attributes).await;
    let mut answer = body.clone();
    answer["status"] = json!({ "allowed": decision.allowed });
    if decision.denied {
        answer["status"]["denied"] = true.into();
    }
    if !decision.reason.is_empty() {
        answer["status"]["reason"] = decision.reason.to_string().into();
    }
    if !ignored.is_empty() {
        answer["status"]["evaluationError"] = ignored.join("; ").into();
    }
    Ok(with_metadata(answer))
}

/// A selector of the question as text. What of it does not parse restricts nothing, which `ignored` tells.
fn selector(
    body: &Value,
    name: &str,
    parses: &dyn Fn(&str) -> bool,
    ignored: &mut Vec<String>,
) -> String {
    let field = format!("spec.resourceAttributes.{name}");
    let selector = &body["spec"]["resourceAttributes"][name];
    let raw = selector["rawSelector"].as_str().unwrap_or_default();
    if !raw.is_empty() && !parses(raw) {
        ignored.push(format!("{field} ignored due to parse error"));
        return String::new();
    }
    let requirements = selector["requirements"].as_array().map(Vec::as_slice).unwrap_or_default();
    let terms: Vec<String> = requirements.iter().filter_map(term).collect();
    if terms.len() < requirements.len() {
        let partially = if terms.is_empty() { "" } else { "partially " };
        ignored.push(format!("{field} {partially}ignored due to parse error"));
    }
    if raw.is_empty() { terms.join(",") } else { raw.to_owned() }
}

/// A requirement as a term of a selector. `in` with one value is equality, which fields need.
fn term(requirement: &Value) -> Option<String> {
    let key = requirement["key"].as_str().filter(|key| !key.is_empty())?;
    let values = requirement["values"].as_array().map(Vec::as_slice).unwrap_or_default();
    let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
    match (requirement["operator"].as_str()?, values.as_slice()) {
        ("In", [one]) => Some(format!("{key}={}", escape(one))),
        ("NotIn", [one]) => Some(format!("{key}!={}", escape(one))),
        ("In", [_, ..]) => Some(format!("{key} in ({})", values.join(","))),
        ("NotIn", [_, ..]) => Some(format!("{key} notin ({})", values.join(","))),
        ("Exists", []) => Some(key.to_owned()),
        ("DoesNotExist", []) => Some(format!("!{key}")),
        _ => None,
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=")
}

fn resource_question<'a>(user: &'a User, body: &'a Value) -> Attributes<'a> {
    let part = |field: &str| text(body, &format!("/spec/resourceAttributes/{field}"));
    Attributes {
        verb: part("verb"),
        group: part("group"),
        version: part("version"),
        resource: part("resource"),
        subresource: part("subresource"),
        namespace: part("namespace"),
        name: part("name"),
        ..Attributes::of_nothing(user)
    }
}

fn named_user(body: &Value) -> User {
    let extra = body.pointer("/spec/extra").and_then(Value::as_object);
    let values = |value: &Value| -> Vec<String> {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    User {
        name: text(body, "/spec/user").to_owned(),
        uid: text(body, "/spec/uid").to_owned(),
        groups: texts(body, "/spec/groups").into_iter().map(str::to_owned).collect(),
        extra: extra.into_iter().flatten().map(|(k, v)| (k.to_lowercase(), values(v))).collect(),
    }
}

fn rules_review(ctx: &Context<'_>, body: &Value) -> Result<Value, ApiError> {
    let namespace = text(body, "/spec/namespace");
    if namespace.is_empty() {
        return Err(ApiError::BadRequest("no namespace on request".to_owned()));
    }
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    let list = ctx.authorizer.rules_for(ctx.user, namespace);
    for rule in list.rules {
        if rule.resources.is_empty() {
            paths.push(json!({ "verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls }));
            continue;
        }
        let mut shown = json!({
            "verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources,
        });
        if !rule.resource_names.is_empty() {
            shown["resourceNames"] = rule.resource_names.into();
        }
        resources.push(shown);
    }
    let mut answer = body.clone();
    answer["metadata"] = json!({});
    answer["spec"] = json!({});
    let incomplete = !list.gaps.is_empty();
    answer["status"] =
        json!({ "resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete });
    if incomplete {
        answer["status"]["evaluationError"] = list.gaps.join(", ").into();
    }
    Ok(with_metadata(answer))
}

fn with_metadata(mut answer: Value) -> Value {
    if answer.get("metadata").is_none_or(Value::is_null) {
        answer["metadata"] = json!({});
    }
    answer
}

fn text<'a>(body: &'a Value, pointer: &str) -> &'a str {
    body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn texts<'a>(body: &'a Value, pointer: &str) -> Vec<&'a str> {
    let items = body.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice);
    items.unwrap_or_default().iter().filter_map(Value::as_str).collect()
}

fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::authn::Found;
    use crate::identity::pki::{Pki, ServerNames};
    use crate::identity::rbac::Kind;
    use crate::identity::tls::ClientAuthority;
    use crate::identity::tokens::TokenKeys;

    struct World;

    impl Lookup for World {
        fn find(&self, resource: &str, namespace: &str, name: &str) -> Option<Found> {
            let uid = text(&self.object(resource, namespace, name)?, "/metadata/uid").to_owned();
            Some(Found { uid, deleted_at: None })
        }

        fn object(&self, resource: &str, _: &str, name: &str) -> Option<Value> {
            let known = matches!(
                (resource, name),
                ("serviceaccounts", "web") | ("pods", "web-1" | "other-1") | ("nodes", "n1")
            );
            let account = name.split('-').next().unwrap_or_default();
            known.then(|| {
                json!({
                    "metadata": { "uid": format!("uid-{name}") },
                    "spec": { "serviceAccountName": account, "nodeName": "n1" },
                })
            })
        }
    }

    fn ask(user: &User, call: impl Fn(&Context<'_>) -> Result<Value, ApiError>) -> Value {
        let pki = Pki::open(None, &ServerNames::default()).unwrap();
        let authorizer = Authorizer::default();
        let rules =
            json!({ "rules": [{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }] });
        authorizer.set(Kind::Role, "shop", "reader", Some(&rules));
        let binding = json!({
            "roleRef": { "kind": "Role", "name": "reader" },
            "subjects": [{ "kind": "User", "name": "jane" }],
        });
        authorizer.set(Kind::RoleBinding, "shop", "b", Some(&binding));
        let ctx = Context {
            user,
            namespace: "shop",
            authenticator: &Authenticator::new(
                TokenKeys::of_pki(&pki, "https://here").unwrap(),
                ClientAuthority::new(&pki).unwrap(),
            ),
            limits: &AccountOptions::default(),
            authorizer: &authorizer,
            objects: &World,
            now: "2026-01-01T00:00:00.4Z".parse().unwrap(),
        };
        call(&ctx).unwrap_or_else(|error| error.to_string().into())
    }

    #[test]
    fn a_token_names_its_account_pod_and_node() {
        let jane = User::new("jane", &[]);
        let review = ask(&jane, |ctx| {
            let body = json!({ "spec": {
                "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "web-1" },
            } });
            let answer = token_request(ctx, "web", &body)?;
            assert_eq!(answer["status"]["expirationTimestamp"], "2026-01-01T01:00:00Z");
            let review = json!({ "spec": { "token": answer["status"]["token"] } });
            answer_of(ctx, "tokenreviews", &review)
        });
        let user = &review["status"]["user"];
        assert_eq!(user["username"], "system:serviceaccount:shop:web");
        assert_eq!(user["extra"]["authentication.kubernetes.io/pod-uid"], json!(["uid-web-1"]));
        assert_eq!(user["extra"]["authentication.kubernetes.io/node-name"], json!(["n1"]));
    }

    fn answer_of(ctx: &Context<'_>, resource: &str, body: &Value) -> Result<Value, ApiError> {
        let answer = futures::FutureExt::now_or_never(answer(ctx, resource, body));
        answer.expect("an answer without waiting").unwrap()
    }

    #[test]
    fn a_mounted_token_is_extended() {
        let claims = ask(&User::anonymous(), |ctx| {
            let body = json!({ "spec": {
                "expirationSeconds": 3607,
                "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "web-1" },
            } });
            let answer = token_request(ctx, "web", &body)?;
            let token = answer["status"]["token"].as_str().unwrap();
            let claims = ctx.authenticator.keys().verify(token, ctx.now.as_second()).unwrap();
            assert_eq!(answer["status"]["expirationTimestamp"], "2026-01-01T01:00:07Z");
            Ok(serde_json::to_value(claims).unwrap())
        });
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 31_536_000);
        assert_eq!(
            claims["kubernetes.io"]["warnafter"].as_i64().unwrap()
                - claims["iat"].as_i64().unwrap(),
            3607
        );
    }

    #[test]
    fn token_requests_that_make_no_sense_are_refused() {
        let jane = User::new("jane", &[]);
        let refused = |name: &str, spec: Value| {
            ask(&jane, |ctx| token_request(ctx, name, &json!({ "spec": spec })))
        };
        assert_eq!(refused("ghost", json!({})), "serviceaccounts \"ghost\" not found");
        let bound = |kind: &str, name: &str| json!({ "boundObjectRef": { "kind": kind, "apiVersion": "v1", "name": name } });
        assert_eq!(refused("web", bound("Pod", "ghost")), "pods \"ghost\" not found");
        assert_eq!(
            refused("web", bound("Toaster", "x")),
            "cannot bind token to object of type /v1, Kind=Toaster"
        );
        let other = refused("web", bound("Pod", "other-1"));
        assert!(other.as_str().unwrap().contains("different serviceaccount name"), "{other}");
        let short = refused("web", json!({ "expirationSeconds": 5 }));
        assert!(short.as_str().unwrap().contains("less than 10 minutes"), "{short}");
    }

    #[test]
    fn access_reviews_tell_who_may() {
        let jane = User::new("jane", &[]);
        let attributes = json!({ "namespace": "shop", "verb": "get", "resource": "pods" });
        let own = json!({ "spec": { "resourceAttributes": attributes } });
        let answer = ask(&jane, |ctx| answer_of(ctx, "selfsubjectaccessreviews", &own));
        assert_eq!(answer["status"]["allowed"], true);
        let of_joe = json!({ "spec": { "user": "joe", "resourceAttributes": attributes } });
        let answer = ask(&jane, |ctx| answer_of(ctx, "localsubjectaccessreviews", &of_joe));
        assert_eq!(answer["status"], json!({ "allowed": false }));
        let nobody = ask(&jane, |ctx| answer_of(ctx, "subjectaccessreviews", &own));
        assert!(nobody.as_str().unwrap().contains("at least one of user or group"), "{nobody}");
    }

    #[test]
    fn rules_reviews_list_what_is_granted() {
        let jane = User::new("jane", &[]);
        let body = json!({ "spec": { "namespace": "shop" } });
        let answer = ask(&jane, |ctx| answer_of(ctx, "selfsubjectrulesreviews", &body));
        assert_eq!(answer["status"]["resourceRules"][0]["resources"], json!(["pods"]));
    }
}
