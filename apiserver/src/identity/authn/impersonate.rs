//! Users who act as somebody else, if they may.
//!
//! Source: kubernetes.io, "Authenticating", "User impersonation"; KEP-5284 (constrained impersonation).

use http::HeaderMap;
use http::header::HeaderName;

use super::{SERVICE_ACCOUNT_PREFIX, account_groups, text, with_everyone};
use crate::identity::authz::{Attributes, Authorizer, Decision, MASTERS};
use crate::request::{RequestInfo, User};
use crate::status::ApiError;
use crate::write::names::subdomain;

static IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");
static IMPERSONATE_GROUP: HeaderName = HeaderName::from_static("impersonate-group");
static IMPERSONATE_UID: HeaderName = HeaderName::from_static("impersonate-uid");
const IMPERSONATE_EXTRA: &str = "impersonate-extra-";

/// The user whom the request wants to act as; `None` if it does not ask for that.
///
/// # Errors
/// [`ApiError::BadRequest`] if groups, uid or extras come without a user name, or a header is not UTF-8.
pub fn wanted_user(headers: &HeaderMap) -> Result<Option<User>, ApiError> {
    let one = |name: &HeaderName| {
        headers.get(name).map_or_else(|| Ok(String::new()), |value| text(name, value))
    };
    let groups = headers.get_all(&IMPERSONATE_GROUP).iter();
    let mut user = User {
        name: one(&IMPERSONATE_USER)?,
        uid: one(&IMPERSONATE_UID)?,
        groups: groups.map(|group| text(&IMPERSONATE_GROUP, group)).collect::<Result<_, _>>()?,
        extra: Vec::new(),
    };
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(IMPERSONATE_EXTRA) else { continue };
        let (key, value) = (percent_decode(key), text(name, value)?);
        match user.extra.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value),
            None => user.extra.push((key, vec![value])),
        }
    }
    user.extra.sort();
    if user == User::default() {
        return Ok(None);
    }
    if user.name.is_empty() {
        let dump = go_dump(&user);
        let message = format!("requested {dump} without impersonating a user name");
        return Err(ApiError::BadRequest(message));
    }
    Ok(Some(user))
}

/// Lets `real` act as `wanted`, if they may; the result carries the groups that follow from the name.
///
/// Either a narrow pair of verbs is granted, one for the wanted user (`impersonate:user-info`) and one that also names
/// what is done (`impersonate-on:user-info:list`), or, as ever, the verb `impersonate` for each part of that user.
///
/// # Errors
/// [`ApiError::Forbidden`] if they may not.
pub async fn impersonate(
    authorizer: &Authorizer,
    real: &User,
    wanted: User,
    request: &RequestInfo,
) -> Result<User, ApiError> {
    let mut refusal = None;
    for mode in Mode::ALL.into_iter().filter(|mode| mode.fits(real, &wanted)) {
        match mode.permit(authorizer, real, &wanted, request).await {
            Ok(()) => return Ok(completed(mode.groups(wanted))),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    match permit_parts(authorizer, real, &parts(&wanted, ""), "impersonate").await {
        Ok(()) => Ok(completed(wanted)),
        Err(error) => Err(refusal.unwrap_or(error)),
    }
}

/// Whether `asked` is allowed.
async fn permit(authorizer: &Authorizer, asked: &Attributes<'_>) -> Result<(), ApiError> {
    let decision = authorizer.authorize(asked).await;
    if decision.allowed { Ok(()) } else { Err(asked.forbidden(&decision)) }
}

/// Whether `real` has `verb` for every part.
async fn permit_parts(
    authorizer: &Authorizer,
    real: &User,
    parts: &[Part],
    verb: &str,
) -> Result<(), ApiError> {
    for part in parts {
        permit(authorizer, &part.ask(real, verb)).await?;
    }
    Ok(())
}

/// A narrow way to act as somebody else, for one kind of users.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// An account acts as the node on which its pod runs.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// All users who are neither nodes nor accounts; the only ones whose groups and extras may be chosen.
    UserInfo,
}

impl Mode {
    /// In the order in which they are tried; the first refusal is told.
    const ALL: [Mode; 4] =
        [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo];

    fn name(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "associated-node",
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
        }
    }

    fn fits(self, real: &User, wanted: &User) -> bool {
        let is_bare = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account_of) = (node(&wanted.name), account(&wanted.name));
        match self {
            Mode::AssociatedNode => {
                is_bare
                    && account(&real.name).is_some()
                    && node.is_some_and(|node| runs_on(real, node))
            }
            Mode::ArbitraryNode => is_bare && node.is_some(),
            Mode::ServiceAccount => is_bare && account_of.is_some(),
            Mode::UserInfo => node.is_none() && account_of.is_none(),
        }
    }

    async fn permit(
        self,
        authorizer: &Authorizer,
        real: &User,
        wanted: &User,
        request: &RequestInfo,
    ) -> Result<(), ApiError> {
        // What is granted for the own node is granted for all nodes, so which one it is does not count.
        let keys = || real.extra.iter().map(|(key, _)| key.clone()).collect();
        let on_any_node = User { extra: vec![(NODE_KEYS.to_owned(), keys())], ..real.clone() };
        let real = if self == Mode::AssociatedNode { &on_any_node } else { real };
        let verb = format!("impersonate-on:{}:{}", self.name(), request.verb);
        permit(authorizer, &Attributes { verb: &verb, ..Attributes::of(real, request) }).await?;
        let verb = format!("impersonate:{}", self.name());
        let mut parts = parts(wanted, AUTHENTICATION);
        if let Some(node) = node(&wanted.name) {
            parts[0].resource = "nodes";
            parts[0].name = if self == Mode::AssociatedNode { "*" } else { node }.to_owned();
        }
        if let Some((part, fault)) = parts.iter().find_map(|part| Some((part, part.fault()?))) {
            return Err(part.ask(real, &verb).forbidden(&Decision::no_opinion(fault)));
        }
        permit_parts(authorizer, real, &parts, &verb).await
    }

    /// Nodes have fixed groups.
    fn groups(self, wanted: User) -> User {
        match self {
            Mode::AssociatedNode | Mode::ArbitraryNode => {
                User { groups: vec!["system:nodes".to_owned()], ..wanted }
            }
            Mode::ServiceAccount | Mode::UserInfo => wanted,
        }
    }
}

/// The node in a node's user name.
fn node(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|name| subdomain(name).is_empty())
}

/// Whether an account's token says that its pod runs on this node.
fn runs_on(account: &User, node: &str) -> bool {
    let mut names = account.extra.iter().filter(|(key, _)| key == NODE_NAME);
    names.next().is_some_and(|(_, names)| matches!(names.as_slice(), [name] if name == node))
}

/// Adds the groups that a name brings along, as the authenticators would have.
fn completed(mut user: User) -> User {
    if user.groups.is_empty()
        && let Some((namespace, _)) = account(&user.name)
    {
        user.groups = account_groups(namespace);
    }
    with_everyone(user)
}

/// Namespace and name in an account's user name.
pub fn account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// One thing that the real user must be allowed to take on.
struct Part {
    group: &'static str,
    resource: &'static str,
    subresource: String,
    namespace: String,
    name: String,
}

impl Part {
    fn ask<'a>(&'a self, user: &'a User, verb: &'a str) -> Attributes<'a> {
        Attributes {
            user,
            verb,
            group: self.group,
            version: "v1",
            resource: self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            ..Attributes::of_nothing(user)
        }
    }

    /// Why nobody may take it on by a narrow verb.
    fn fault(&self) -> Option<String> {
        let path = &self.subresource;
        match (self.resource, self.name.as_str()) {
            ("groups", "") => {
                Some("impersonating the empty string group is not allowed".to_owned())
            }
            ("groups", MASTERS) => {
                Some(format!("impersonating the {MASTERS} group is not allowed"))
            }
            ("userextras", _) if path.is_empty() => {
                Some("impersonating the empty string key in extra is not allowed".to_owned())
            }
            ("userextras", _) if !is_domain_prefixed(path) => Some(format!(
                "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {path:?}: must be a domain-prefixed path (such as \"acme.io/foo\")"
            )),
            ("userextras", _) if *path != path.to_lowercase() => {
                Some(format!("impersonating a non-lowercase key in extra is not allowed: {path:?}"))
            }
            ("userextras", "") => {
                Some("impersonating the empty string value in extra is not allowed".to_owned())
            }
            _ => None,
        }
    }
}

fn is_domain_prefixed(key: &str) -> bool {
    key.split_once('/')
        .is_some_and(|(domain, path)| !path.is_empty() && subdomain(domain).is_empty())
}

const AUTHENTICATION: &str = "authentication.k8s.io";
/// Where a token of an account says on which node its pod runs.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// What stands for the facts of a token of an account that acts as its own node.
const NODE_KEYS: &str = "authentication.kubernetes.io/associated-node-keys";

/// `group` is the API group of users, groups and accounts: the two ways of asking differ in it.
fn parts(wanted: &User, group: &'static str) -> Vec<Part> {
    let part = |group, resource, name: &str| Part {
        group,
        resource,
        subresource: String::new(),
        namespace: String::new(),
        name: name.to_owned(),
    };
    let mut parts = vec![match account(&wanted.name) {
        Some((namespace, name)) => {
            Part { namespace: namespace.to_owned(), ..part(group, "serviceaccounts", name) }
        }
        None => part(group, "users", &wanted.name),
    }];
    parts.extend(wanted.groups.iter().map(|name| part(group, "groups", name)));
    if !wanted.uid.is_empty() {
        parts.push(part(AUTHENTICATION, "uids", &wanted.uid));
    }
    for (key, values) in &wanted.extra {
        parts.extend(values.iter().map(|value| Part {
            subresource: key.clone(),
            ..part(AUTHENTICATION, "userextras", value)
        }));
    }
    parts
}

/// How upstream's message shows a user (Go's `%#v`); tools compare the whole sentence.
fn go_dump(user: &User) -> String {
    let list =
        |values: &[String]| values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(", ");
    let groups = if user.groups.is_empty() {
        "[]string(nil)".to_owned()
    } else {
        format!("[]string{{{}}}", list(&user.groups))
    };
    let extra = if user.extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let entries: Vec<String> =
            user.extra.iter().map(|(k, v)| format!("{k:?}:[]string{{{}}}", list(v))).collect();
        format!("map[string][]string{{{}}}", entries.join(", "))
    };
    format!(
        "&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{groups}, Extra:{extra}}}",
        user.name, user.uid
    )
}

pub(super) fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'%')
            .then(|| tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_the_wanted_user() {
        let mut headers = HeaderMap::new();
        assert_eq!(wanted_user(&headers).unwrap(), None);
        headers.append("Impersonate-Group", "dev".parse().unwrap());
        let message = wanted_user(&headers).unwrap_err().to_string();
        assert_eq!(
            message,
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"dev\"}, \
             Extra:map[string][]string(nil)} without impersonating a user name"
        );
        headers.append("Impersonate-User", "jane".parse().unwrap());
        headers.append("Impersonate-Extra-Scopes", "view".parse().unwrap());
        headers.append("Impersonate-Extra-acme.com%2Fteam", "blue".parse().unwrap());
        let user = wanted_user(&headers).unwrap().unwrap();
        assert_eq!(user.name, "jane");
        let extra =
            [("acme.com/team".into(), vec!["blue".into()]), ("scopes".into(), vec!["view".into()])];
        assert_eq!(user.extra, extra);
    }
}
