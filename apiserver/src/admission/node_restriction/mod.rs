//! Node agents write what belongs to their node, and of that only what agents decide.
//!
//! The authorizer sees paths; here the objects are seen. Whoever takes over a node must not steer other pods to it, get
//! tokens of accounts that do not run there, or act for another node.

mod audiences;
mod node;
mod own;
mod pods;
mod tokens;

use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, Resources};
use crate::identity::node::agent_of;
use crate::status::{ApiError, GroupResource};
use crate::types::certificates;
use crate::types::check::{is_empty, items, members, text};

/// Why a rule refuses; in words, which become a refusal of the request.
type Rule = Result<(), String>;

/// Source: kubernetes.io, "Using Admission Controllers", NodeRestriction; upstream
/// `plugin/pkg/admission/noderestriction`.
pub(super) struct NodeRestriction;

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update | Operation::Delete)
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[
            ("", "pods"),
            ("", "nodes"),
            ("", "persistentvolumeclaims"),
            ("", "serviceaccounts"),
            ("coordination.k8s.io", "leases"),
            ("storage.k8s.io", "csinodes"),
            ("resource.k8s.io", "resourceslices"),
            (certificates::GROUP, "certificatesigningrequests"),
        ])
    }

    /// In the mutating phase, since what plugins and webhooks change afterwards is not the agent's doing.
    fn admit<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a mut Value,
    ) -> Admitted<'a> {
        Box::pin(async move {
            let Some(node) = agent_of(attributes.user) else { return Ok(()) };
            let asked = Asked {
                node,
                operation: attributes.operation,
                namespace: attributes.namespace,
                name: &attributes.name,
                object,
                old: attributes.old.unwrap_or(&Value::Null),
            };
            let refused = |refusal| match refusal {
                Refusal::Rule(why) => attributes.forbidden(object, why),
                Refusal::Other(error) => error,
            };
            judge(attributes, &asked).await.map_err(refused)
        })
    }
}

/// What the rules look at.
#[derive(Clone, Copy)]
struct Asked<'a> {
    /// The node whose agent asks.
    node: &'a str,
    operation: Operation,
    namespace: &'a str,
    /// In the path, or of the new object.
    name: &'a str,
    /// As it shall be; null on deletions.
    object: &'a Value,
    /// As it is stored; null on creations.
    old: &'a Value,
}

/// Why a request does not pass.
enum Refusal {
    /// A rule is against it.
    Rule(String),
    /// Something is absent that the rules must see, or the store fails.
    Other(ApiError),
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::Rule(why)
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Other(error)
    }
}

async fn judge(attributes: &Attributes<'_>, asked: &Asked<'_>) -> Result<(), Refusal> {
    if asked.node.is_empty() {
        let user = &attributes.user.name;
        return Err(format!("could not determine node from user {user:?}").into());
    }
    match (&*attributes.resource.name, attributes.subresource) {
        ("pods", "") => whole_pod(attributes, asked).await,
        ("pods", "status") => Ok(pods::status(asked)?),
        ("pods", "eviction") => {
            let pod = find(attributes, "", "pods", asked.namespace, asked.name).await?;
            Ok(pods::eviction(asked, &pod)?)
        }
        ("pods", part) => Err(pods::unexpected(part).into()),
        ("nodes", _) => Ok(node::check(asked)?),
        ("persistentvolumeclaims", part) => Ok(own::claim(asked, part)?),
        ("serviceaccounts", "token") => token(attributes, asked).await,
        ("leases", _) => Ok(own::lease(asked)?),
        ("csinodes", _) => Ok(own::csi_node(asked)?),
        ("resourceslices", _) => Ok(own::slice(asked)?),
        ("certificatesigningrequests", _) => Ok(own::signing_request(asked)?),
        _ => Ok(()),
    }
}

async fn whole_pod(attributes: &Attributes<'_>, asked: &Asked<'_>) -> Result<(), Refusal> {
    match asked.operation {
        Operation::Create => {
            let owner = pods::mirror(asked)?;
            let node = find(attributes, "", "nodes", "", asked.node).await?;
            pods::same_node(asked, owner, &node)?;
            Ok(pods::self_contained(asked)?)
        }
        Operation::Delete => Ok(pods::deletion(asked)?),
        other => Err(pods::unchangeable(asked, other).into()),
    }
}

async fn token(attributes: &Attributes<'_>, asked: &Asked<'_>) -> Result<(), Refusal> {
    let bound = tokens::bound(&asked.object["spec"])?;
    let pod = find(attributes, "", "pods", asked.namespace, text(bound, "name")).await?;
    tokens::runs_here(bound, &pod, asked.node)?;
    let audience = tokens::audience(&asked.object["spec"])?;
    audiences::check(attributes, &pod, audience).await
}

/// Another object, which must be there. Its absence is told in the singular, as upstream's caches tell it.
async fn find(
    attributes: &Attributes<'_>,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Value, ApiError> {
    let found = attributes.lookup(group, resource, namespace, name).await?;
    found.ok_or_else(|| ApiError::NotFound {
        resource: GroupResource::new(group, resource.trim_end_matches('s')),
        name: name.to_owned(),
    })
}

/// Whether two values mean the same: absent, null and empty are one.
fn same(one: &Value, other: &Value) -> bool {
    if is_empty(one) || is_empty(other) {
        return is_empty(one) && is_empty(other);
    }
    match (one, other) {
        (Value::Array(list), Value::Array(others)) => {
            list.len() == others.len() && list.iter().zip(others).all(|(a, b)| same(a, b))
        }
        (Value::Object(_), Value::Object(_)) => {
            let mut keys = members(one).chain(members(other)).map(|(key, _)| key.as_str());
            keys.all(|key| same(&one[key], &other[key]))
        }
        _ => one == other,
    }
}

/// Refuses with these words unless the condition holds.
fn require(holds: bool, why: impl FnOnce() -> String) -> Rule {
    if holds { Ok(()) } else { Err(why()) }
}

/// Owners of an object.
fn owners(object: &Value) -> &[Value] {
    items(&object["metadata"]["ownerReferences"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A question of the agent of `n1`.
    pub(super) fn asked<'a>(operation: Operation, object: &'a Value, old: &'a Value) -> Asked<'a> {
        let named = if object.is_null() { old } else { object };
        let metadata = &named["metadata"];
        Asked {
            node: "n1",
            operation,
            namespace: text(metadata, "namespace"),
            name: text(metadata, "name"),
            object,
            old,
        }
    }

    /// Whether a rule answers with these words; none for a request that passes.
    #[track_caller]
    pub(super) fn says<T: std::fmt::Debug>(answer: Result<T, String>, words: &str) {
        match answer {
            Ok(_) => assert_eq!(words, "", "must be refused"),
            Err(why) => assert!(!words.is_empty() && why.contains(words), "{why}"),
        }
    }

    #[test]
    fn what_is_absent_is_as_good_as_empty() {
        assert!(same(&json!({"a": [], "b": "", "d": 1}), &json!({"b": {}, "d": 1})));
        assert!(!same(&json!([{"a": 1}]), &json!([{"a": 1}, {"a": 1}])));
        assert!(!same(&json!({"a": 1}), &json!({"b": 1})));
    }
}
