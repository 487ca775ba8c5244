//! What they may: the question, the answer, and who is asked in turn.
//!
//! `system:masters` may everything; node agents get what `node` grants them; everyone gets what role bindings grant. Nothing else is allowed.

use std::sync::{Arc, OnceLock, Weak};

use parking_lot::RwLock;
use serde_json::Value;

use super::node::{self, Pods, node_name, node_role};
use super::rbac::{Index, Kind, RoleKey, Rule};
use crate::request::{RequestInfo, User};
use crate::status::{ApiError, GroupResource};

/// Members may do everything, whatever roles say.
pub const MASTERS: &str = "system:masters";

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

/// Answers questions from the index of roles and bindings, and from what runs on a node.
#[derive(Default)]
pub struct Authorizer {
    index: RwLock<Index>,
    pods: OnceLock<Weak<dyn Pods>>,
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorizer").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Authorizer {
    /// Tells where to see what runs on a node. Until then nothing does.
    pub fn look_at_pods(&self, pods: Weak<dyn Pods>) {
        // Whoever is first is the server itself; there is no second.
        let _ = self.pods.set(pods);
    }

    /// Whether the user may do it, and why.
    pub fn authorize(&self, asked: &Attributes<'_>) -> Decision {
        if asked.user.in_group(MASTERS) {
            return Decision::allow("");
        }
        let node = node_name(asked.user).map(|node| {
            let role = node_role(&self.index.read());
            let pods = self.pods.get().and_then(Weak::upgrade);
            node::authorize(role.as_deref(), pods.as_deref(), node, asked)
        });
        let index = self.index.read();
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
    pub fn role(&self, key: &RoleKey) -> Option<Arc<[Rule]>> {
        self.index.read().role(key)
    }
}

fn everything() -> Rule {
    let all = || vec!["*".to_owned()];
    Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(user: &User, fill: impl Fn(&mut Attributes<'_>), expected: Result<(), &str>) {
        let mut asked = Attributes::of_nothing(user);
        fill(&mut asked);
        let got = Authorizer::default().require(&asked).map_err(|error| error.to_string());
        assert_eq!(got.as_ref().map_err(String::as_str), expected.as_ref().map_err(|text| *text));
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
}
