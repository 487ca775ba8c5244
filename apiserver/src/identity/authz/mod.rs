//! What they may: the question, the answer, and who is asked in turn.
//!
//! `system:masters` may everything. All others are judged by a chain of authorizers, usually `Node`
//! and `RBAC`: the first that allows or denies decides, and what nobody allows is forbidden.

pub mod abac;
pub mod config;
pub mod remote;

use std::sync::{Arc, OnceLock, Weak};

use futures::FutureExt as _;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::runtime::{Handle, RuntimeFlavor};

use self::abac::Policies;
use self::remote::Remote;
use super::file::Watched;
use super::graph::Graph;
use super::node::{self, Pods, node_name, node_role};
use super::rbac::{Grant, Index, Kind, RoleKey, Rule};
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
    /// Narrows a list, watch or collection deletion by fields, as the query has it; may be empty.
    pub field_selector: &'a str,
    /// The same by labels.
    pub label_selector: &'a str,
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
            label_selector: "",
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
            label_selector: "",
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
    /// Whether nobody else needs to be asked, for it is not.
    pub denied: bool,
    /// Why, for people; may be empty.
    pub reason: Reason,
}

/// Why a question was answered so. It is put into words only where somebody reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// Nothing is to say.
    #[default]
    None,
    /// A role binding grants it.
    Grant(Grant),
    /// These words.
    Text(String),
}

impl Reason {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::Grant(_) => false,
            Self::Text(text) => text.is_empty(),
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Grant(grant) => grant.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Decision {
    /// Yes, because.
    pub fn allow(reason: impl Into<String>) -> Self {
        Self { allowed: true, denied: false, reason: Reason::Text(reason.into()) }
    }

    /// Yes, by a role binding.
    pub fn grant(grant: Grant) -> Self {
        Self { allowed: true, denied: false, reason: Reason::Grant(grant) }
    }

    /// Nothing grants it here; others may.
    pub fn no_opinion(reason: impl Into<String>) -> Self {
        Self { allowed: false, denied: false, reason: Reason::Text(reason.into()) }
    }

    /// No, whatever others say.
    pub fn deny(reason: impl Into<String>) -> Self {
        Self { allowed: false, denied: true, reason: Reason::Text(reason.into()) }
    }
}

/// One authorizer of the chain.
#[derive(Debug)]
pub enum Member {
    /// Judges node agents by what runs on their node.
    Node,
    /// Judges by role bindings.
    Rbac,
    /// Judges by the policies of a file.
    Abac(Policies),
    /// Asks a server outside.
    Remote(Box<Remote>),
    /// Allows everything.
    AlwaysAllow,
    /// Allows nothing.
    AlwaysDeny,
}

/// What a user may in a namespace, as far as that can be listed.
#[derive(Debug, Default)]
pub struct RuleList {
    /// The rules.
    pub rules: Vec<Rule>,
    /// Why there may be more; empty if there is not.
    pub gaps: Vec<String>,
}

/// Answers questions from the index of roles and bindings, from what runs on a node, from a file, or
/// by asking somebody else.
#[derive(Default)]
pub struct Authorizer {
    index: RwLock<Index>,
    graph: RwLock<Graph>,
    pods: OnceLock<Weak<dyn Pods>>,
    chain: OnceLock<Arc<Watched<Vec<Member>>>>,
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorizer").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl Authorizer {
    /// Asks these, in their order, instead of `Node` and `RBAC`.
    pub fn with_chain(chain: Arc<Watched<Vec<Member>>>) -> Self {
        Self { chain: OnceLock::from(chain), ..Self::default() }
    }

    /// Tells where to see what runs on a node. Until then nothing does.
    pub fn look_at_pods(&self, pods: Weak<dyn Pods>) {
        // Whoever is first is the server itself; there is no second.
        let _ = self.pods.set(pods);
    }

    /// Whether the user may do it, and why.
    pub async fn authorize(&self, asked: &Attributes<'_>) -> Decision {
        if asked.user.in_group(MASTERS) {
            return Decision { allowed: true, ..Decision::default() };
        }
        let chain = self.chain();
        let mut reasons = Reasons::default();
        for member in chain.iter() {
            let decision = match member {
                Member::Remote(remote) => remote.authorize(asked).await,
                local => self.ask(local, asked),
            };
            if decision.allowed || decision.denied {
                return decision;
            }
            reasons.add(decision.reason);
        }
        Decision { reason: reasons.0, ..Decision::default() }
    }

    /// The same for those who cannot wait, such as expressions. A server outside is waited for by the
    /// thread, which only a runtime with several of them can spare; on others it counts as a no.
    pub fn authorize_now(&self, asked: &Attributes<'_>) -> Decision {
        if let Some(decision) = self.authorize(asked).now_or_never() {
            return decision;
        }
        match Handle::try_current() {
            Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
                tokio::task::block_in_place(|| runtime.block_on(self.authorize(asked)))
            }
            _ => Decision::deny("no thread could wait for the authorization webhook"),
        }
    }

    fn chain(&self) -> Arc<Vec<Member>> {
        let usual = || Arc::new(Watched::fixed(vec![Member::Node, Member::Rbac]));
        self.chain.get_or_init(usual).get()
    }

    /// What one of those who need no network say.
    fn ask(&self, member: &Member, asked: &Attributes<'_>) -> Decision {
        match member {
            Member::Node => self.ask_node(asked),
            Member::Rbac => self.index.read().authorize(asked),
            Member::Abac(policies) => policies.authorize(asked),
            Member::AlwaysAllow => Decision { allowed: true, ..Decision::default() },
            Member::AlwaysDeny => Decision::no_opinion("Everything is forbidden."),
            Member::Remote(_) => Decision::default(),
        }
    }

    fn ask_node(&self, asked: &Attributes<'_>) -> Decision {
        let Some(node) = node_name(asked.user) else { return Decision::default() };
        let role = node_role(&self.index.read());
        let pods = self.pods.get().and_then(Weak::upgrade);
        let world = node::World { graph: &self.graph.read(), pods: pods.as_deref() };
        node::authorize(role.as_deref(), &world, node, asked)
    }

    /// As [`Authorizer::authorize`], as an error to send.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`] if it is not allowed.
    pub async fn require(&self, asked: &Attributes<'_>) -> Result<(), ApiError> {
        let decision = self.authorize(asked).await;
        if decision.allowed { Ok(()) } else { Err(asked.forbidden(&decision)) }
    }

    /// Takes over the state of a role or binding; `None` if it is gone.
    pub fn set(&self, kind: Kind, namespace: &str, name: &str, object: Option<&Value>) {
        self.index.write().set(kind, namespace, name, object);
    }

    /// Takes over the state of an object that ties others to a node; `None` if it is gone.
    pub fn set_tie(&self, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        self.graph.write().set(resource, namespace, name, object);
    }

    /// Every rule that role bindings give the user in `namespace`.
    pub fn granted(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self.index.read().rules_for(user, namespace).cloned().collect();
        if user.in_group(MASTERS) {
            rules.extend(everything());
        }
        rules
    }

    /// Every rule that the user holds in `namespace`, by those authorizers that tell; that masters may do everything
    /// is told by the binding that they have.
    pub fn rules_for(&self, user: &User, namespace: &str) -> RuleList {
        let mut list = RuleList::default();
        let index = self.index.read();
        for member in self.chain().iter() {
            match member {
                Member::Rbac => list.rules.extend(index.rules_for(user, namespace).cloned()),
                Member::Node if node_name(user).is_some() => {
                    list.gaps.push("node authorizer does not support user rule resolution".into());
                }
                Member::Abac(policies) => list.rules.extend(policies.rules_for(user, namespace)),
                Member::Remote(_) => {
                    list.gaps
                        .push("webhook authorizer does not support user rule resolution".into());
                }
                Member::AlwaysAllow => list.rules.extend(everything()),
                Member::Node | Member::AlwaysDeny => (),
            }
        }
        list
    }

    /// The rules of a role, if it exists.
    pub fn role(&self, key: &RoleKey) -> Option<Arc<[Rule]>> {
        self.index.read().role(key)
    }
}

/// The reasons of all who had no opinion, one a line.
#[derive(Default)]
struct Reasons(Reason);

impl Reasons {
    fn add(&mut self, reason: Reason) {
        if reason.is_empty() {
            return;
        }
        self.0 = match std::mem::take(&mut self.0) {
            empty if empty.is_empty() => reason,
            before => Reason::Text(format!("{before}\n{reason}")),
        };
    }
}

fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(user: &User, fill: impl Fn(&mut Attributes<'_>), expected: Result<(), &str>) {
        let mut asked = Attributes::of_nothing(user);
        fill(&mut asked);
        let authorizer = Authorizer::default();
        let answer = authorizer.require(&asked).now_or_never();
        let got = answer.expect("nobody else is asked").map_err(|error| error.to_string());
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

    #[test]
    fn the_first_who_decides_counts() {
        let jane = User::new("jane", &[]);
        let asked = Attributes { verb: "get", resource: "pods", ..Attributes::of_nothing(&jane) };
        let policies = |text: &str| {
            Member::Abac(Policies::parse(std::path::Path::new("policies"), text).unwrap())
        };
        let policy = r#"{"kind":"Policy","apiVersion":"abac.authorization.kubernetes.io/v1beta1","spec":{"user":"jane","resource":"*","namespace":"*","apiGroup":"*"}}"#;
        let ask = |chain: Vec<Member>| {
            let authorizer = Authorizer::with_chain(Arc::new(Watched::fixed(chain)));
            let answer = authorizer.authorize(&asked).now_or_never();
            answer.expect("nobody else is asked")
        };
        assert!(ask(vec![Member::Rbac, Member::AlwaysAllow]).allowed);
        assert!(ask(vec![Member::AlwaysDeny, policies(policy)]).allowed);
        let refused = ask(vec![Member::AlwaysDeny, policies(""), Member::Rbac]);
        assert!(!refused.allowed && !refused.denied);
        assert_eq!(refused.reason.to_string(), "Everything is forbidden.\nNo policy matched.");
    }
}
