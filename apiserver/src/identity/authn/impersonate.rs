//! Users who act as somebody else, if they may.
//!
//! Source: kubernetes.io, "Authenticating", "User impersonation"; KEP-5284 (constrained impersonation).

use http::HeaderMap;
use http::header::HeaderName;

use super::{SERVICE_ACCOUNT_PREFIX, account_groups, with_everyone};
use crate::identity::authz::{Attributes, Authorizer};
use crate::request::{RequestInfo, User};
use crate::status::ApiError;

static IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");
static IMPERSONATE_GROUP: HeaderName = HeaderName::from_static("impersonate-group");
static IMPERSONATE_UID: HeaderName = HeaderName::from_static("impersonate-uid");
const IMPERSONATE_EXTRA: &str = "impersonate-extra-";

/// The user whom the request wants to act as; `None` if it does not ask for that.
///
/// # Errors
/// [`ApiError::BadRequest`] if groups, uid or extras come without a user name.
pub fn wanted_user(headers: &HeaderMap) -> Result<Option<User>, ApiError> {
    let text = |name: &HeaderName| {
        headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
    };
    let mut user = User {
        name: text(&IMPERSONATE_USER),
        uid: text(&IMPERSONATE_UID),
        groups: headers
            .get_all(&IMPERSONATE_GROUP)
            .iter()
            .filter_map(|v| v.to_str().ok().map(str::to_owned))
            .collect(),
        extra: Vec::new(),
    };
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(IMPERSONATE_EXTRA) else { continue };
        let value = value.to_str().unwrap_or_default().to_owned();
        let key = percent_decode(key);
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
/// Either the verb `impersonate` on each part of the wanted user is granted, as ever, or the
/// narrower pair of verbs that also names what is done (`impersonate-on:user-info:list`).
///
/// # Errors
/// [`ApiError::Forbidden`] if they may not.
pub async fn impersonate(
    authorizer: &Authorizer,
    real: &User,
    wanted: User,
    request: &RequestInfo,
) -> Result<User, ApiError> {
    if !may(authorizer, real, &impersonated_parts(&wanted, ""), "impersonate").await {
        let mode = constrained_mode(&wanted);
        let mut action = Attributes::of(real, request);
        let verb = format!("impersonate-on:{mode}:{}", request.verb);
        action.verb = &verb;
        let decision = authorizer.authorize(&action).await;
        if !decision.allowed {
            return Err(action.forbidden(&decision));
        }
        let verb = format!("impersonate:{mode}");
        let parts = impersonated_parts(&wanted, AUTHENTICATION);
        if !may(authorizer, real, &parts, &verb).await {
            let refused = parts[0].ask(real, &verb);
            return Err(refused.forbidden(&authorizer.authorize(&refused).await));
        }
    }
    Ok(completed(wanted))
}

/// Whether `real` has `verb` for every part.
async fn may(authorizer: &Authorizer, real: &User, parts: &[Part], verb: &str) -> bool {
    for part in parts {
        if !authorizer.authorize(&part.ask(real, verb)).await.allowed {
            return false;
        }
    }
    true
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

fn constrained_mode(wanted: &User) -> &'static str {
    if account(&wanted.name).is_some() {
        "serviceaccount"
    } else if wanted.name.starts_with("system:node:") {
        "arbitrary-node"
    } else {
        "user-info"
    }
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
}

const AUTHENTICATION: &str = "authentication.k8s.io";

/// `group` is the API group of users, groups and accounts: the two ways of asking differ in it.
fn impersonated_parts(wanted: &User, group: &'static str) -> Vec<Part> {
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
