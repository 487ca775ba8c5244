//! Who asks: client certificate or token to [`User`], and users who act as somebody else.
//!
//! A request without credentials is `system:anonymous`; what that user may do is for
//! authorization to say. Wrong credentials are never taken for none.

use std::collections::HashMap;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::authz::{Attributes, Authorizer};
use super::tokens::{Claims, Reference, TokenKey};
use crate::request::{RequestInfo, User};
use crate::status::ApiError;

/// Most tokens whose signature is remembered as good; the rest are verified again.
const REMEMBERED_TOKENS: usize = 4096;

/// How long a token outlives the deletion of the object it is bound to, in seconds.
///
/// Source: upstream `pkg/serviceaccount/claims.go`, `defaultServiceAccountDeletionGracePeriod`
/// (an object marked as deleted still counts for a minute).
const DELETION_LEEWAY: i64 = 60;

/// Every account's users belong to it.
const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// Prefix of an account's user name, followed by `namespace:name`.
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// An object that a token refers to, as the cache has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its uid.
    pub uid: String,
    /// When it was marked as deleted, in seconds since 1970.
    pub deleted_at: Option<i64>,
}

/// Where tokens look up the objects that they name.
pub trait Lookup: Send + Sync {
    /// The core object `name` of `resource`; `namespace` is empty for nodes.
    fn find(&self, resource: &str, namespace: &str, name: &str) -> Option<Found>;

    /// The whole of such an object.
    fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<serde_json::Value>;
}

/// What the TLS connection says about a client that showed a certificate.
#[derive(Clone, Debug)]
pub enum Peer {
    /// The authority vouches for this user.
    Known(User),
    /// It does not.
    Stranger,
}

/// Recognises bearer tokens.
pub struct Authenticator {
    keys: TokenKey,
    remembered: Mutex<HashMap<[u8; 32], Claims>>,
}

/// What a verified token stands for.
#[derive(Clone, Debug)]
pub struct TokenUser {
    /// The account's user.
    pub user: User,
    /// Whom the token was meant for.
    pub audiences: Vec<String>,
}

impl Authenticator {
    /// Recognises the tokens that `keys` signed.
    pub fn new(keys: TokenKey) -> Self {
        Self { keys, remembered: Mutex::default() }
    }

    /// The key that signs and verifies.
    pub fn keys(&self) -> &TokenKey {
        &self.keys
    }

    /// Who sent a request with `headers` over a connection with `peer`.
    ///
    /// # Errors
    /// [`ApiError::Unauthorized`] if there are credentials and none of them is good.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: Option<&Peer>,
        objects: &dyn Lookup,
        now: i64,
    ) -> Result<User, ApiError> {
        if let Some(Peer::Known(user)) = peer {
            return Ok(with_everyone(user.clone()));
        }
        if let Some(token) = bearer_token(headers) {
            let ours = |t: &TokenUser| t.audiences.iter().any(|a| a == self.keys.issuer());
            let found = self.token(token, objects, now).filter(ours);
            return found.map(|t| with_everyone(t.user)).ok_or(ApiError::Unauthorized);
        }
        match peer {
            Some(_) => Err(ApiError::Unauthorized),
            None => Ok(User::anonymous()),
        }
    }

    /// The account that `token` stands for, whatever its audiences, if the token holds and all
    /// that it is bound to still exists.
    pub fn token(&self, token: &str, objects: &dyn Lookup, now: i64) -> Option<TokenUser> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = self.remembered.lock().get(&digest).filter(|c| now < c.exp).cloned();
        let claims = match known {
            Some(claims) => claims,
            None => {
                let claims = self.keys.verify(token, now)?;
                let mut remembered = self.remembered.lock();
                if remembered.len() >= REMEMBERED_TOKENS {
                    remembered.clear();
                }
                remembered.insert(digest, claims.clone());
                claims
            }
        };
        still_bound(&claims, objects, now).then(|| token_user(claims))
    }
}

/// Whether the account, and the pod, secret or node that the token is bound to, are still the same.
fn still_bound(claims: &Claims, objects: &dyn Lookup, now: i64) -> bool {
    let binding = &claims.binding;
    let Some(account) = &binding.serviceaccount else { return false };
    let expected = format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", binding.namespace, account.name);
    let same = |resource: &str, namespace: &str, reference: &Reference| {
        objects.find(resource, namespace, &reference.name).is_some_and(|found| {
            let alive = found.deleted_at.is_none_or(|at| now <= at + DELETION_LEEWAY);
            alive && found.uid == reference.uid
        })
    };
    let namespace = binding.namespace.as_str();
    let pod = binding.pod.as_ref().is_none_or(|pod| same("pods", namespace, pod));
    let secret = binding.secret.as_ref().is_none_or(|s| same("secrets", namespace, s));
    // Beside a pod, the node is only a fact about the pod.
    let node =
        binding.pod.is_some() || binding.node.as_ref().is_none_or(|node| same("nodes", "", node));
    claims.sub == expected && same("serviceaccounts", namespace, account) && pod && secret && node
}

fn token_user(claims: Claims) -> TokenUser {
    let uid = claims.binding.serviceaccount.as_ref().map(|a| a.uid.clone()).unwrap_or_default();
    let user = User {
        uid,
        groups: account_groups(&claims.binding.namespace),
        extra: claims.extra().into_iter().collect(),
        name: claims.sub,
    };
    TokenUser { user, audiences: claims.aud }
}

fn account_groups(namespace: &str) -> Vec<String> {
    vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")]
}

/// The user with the group that says whether they are known.
pub fn with_everyone(mut user: User) -> User {
    let everyone = if user.name == "system:anonymous" {
        "system:unauthenticated"
    } else {
        "system:authenticated"
    };
    if !user.in_group(everyone) {
        user.groups.push(everyone.to_owned());
    }
    user
}

/// The token of an `Authorization: Bearer` header. An empty one counts as none, as upstream has it.
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = text.split_once(' ')?;
    let token = token.trim_start();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

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
pub fn impersonate(
    authorizer: &Authorizer,
    real: &User,
    wanted: User,
    request: &RequestInfo,
) -> Result<User, ApiError> {
    let may = |parts: &[Part], verb: &str| {
        parts.iter().all(|part| authorizer.authorize(&part.ask(real, verb)).allowed)
    };
    if !may(&impersonated_parts(&wanted, ""), "impersonate") {
        let mode = constrained_mode(&wanted);
        let mut action = Attributes::of(real, request);
        let verb = format!("impersonate-on:{mode}:{}", request.verb);
        action.verb = &verb;
        let decision = authorizer.authorize(&action);
        if !decision.allowed {
            return Err(action.forbidden(&decision));
        }
        let verb = format!("impersonate:{mode}");
        let parts = impersonated_parts(&wanted, AUTHENTICATION);
        if !may(&parts, &verb) {
            let refused = parts[0].ask(real, &verb);
            return Err(refused.forbidden(&authorizer.authorize(&refused)));
        }
    }
    Ok(completed(wanted))
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

fn percent_decode(text: &str) -> String {
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
    use crate::identity::pki::{Pki, ServerNames};
    use crate::identity::tokens::Binding;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    /// Every object is there with the uid `1`, except for the pod `gone`, and `dying`, deleted at 1000.
    struct World;

    impl Lookup for World {
        fn find(&self, _resource: &str, _namespace: &str, name: &str) -> Option<Found> {
            let deleted_at = (name == "dying").then_some(1_000);
            (name != "gone").then(|| Found { uid: "1".to_owned(), deleted_at })
        }

        fn object(&self, _: &str, _: &str, _: &str) -> Option<serde_json::Value> {
            None
        }
    }

    fn reference(name: &str) -> Option<Reference> {
        Some(Reference { name: name.to_owned(), uid: "1".to_owned() })
    }

    fn claims() -> Claims {
        Claims {
            aud: vec![ISSUER.to_owned()],
            exp: 5_000,
            iat: 0,
            iss: ISSUER.to_owned(),
            jti: "t".to_owned(),
            binding: Binding {
                namespace: "shop".to_owned(),
                serviceaccount: reference("web"),
                ..Binding::default()
            },
            nbf: 0,
            sub: "system:serviceaccount:shop:web".to_owned(),
        }
    }

    fn authenticator() -> Authenticator {
        let pki = Pki::open(None, &ServerNames::default()).unwrap();
        Authenticator::new(TokenKey::new(&pki, ISSUER).unwrap())
    }

    fn ask(authenticator: &Authenticator, claims: &Claims, now: i64) -> Result<User, ApiError> {
        let token = authenticator.keys.sign(claims).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        authenticator.authenticate(&headers, None, &World, now)
    }

    #[test]
    fn a_token_stands_for_its_account() {
        let user = ask(&authenticator(), &claims(), 10).unwrap();
        assert_eq!(user.name, "system:serviceaccount:shop:web");
        assert_eq!(user.uid, "1");
        let groups =
            ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"];
        assert_eq!(user.groups, groups);
    }

    #[test]
    fn a_bound_token_ends_with_its_object() {
        let authenticator = authenticator();
        let bound = |name: &str| {
            let mut claims = claims();
            claims.binding.pod = reference(name);
            claims
        };
        assert!(ask(&authenticator, &bound("web-1"), 10).is_ok());
        assert!(ask(&authenticator, &bound("gone"), 10).is_err());
        assert!(ask(&authenticator, &bound("dying"), 1_060).is_ok());
        assert!(ask(&authenticator, &bound("dying"), 1_061).is_err());
        let mut other = bound("web-1");
        other.binding.pod.as_mut().unwrap().uid = "2".to_owned();
        assert!(ask(&authenticator, &other, 10).is_err());
    }

    #[test]
    fn tokens_for_others_expired_or_without_account_are_refused() {
        let authenticator = authenticator();
        assert!(
            ask(&authenticator, &Claims { aud: vec!["vault".into()], ..claims() }, 10).is_err()
        );
        assert!(ask(&authenticator, &claims(), 10).is_ok());
        assert!(ask(&authenticator, &claims(), 5_000).is_err(), "remembered, but over");
        let liar = Claims { sub: "system:serviceaccount:kube-system:admin".into(), ..claims() };
        assert!(ask(&authenticator, &liar, 10).is_err());
        let mut nobody = claims();
        nobody.binding.serviceaccount = None;
        assert!(ask(&authenticator, &nobody, 10).is_err());
    }

    #[test]
    fn without_credentials_it_is_anonymous_and_with_bad_ones_nobody() {
        let authenticator = authenticator();
        let none = HeaderMap::new();
        let user = authenticator.authenticate(&none, None, &World, 0).unwrap();
        assert_eq!(user, User::anonymous());
        let stranger = authenticator.authenticate(&none, Some(&Peer::Stranger), &World, 0);
        assert!(matches!(stranger, Err(ApiError::Unauthorized)));
        let known = Peer::Known(User { name: "jane".into(), ..User::default() });
        let user = authenticator.authenticate(&none, Some(&known), &World, 0).unwrap();
        assert_eq!(user.groups, ["system:authenticated"]);
    }

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
