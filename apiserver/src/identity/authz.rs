//! What they may: the question, the answer, and who is asked in turn.
//!
//! `system:masters` may everything; node agents get what the node role says, narrowed to what is
//! their own; everyone gets what role bindings grant. Nothing else is allowed.

use parking_lot::RwLock;
use serde_json::Value;

use super::rbac::{Index, Kind, RoleKey, Rule};
use crate::request::{RequestInfo, User};
use crate::status::{ApiError, GroupResource};

/// Members may do everything, whatever roles say.
pub const MASTERS: &str = "system:masters";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// One question: may this user do that?
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who.
    pub user: &'a User,
    /// Does what.
    pub verb: &'a str,
    /// In which API group; empty for the core group.
    pub group: &'a str,
    /// In which version.
    pub version: &'a str,
    /// To which resource.
    pub resource: &'a str,
    /// And which part of it; empty for the object itself.
    pub subresource: &'a str,
    /// Where; empty for the whole cluster.
    pub namespace: &'a str,
    /// To which object; empty for a collection.
    pub name: &'a str,
    /// Or to which path, if it is no resource.
    pub path: &'a str,
    /// Whether it is a resource.
    pub is_resource: bool,
    /// Narrows a list or watch, as the query has it; may be empty.
    pub field_selector: &'a str,
}

impl<'a> Attributes<'a> {
    /// The question that a request poses.
    pub fn of(user: &'a User, request: &'a RequestInfo) -> Self {
        Self {
            user,
            verb: &request.verb,
            group: &request.group,
            version: &request.version,
            resource: &request.resource,
            subresource: &request.subresource,
            namespace: &request.namespace,
            name: &request.name,
            path: &request.path,
            is_resource: request.is_resource,
            field_selector: "",
        }
    }

    /// A question about resources that names only the user yet.
    pub fn of_nothing(user: &'a User) -> Self {
        Self {
            user,
            verb: "",
            group: "",
            version: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            path: "",
            is_resource: true,
            field_selector: "",
        }
    }

    /// The refusal, in the words that users and tools know.
    pub fn forbidden(&self, decision: &Decision) -> ApiError {
        let (user, verb) = (&self.user.name, self.verb);
        if !self.is_resource {
            let message = format!("forbidden: User {user:?} cannot {verb} path {:?}", self.path);
            return ApiError::forbidden(with_reason(message, decision));
        }
        let about = GroupResource::new(self.group, self.resource);
        let object = if self.name.is_empty() { String::new() } else { format!(" {:?}", self.name) };
        let resource = if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        };
        let place = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", self.namespace)
        };
        let message = format!(
            "{about}{object} is forbidden: User {user:?} cannot {verb} resource {resource:?} \
             in API group {:?} {place}",
            self.group
        );
        ApiError::Forbidden {
            resource: Some(about),
            name: self.name.to_owned(),
            message: with_reason(message, decision),
            causes: Vec::new(),
        }
    }
}

fn with_reason(message: String, decision: &Decision) -> String {
    if decision.reason.is_empty() { message } else { format!("{message}: {}", decision.reason) }
}

/// The answer to a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why, for people; may be empty.
    pub reason: String,
}

impl Decision {
    /// Yes, because.
    pub fn allow(reason: impl Into<String>) -> Self {
        Self { allowed: true, reason: reason.into() }
    }

    /// Nothing grants it.
    pub fn no_opinion(reason: impl Into<String>) -> Self {
        Self { allowed: false, reason: reason.into() }
    }
}

/// Answers questions from the index of roles and bindings.
#[derive(Debug, Default)]
pub struct Authorizer {
    index: RwLock<Index>,
}

impl Authorizer {
    /// Whether the user may do it, and why.
    pub fn authorize(&self, asked: &Attributes<'_>) -> Decision {
        if asked.user.in_group(MASTERS) {
            return Decision::allow("");
        }
        let index = self.index.read();
        let node = node_name(asked.user).map(|node| authorize_node(&index, node, asked));
        match node {
            Some(decision) if decision.allowed => decision,
            Some(refusal) => {
                let granted = index.authorize(asked);
                if granted.allowed { granted } else { refusal }
            }
            None => index.authorize(asked),
        }
    }

    /// As [`Authorizer::authorize`], as an error to send.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`] if it is not allowed.
    pub fn require(&self, asked: &Attributes<'_>) -> Result<(), ApiError> {
        let decision = self.authorize(asked);
        if decision.allowed { Ok(()) } else { Err(asked.forbidden(&decision)) }
    }

    /// Takes over the state of a role or binding; `None` if it is gone.
    pub fn set(&self, kind: Kind, namespace: &str, name: &str, object: Option<&Value>) {
        self.index.write().set(kind, namespace, name, object);
    }

    /// Every rule that the user holds in `namespace`.
    pub fn rules_for(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let index = self.index.read();
        let mut rules: Vec<Rule> = index.rules_for(user, namespace).cloned().collect();
        if node_name(user).is_some() {
            rules.extend(node_role(&index).iter().flat_map(|rules| rules.iter().cloned()));
        }
        if user.in_group(MASTERS) {
            rules.push(everything());
            rules.push(Rule {
                verbs: vec!["*".to_owned()],
                non_resource_urls: vec!["*".to_owned()],
                ..Rule::default()
            });
        }
        rules
    }

    /// The rules of a role, if it exists.
    pub fn role(&self, key: &RoleKey) -> Option<std::sync::Arc<[Rule]>> {
        self.index.read().role(key)
    }
}

fn everything() -> Rule {
    let all = || vec!["*".to_owned()];
    Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() }
}

/// The node that a user is the agent of.
fn node_name(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix(NODE_PREFIX)?;
    (!name.is_empty() && user.in_group(NODES)).then_some(name)
}

fn node_role(index: &Index) -> Option<std::sync::Arc<[Rule]>> {
    index.role(&RoleKey { namespace: String::new(), name: "system:node".to_owned() })
}

/// What the node role grants, but of nodes, leases and pod lists only the agent's own.
///
/// Secrets, config maps and claims are granted as the role has them. Upstream narrows those to what
/// the node's pods refer to; that graph is not here yet (docs/security.md says so).
fn authorize_node(index: &Index, node: &str, asked: &Attributes<'_>) -> Decision {
    if let Some(reason) = not_its_own(node, asked) {
        return Decision::no_opinion(reason);
    }
    let granted = node_role(index).is_some_and(|rules| rules.iter().any(|rule| rule.allows(asked)));
    if granted { Decision::allow("") } else { Decision::no_opinion("") }
}

/// Why a request is not about what belongs to `node`; `None` if it is, or belongs to nobody.
fn not_its_own(node: &str, asked: &Attributes<'_>) -> Option<String> {
    let reading = matches!(asked.verb, "get" | "list" | "watch");
    match (asked.group, asked.resource) {
        ("", "nodes") if reading && asked.subresource.is_empty() && asked.verb == "get" => {
            (asked.name != node).then(|| {
                format!("node '{node}' cannot read '{}', only its own Node object", asked.name)
            })
        }
        ("", "pods") if matches!(asked.verb, "list" | "watch") && asked.name.is_empty() => {
            (!selects_node(asked.field_selector, node))
                .then(|| "can only list/watch pods with spec.nodeName field selector".to_owned())
        }
        ("", "secrets" | "configmaps") if reading && asked.name.is_empty() => {
            Some("No Object name found".to_owned())
        }
        ("coordination.k8s.io", "leases") => {
            let own_place = asked.namespace == "kube-node-lease";
            if !own_place {
                Some(
                    "can only access leases in the \"kube-node-lease\" system namespace".to_owned(),
                )
            } else if asked.verb != "create" && asked.name != node {
                Some(
                    "can only access node lease with the same name as the requesting node"
                        .to_owned(),
                )
            } else {
                None
            }
        }
        _ => None,
    }
}

fn selects_node(selector: &str, node: &str) -> bool {
    selector.split(',').any(|term| {
        let pair = term.split_once("==").or_else(|| term.split_once('='));
        pair.is_some_and(|(field, value)| field == "spec.nodeName" && value == node)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn authorizer() -> Authorizer {
        let authorizer = Authorizer::default();
        let role = json!({ "rules": [
            { "verbs": ["get", "list", "watch"], "apiGroups": [""],
              "resources": ["nodes", "pods", "secrets", "services"] },
            { "verbs": ["create", "get", "update"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"] },
        ] });
        authorizer.set(Kind::ClusterRole, "", "system:node", Some(&role));
        authorizer
    }

    fn node() -> User {
        User::new("system:node:n1", &["system:nodes"])
    }

    #[track_caller]
    fn check(user: &User, fill: impl Fn(&mut Attributes<'_>), expected: Result<(), &str>) {
        let mut asked = Attributes::of_nothing(user);
        fill(&mut asked);
        let got = authorizer().require(&asked).map_err(|error| error.to_string());
        assert_eq!(got.as_ref().map(|()| ()).map_err(String::as_str), expected);
    }

    #[test]
    fn masters_may_everything_and_others_nothing() {
        let root = User::new("root", &[MASTERS]);
        check(&root, |a| (a.verb, a.resource) = ("get", "pods"), Ok(()));
        let jane = User::new("jane", &[]);
        let in_namespace = |a: &mut Attributes<'_>| {
            (a.verb, a.resource, a.namespace, a.name) = ("get", "pods", "shop", "web");
            a.subresource = "log";
        };
        check(
            &jane,
            in_namespace,
            Err(
                "pods \"web\" is forbidden: User \"jane\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"shop\"",
            ),
        );
        let url = |a: &mut Attributes<'_>| (a.verb, a.is_resource, a.path) = ("get", false, "/api");
        check(&jane, url, Err("forbidden: User \"jane\" cannot get path \"/api\""));
    }

    #[test]
    fn a_node_reads_its_own() {
        check(&node(), |a| (a.verb, a.resource, a.name) = ("get", "nodes", "n1"), Ok(()));
        check(&node(), |a| (a.verb, a.resource) = ("list", "services"), Ok(()));
        check(
            &node(),
            |a| (a.verb, a.resource, a.name) = ("get", "nodes", "n2"),
            Err(
                "nodes \"n2\" is forbidden: User \"system:node:n1\" cannot get resource \"nodes\" in API group \"\" \
             at the cluster scope: node 'n1' cannot read 'n2', only its own Node object",
            ),
        );
        let own_pods = |a: &mut Attributes<'_>| {
            (a.verb, a.resource, a.field_selector) = ("list", "pods", "spec.nodeName=n1");
        };
        check(&node(), own_pods, Ok(()));
        check(
            &node(),
            |a| (a.verb, a.resource) = ("list", "pods"),
            Err(
                "pods is forbidden: User \"system:node:n1\" cannot list resource \"pods\" in API group \"\" \
             at the cluster scope: can only list/watch pods with spec.nodeName field selector",
            ),
        );
    }

    #[test]
    fn a_node_keeps_its_own_lease() {
        let lease = |name: &'static str| {
            move |a: &mut Attributes<'_>| {
                (a.verb, a.group, a.resource) = ("get", "coordination.k8s.io", "leases");
                (a.namespace, a.name) = ("kube-node-lease", name);
            }
        };
        check(&node(), lease("n1"), Ok(()));
        assert!(
            authorizer()
                .require(&{
                    let user = Box::leak(Box::new(node()));
                    let mut asked = Attributes::of_nothing(user);
                    lease("n2")(&mut asked);
                    asked
                })
                .is_err()
        );
    }
}
