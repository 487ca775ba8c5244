//! Questions that a server outside answers.
//!
//! Source: kubernetes.io, "Webhook Mode"; KEP-3221 (conditions), KEP-4601 (selectors).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use schema::cel::Program;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Attributes, Decision};
use crate::handlers::selector;
use crate::identity::expiring::Expiring;
use crate::identity::file::Problem;
use crate::identity::webhook::Webhook;

/// Most answers that are remembered, and the largest question among them, in bytes.
///
/// Source: `maxControlledAttrCacheSize` in upstream's webhook authorizer.
const REMEMBERED: usize = 8192;
const LARGEST: usize = 10_000;

/// How a server outside is asked.
#[derive(Debug, Default)]
pub struct Settings {
    /// Version of the reviews, `v1` or `v1beta1`.
    pub version: String,
    /// How long a yes holds.
    pub authorized_ttl: Duration,
    /// How long a no holds.
    pub unauthorized_ttl: Duration,
    /// Longest wait, all tries together.
    pub timeout: Duration,
    /// Over `request`, the review's spec: only what fulfils all of them is asked.
    pub conditions: Vec<Arc<Program>>,
    /// Whether silence is a no; else others are asked.
    pub denies_on_failure: bool,
}

/// A server outside that decides, and its answers of late.
#[derive(Debug)]
pub struct Remote {
    name: String,
    webhook: Webhook,
    settings: Settings,
    answers: Expiring<[u8; 32], Decision>,
}

impl Remote {
    /// The server that the kubeconfig at `path` names; `name` is for logs.
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub fn new(name: &str, path: &Path, settings: Settings) -> Result<Self, Problem> {
        let webhook = Webhook::new(path, settings.timeout)?;
        let answers = Expiring::new(REMEMBERED);
        Ok(Self { name: name.to_owned(), webhook, settings, answers })
    }

    /// What the server says.
    pub(super) async fn authorize(&self, asked: &Attributes<'_>) -> Decision {
        let spec = spec(asked);
        match self.concerns(&spec) {
            Ok(true) => (),
            Ok(false) => return Decision::default(),
            Err(reason) => return self.failed(&reason),
        }
        let text = spec.to_string();
        let key: [u8; 32] = Sha256::digest(&text).into();
        let now = Instant::now();
        if let Some(known) = self.answers.get(&key, now) {
            return known;
        }
        let review = json!({
            "apiVersion": format!("authorization.k8s.io/{}", self.settings.version),
            "kind": "SubjectAccessReview",
            "metadata": {},
            "spec": self.in_version(spec),
        });
        match self.webhook.call(&review).await {
            Ok(answer) => {
                let decision = decision(&answer["status"]);
                let life = match decision.allowed {
                    true => self.settings.authorized_ttl,
                    false => self.settings.unauthorized_ttl,
                };
                if text.len() <= LARGEST {
                    self.answers.insert(key, decision.clone(), now, life);
                }
                decision
            }
            Err(error) => self.failed(&error.to_string()),
        }
    }

    fn failed(&self, reason: &str) -> Decision {
        tracing::warn!(
            webhook = self.name,
            reason,
            "a request was not judged by the authorization webhook"
        );
        match self.settings.denies_on_failure {
            true => Decision::deny(String::new()),
            false => Decision::default(),
        }
    }

    /// Whether all conditions hold. One that is false counts more than one that fails.
    fn concerns(&self, spec: &Value) -> Result<bool, String> {
        let mut failure = None;
        for condition in &self.settings.conditions {
            match condition.evaluate(&[("request", spec)]) {
                Ok(Value::Bool(true)) => (),
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(_) => failure = Some("a condition is no boolean".to_owned()),
                Err(reason) => failure = Some(reason),
            }
        }
        failure.map_or(Ok(true), Err)
    }

    /// v1beta1 calls the groups `group`.
    fn in_version(&self, mut spec: Value) -> Value {
        if self.settings.version == "v1beta1"
            && let Some(spec) = spec.as_object_mut()
            && let Some(groups) = spec.remove("groups")
        {
            spec.insert("group".to_owned(), groups);
        }
        spec
    }
}

/// The question as the spec of a SubjectAccessReview; what is empty is left out.
fn spec(asked: &Attributes<'_>) -> Value {
    let mut spec = Map::new();
    let mut put = |key: &str, value: Value| {
        if !crate::types::check::is_empty(&value) {
            spec.insert(key.to_owned(), value);
        }
    };
    let user = asked.user;
    put("user", json!(user.name));
    put("uid", json!(user.uid));
    put("groups", json!(user.groups));
    let extra = user.extra.iter().map(|(key, values)| (key.clone(), json!(values)));
    put("extra", Value::Object(extra.collect()));
    if !asked.is_resource {
        let attributes = json!({ "path": asked.path, "verb": asked.verb });
        put("nonResourceAttributes", attributes);
        return spec.into();
    }
    let mut attributes = Map::new();
    for (key, value) in [
        ("namespace", asked.namespace),
        ("verb", asked.verb),
        ("group", asked.group),
        ("version", asked.version),
        ("resource", asked.resource),
        ("subresource", asked.subresource),
        ("name", asked.name),
    ] {
        if !value.is_empty() {
            attributes.insert(key.to_owned(), value.into());
        }
    }
    for (key, requirements) in [
        ("fieldSelector", selector::field_requirements(asked.field_selector)),
        ("labelSelector", selector::label_requirements(asked.label_selector)),
    ] {
        if !requirements.is_empty() {
            attributes.insert(key.to_owned(), json!({ "requirements": requirements }));
        }
    }
    put("resourceAttributes", attributes.into());
    spec.into()
}

fn decision(status: &Value) -> Decision {
    let is = |field: &str| status[field] == true;
    let reason = status["reason"].as_str().unwrap_or_default();
    match (is("denied"), is("allowed")) {
        (true, _) => Decision::deny(reason),
        (false, true) => Decision::allow(reason),
        (false, false) => Decision::no_opinion(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::User;

    #[test]
    fn a_question_is_a_review() {
        let jane = User { name: "jane".into(), ..User::default() };
        let asked = Attributes {
            verb: "list",
            resource: "pods",
            namespace: "shop",
            field_selector: "spec.nodeName=n1",
            label_selector: "app in (a,b),!old",
            ..Attributes::of_nothing(&jane)
        };
        let expected = json!({ "user": "jane", "resourceAttributes": {
            "namespace": "shop", "verb": "list", "resource": "pods",
            "fieldSelector": { "requirements": [
                { "key": "spec.nodeName", "operator": "In", "values": ["n1"] },
            ] },
            "labelSelector": { "requirements": [
                { "key": "app", "operator": "In", "values": ["a", "b"] },
                { "key": "old", "operator": "DoesNotExist" },
            ] },
        } });
        assert_eq!(spec(&asked), expected);
        let url = Attributes { is_resource: false, path: "/x", verb: "get", ..asked };
        let expected =
            json!({ "user": "jane", "nonResourceAttributes": { "path": "/x", "verb": "get" } });
        assert_eq!(spec(&url), expected);
    }

    #[test]
    fn a_no_outweighs_a_yes() {
        assert!(decision(&json!({ "allowed": true })).allowed);
        assert!(decision(&json!({ "allowed": true, "denied": true })).denied);
        let none = decision(&json!({ "allowed": false, "reason": "because" }));
        assert!(!none.denied && none.reason.to_string() == "because");
    }
}
