//! Role-based access control: an index of roles and bindings that answers without parsing.
//!
//! The index follows the watch caches; a question walks the bindings of the user's name and groups,
//! cluster-wide first, then in the namespace. Granting only, as RBAC has no way to deny.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::authz::{Attributes, Decision};
use crate::request::User;

/// API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// One rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// What may be done; `*` is everything.
    pub verbs: Vec<String>,
    /// In which API groups; `*` is all.
    pub api_groups: Vec<String>,
    /// To which resources (`pods`, `pods/log`, `*/scale`, `*`).
    pub resources: Vec<String>,
    /// To which objects; all if empty.
    pub resource_names: Vec<String>,
    /// Which paths may be asked for (`/metrics`, `/logs/*`, `*`).
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    /// Whether the rule grants what is asked for.
    pub fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !has(&self.verbs, asked.verb) {
            return false;
        }
        if !asked.is_resource {
            return self.non_resource_urls.iter().any(|url| url_matches(url, asked.path));
        }
        has(&self.api_groups, asked.group)
            && self.resources.iter().any(|r| resource_matches(r, asked.resource, asked.subresource))
            && (self.resource_names.is_empty()
                || self.resource_names.iter().any(|name| name == asked.name))
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((ruled, sub)) => {
            !subresource.is_empty() && sub == subresource && (ruled == "*" || ruled == resource)
        }
    }
}

fn url_matches(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => rule == path,
    }
}

/// Which of the four kinds an object is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `roles`
    Role,
    /// `clusterroles`
    ClusterRole,
    /// `rolebindings`
    RoleBinding,
    /// `clusterrolebindings`
    ClusterRoleBinding,
}

impl Kind {
    /// All of them, roles first: a binding without its role grants nothing.
    pub const ALL: [Self; 4] =
        [Self::ClusterRole, Self::Role, Self::ClusterRoleBinding, Self::RoleBinding];

    /// Plural name.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Role => "roles",
            Self::ClusterRole => "clusterroles",
            Self::RoleBinding => "rolebindings",
            Self::ClusterRoleBinding => "clusterrolebindings",
        }
    }

    /// The kind with this plural name.
    pub fn of_resource(resource: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.resource() == resource)
    }
}

/// Role or cluster role that a binding refers to; the namespace of a cluster role is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RoleKey {
    /// Empty for a cluster role.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl RoleKey {
    /// The kind as bindings spell it.
    pub fn kind(&self) -> &'static str {
        if self.namespace.is_empty() { "ClusterRole" } else { "Role" }
    }
}

/// A binding of a role to subjects.
#[derive(Debug, PartialEq, Eq)]
struct Binding {
    namespace: String,
    name: String,
    role: RoleKey,
    subjects: Vec<Subject>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    /// `user` is the name that its tokens stand for.
    ServiceAccount {
        namespace: String,
        name: String,
        user: String,
    },
}

impl Subject {
    /// Whether it is the user or group of that name.
    fn is(&self, who: Who<'_>) -> bool {
        match (self, who) {
            (Self::User(name) | Self::ServiceAccount { user: name, .. }, Who::User(wanted))
            | (Self::Group(name), Who::Group(wanted)) => name == wanted,
            _ => false,
        }
    }

    /// Accounts are users here.
    fn who(&self) -> Who<'_> {
        match self {
            Self::User(name) | Self::ServiceAccount { user: name, .. } => Who::User(name),
            Self::Group(name) => Who::Group(name),
        }
    }
}

/// Somebody to whom a role may be bound.
#[derive(Clone, Copy)]
enum Who<'a> {
    User(&'a str),
    Group(&'a str),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "User {name:?}"),
            Self::Group(name) => write!(f, "Group {name:?}"),
            Self::ServiceAccount { namespace, name, .. } => {
                write!(f, "ServiceAccount \"{name}/{namespace}\"")
            }
        }
    }
}

/// What grants a request: a binding, and the subject in it that the user is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    binding: Arc<Binding>,
    subject: usize,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Binding { namespace, name, role, subjects } = &*self.binding;
        f.write_str("RBAC: allowed by ")?;
        match namespace.as_str() {
            "" => write!(f, "ClusterRoleBinding {name:?}")?,
            namespace => write!(f, "RoleBinding \"{name}/{namespace}\"")?,
        }
        write!(f, " of {} {:?} to {}", role.kind(), role.name, subjects[self.subject])
    }
}

type Bindings = HashMap<String, Vec<Arc<Binding>>>;

/// The bindings of one namespace, by those to whom they give something.
#[derive(Debug, Default)]
struct Subjects {
    users: Bindings,
    groups: Bindings,
}

impl Subjects {
    fn of(&self, who: Who<'_>) -> &[Arc<Binding>] {
        let found = match who {
            Who::User(name) => self.users.get(name),
            Who::Group(name) => self.groups.get(name),
        };
        found.map(Vec::as_slice).unwrap_or_default()
    }

    /// The map that holds `who`, and the key there.
    fn place<'a>(&mut self, who: Who<'a>) -> (&mut Bindings, &'a str) {
        match who {
            Who::User(name) => (&mut self.users, name),
            Who::Group(name) => (&mut self.groups, name),
        }
    }

    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

/// Roles and bindings, ready to be asked.
#[derive(Debug, Default)]
pub struct Index {
    roles: HashMap<RoleKey, Arc<[Rule]>>,
    bindings: HashMap<RoleKey, Arc<Binding>>,
    /// Namespace (empty: cluster-wide) to subject to bindings.
    by_subject: HashMap<String, Subjects>,
}

impl Index {
    /// Takes over the state of one object; `None` if it is gone. What does not parse grants nothing.
    pub fn set(&mut self, kind: Kind, namespace: &str, name: &str, object: Option<&Value>) {
        let key = RoleKey { namespace: namespace.to_owned(), name: name.to_owned() };
        match kind {
            Kind::Role | Kind::ClusterRole => match object.map(rules_of) {
                Some(rules) => {
                    self.roles.insert(key, rules.into());
                }
                None => {
                    self.roles.remove(&key);
                }
            },
            Kind::RoleBinding | Kind::ClusterRoleBinding => {
                self.unbind(&key);
                if let Some(binding) = object.and_then(|o| binding_of(o, namespace, name)) {
                    self.bind(key, Arc::new(binding));
                }
            }
        }
    }

    fn bind(&mut self, key: RoleKey, binding: Arc<Binding>) {
        let subjects = self.by_subject.entry(binding.namespace.clone()).or_default();
        for subject in &binding.subjects {
            let (map, name) = subjects.place(subject.who());
            let bindings = map.entry(name.to_owned()).or_default();
            if !bindings.iter().any(|known| Arc::ptr_eq(known, &binding)) {
                bindings.push(binding.clone());
            }
        }
        self.bindings.insert(key, binding);
    }

    fn unbind(&mut self, key: &RoleKey) {
        let Some(old) = self.bindings.remove(key) else { return };
        let Some(subjects) = self.by_subject.get_mut(&old.namespace) else { return };
        for subject in &old.subjects {
            let (map, name) = subjects.place(subject.who());
            if let Some(bindings) = map.get_mut(name) {
                bindings.retain(|binding| !Arc::ptr_eq(binding, &old));
                if bindings.is_empty() {
                    map.remove(name);
                }
            }
        }
        if subjects.is_empty() {
            self.by_subject.remove(&old.namespace);
        }
    }

    /// Whether a binding grants what is asked for, and which; if none does, the roles that are missing.
    pub fn authorize(&self, asked: &Attributes<'_>) -> Decision {
        let mut missing = Vec::new();
        for (binding, who) in self.bindings_of(asked.user, asked.namespace) {
            match self.roles.get(&binding.role) {
                Some(rules) if rules.iter().any(|rule| rule.allows(asked)) => {
                    let subject = binding.subjects.iter().position(|subject| subject.is(who));
                    let subject = subject.unwrap_or_default();
                    return Decision::grant(Grant { binding: binding.clone(), subject });
                }
                Some(_) => {}
                None => missing.push(format!(
                    "{}.{GROUP} {:?} not found",
                    binding.role.kind().to_lowercase(),
                    binding.role.name
                )),
            }
        }
        match missing.as_slice() {
            [] => Decision::default(),
            [one] => Decision::no_opinion(format!("RBAC: {one}")),
            many => Decision::no_opinion(format!("RBAC: [{}]", many.join(", "))),
        }
    }

    /// Every rule that the user holds in `namespace` (empty: cluster-wide only).
    pub fn rules_for<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Rule> {
        self.bindings_of(user, namespace)
            .filter_map(|(binding, _)| self.roles.get(&binding.role))
            .flat_map(|rules| rules.iter())
    }

    /// The rules of one role.
    pub fn role(&self, key: &RoleKey) -> Option<Arc<[Rule]>> {
        self.roles.get(key).cloned()
    }

    /// The bindings of the user's name, then of each group; cluster-wide ones first.
    fn bindings_of<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<Binding>, Who<'a>)> {
        let scopes = std::iter::once("").chain((!namespace.is_empty()).then_some(namespace));
        scopes.filter_map(|scope| self.by_subject.get(scope)).flat_map(move |subjects| {
            let groups = user.groups.iter().map(|group| Who::Group(group));
            std::iter::once(Who::User(&user.name))
                .chain(groups)
                .flat_map(move |who| subjects.of(who).iter().map(move |binding| (binding, who)))
        })
    }
}

/// The rules of a role object; those that do not parse are left out.
pub fn rules_of(role: &Value) -> Vec<Rule> {
    let rules = role.get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    rules.iter().filter_map(|rule| Rule::deserialize(rule).ok()).collect()
}

/// The role that a binding object refers to.
pub fn role_of(binding: &Value, namespace: &str) -> Option<RoleKey> {
    let text = |pointer: &str| binding.pointer(pointer).and_then(Value::as_str);
    let namespace = match text("/roleRef/kind")? {
        "ClusterRole" => "",
        "Role" if !namespace.is_empty() => namespace,
        _ => return None,
    };
    Some(RoleKey { namespace: namespace.to_owned(), name: text("/roleRef/name")?.to_owned() })
}

fn binding_of(object: &Value, namespace: &str, name: &str) -> Option<Binding> {
    let subjects = object.get("subjects").and_then(Value::as_array);
    let subject = |subject: &Value| {
        let text = |field: &str| subject.get(field).and_then(Value::as_str);
        let name = text("name")?.to_owned();
        Some(match text("kind")? {
            "User" => Subject::User(name),
            "Group" => Subject::Group(name),
            "ServiceAccount" => {
                let namespace = text("namespace").filter(|ns| !ns.is_empty()).unwrap_or(namespace);
                let user = format!("system:serviceaccount:{namespace}:{name}");
                Subject::ServiceAccount { namespace: namespace.to_owned(), name, user }
            }
            _ => return None,
        })
    };
    Some(Binding {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        role: role_of(object, namespace)?,
        subjects: subjects.into_iter().flatten().filter_map(subject).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn index() -> Index {
        let mut index = Index::default();
        let role = |rules: Value| json!({ "rules": rules });
        let binding = |kind: &str, role: &str, subject: Value| json!({ "roleRef": { "kind": kind, "name": role }, "subjects": [subject] });
        let rules = json!([
            { "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"] },
            { "verbs": ["update"], "apiGroups": ["apps"], "resources": ["*/scale"] },
            { "verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"] },
        ]);
        index.set(Kind::Role, "shop", "reader", Some(&role(rules)));
        let urls = json!([{ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/logs/*"] }]);
        index.set(Kind::ClusterRole, "", "urls", Some(&role(urls)));
        let all = json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }]);
        index.set(Kind::ClusterRole, "", "all", Some(&role(all)));
        let jane = json!({ "kind": "User", "name": "jane" });
        index.set(Kind::RoleBinding, "shop", "b", Some(&binding("Role", "reader", jane)));
        let everyone = json!({ "kind": "Group", "name": "everyone" });
        index.set(
            Kind::ClusterRoleBinding,
            "",
            "c",
            Some(&binding("ClusterRole", "urls", everyone)),
        );
        let account = json!({ "kind": "ServiceAccount", "name": "web" });
        index.set(Kind::RoleBinding, "shop", "d", Some(&binding("ClusterRole", "all", account)));
        let eve = json!({ "kind": "User", "name": "eve" });
        index.set(Kind::ClusterRoleBinding, "", "e", Some(&binding("ClusterRole", "ghost", eve)));
        index
    }

    /// `verb group resource[/sub] namespace name`, with `-` for nothing; or `verb /path`.
    #[track_caller]
    fn check(user: &str, groups: &[&str], question: &str, expected: &str) {
        let user = User::new(user, groups);
        let words: Vec<&str> = question.split(' ').map(|w| if w == "-" { "" } else { w }).collect();
        let mut asked = Attributes { verb: words[0], ..Attributes::of_nothing(&user) };
        if words[1].starts_with('/') {
            (asked.is_resource, asked.path) = (false, words[1]);
        } else {
            let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
            (asked.group, asked.resource, asked.subresource) = (words[1], resource, subresource);
            (asked.namespace, asked.name) = (words[3], words[4]);
        }
        let decision = index().authorize(&asked);
        let got = format!("{} {}", if decision.allowed { "yes" } else { "no" }, decision.reason);
        assert_eq!(got.trim_end(), expected, "{question}");
    }

    #[test]
    fn a_role_grants_in_its_namespace() {
        let yes = "yes RBAC: allowed by RoleBinding \"b/shop\" of Role \"reader\" to User \"jane\"";
        check("jane", &[], "get - pods shop a", yes);
        check("jane", &[], "list - pods shop -", yes);
        check("jane", &[], "get - pods/log shop a", yes);
        check("jane", &[], "update apps deployments/scale shop a", yes);
        check("jane", &[], "get - pods other a", "no");
        check("jane", &[], "get - pods - a", "no");
        check("jane", &[], "get - pods/exec shop a", "no");
        check("jane", &[], "update apps deployments shop a", "no");
        check("jane", &[], "get apps pods shop a", "no");
        check("joe", &["jane"], "get - pods shop a", "no");
    }

    #[test]
    fn resource_names_limit_a_rule() {
        let yes = "yes RBAC: allowed by RoleBinding \"b/shop\" of Role \"reader\" to User \"jane\"";
        check("jane", &[], "get - secrets shop one", yes);
        check("jane", &[], "get - secrets shop two", "no");
        check("jane", &[], "get - secrets shop -", "no");
    }

    #[test]
    fn paths_match_whole_or_by_prefix() {
        let yes = "yes RBAC: allowed by ClusterRoleBinding \"c\" of ClusterRole \"urls\" to Group \"everyone\"";
        check("joe", &["everyone"], "get /healthz", yes);
        check("joe", &["everyone"], "get /logs/a", yes);
        check("joe", &["everyone"], "get /healthz/ping", "no");
        check("joe", &["everyone"], "post /healthz", "no");
    }

    #[test]
    fn an_account_is_bound_by_name_in_the_bindings_namespace() {
        let yes = "yes RBAC: allowed by RoleBinding \"d/shop\" of ClusterRole \"all\" to ServiceAccount \"web/shop\"";
        check("system:serviceaccount:shop:web", &[], "delete apps deployments shop a", yes);
        check("system:serviceaccount:other:web", &[], "delete apps deployments shop a", "no");
        check("system:serviceaccount:shop:web", &[], "get - nodes - a", "no");
    }

    #[test]
    fn a_missing_role_is_named() {
        let no = "no RBAC: clusterrole.rbac.authorization.k8s.io \"ghost\" not found";
        check("eve", &[], "get - pods shop a", no);
    }

    #[test]
    fn a_binding_that_goes_takes_its_grant_along() {
        let mut index = index();
        index.set(Kind::RoleBinding, "shop", "b", None);
        let jane = User::new("jane", &[]);
        let asked = Attributes {
            verb: "get",
            resource: "pods",
            namespace: "shop",
            ..Attributes::of_nothing(&jane)
        };
        assert!(!index.authorize(&asked).allowed);
        assert_eq!(index.bindings.len(), 3);
    }
}
