//! Who asks: certificate, front proxy or token to [`User`].
//!
//! Each way is asked in turn, the cheap ones first. A request without credentials is
//! `system:anonymous`; what that user may do is for authorization to say. Wrong credentials are
//! never taken for none.
//!
//! Source: kubernetes.io, "Authenticating".

pub mod accounts;
mod bootstrap;
pub mod config;
pub mod impersonate;
mod oidc;
mod peer;
mod request_header;
mod token_file;
mod webhook;

use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderName, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue};

use super::file::Watched;
use super::tls::ClientAuthority;
use super::tokens::TokenKeys;
use crate::request::User;
use crate::status::ApiError;

pub use accounts::Accounts;
pub use bootstrap::is_group as is_bootstrap_group;
pub use config::Structured;
pub use impersonate::{impersonate, wanted_user};
pub use peer::Peer;
pub use request_header::RequestHeader;
pub use token_file::TokenFile;
pub use webhook::TokenWebhook;

/// Every account's users belong to it.
const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// Prefix of an account's user name, followed by `namespace:name`.
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Websockets of browsers cannot send headers; they carry the token in a subprotocol's name.
///
/// Source: upstream `apiserver/pkg/authentication/request/websocket/protocol.go`.
const WEBSOCKET_BEARER: &str = "base64url.bearer.authorization.k8s.io.";

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

    /// Waits until these core resources show all that other servers on the same store have answered.
    fn catch_up<'a>(&'a self, _resources: &'a [&str]) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// What a verified token stands for.
#[derive(Clone, Debug)]
pub struct TokenUser {
    /// Its user.
    pub user: User,
    /// Whom the token was meant for; `None` if it does not say.
    pub audiences: Option<Vec<String>>,
}

impl TokenUser {
    /// A token that says nothing of audiences.
    fn anywhere(user: User) -> Self {
        Self { user, audiences: None }
    }
}

/// Recognises users by what their requests and connections show.
pub struct Authenticator {
    /// Who vouches for client certificates.
    pub client_ca: Arc<Watched<ClientAuthority>>,
    /// Proxies that tell for whom they ask.
    pub request_header: Option<RequestHeader>,
    /// Tokens of a file.
    pub token_file: Option<TokenFile>,
    /// Tokens of service accounts.
    pub accounts: Accounts,
    /// Whether tokens of Secrets let new nodes in.
    pub bootstrap_tokens: bool,
    /// Issuers of OpenID Connect, and who may be anonymous.
    pub structured: Arc<Watched<Structured>>,
    /// A server that judges all other tokens.
    pub webhook: Option<TokenWebhook>,
}

impl Authenticator {
    /// Recognises certificates of `client_ca` and accounts' tokens, and lets everyone be anonymous.
    pub fn new(keys: TokenKeys, client_ca: ClientAuthority) -> Self {
        Self {
            client_ca: Arc::new(Watched::fixed(client_ca)),
            request_header: None,
            token_file: None,
            accounts: Accounts::new(keys),
            bootstrap_tokens: false,
            structured: Arc::new(Watched::fixed(Structured::default())),
            webhook: None,
        }
    }

    /// The keys of accounts' tokens.
    pub fn keys(&self) -> &TokenKeys {
        self.accounts.keys()
    }

    /// Who sent a request with `headers` for `path` over a connection with `peer`.
    ///
    /// # Errors
    /// [`ApiError::Unauthorized`] if there are credentials and none of them is good, or if there are
    /// none and nobody may be anonymous there.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        path: &str,
        peer: Option<&Peer>,
        objects: &dyn Lookup,
        now: i64,
    ) -> Result<User, ApiError> {
        if let Some(peer) = peer {
            let verdict = peer.judge(self, now);
            let proxy = self.request_header.as_ref().filter(|_| verdict.is_proxy);
            let user = proxy.map(|proxy| proxy.user(headers)).transpose()?.flatten();
            if let Some(user) = user.or_else(|| verdict.user.clone()) {
                return Ok(with_everyone(user));
            }
        }
        if let Some(token) = bearer_token(headers) {
            let found = self.token(&token, &[], objects, now).await;
            let ours = |t: &TokenUser| {
                t.audiences.as_ref().is_none_or(|audiences| {
                    audiences.iter().any(|a| self.keys().audiences().contains(a))
                })
            };
            let user = found.filter(ours).map(|t| with_everyone(t.user));
            return user.ok_or(ApiError::Unauthorized);
        }
        let anonymous = peer.is_none() && self.structured.get().anonymous.allows(path);
        if anonymous { Ok(User::anonymous()) } else { Err(ApiError::Unauthorized) }
    }

    /// The user that `token` stands for, whatever its audiences, if the token holds and all that it
    /// is bound to still exists. `audiences` are those that the asker has in mind; none means ours.
    pub async fn token(
        &self,
        token: &str,
        audiences: &[String],
        objects: &dyn Lookup,
        now: i64,
    ) -> Option<TokenUser> {
        if let Some(user) = self.token_file.as_ref().and_then(|file| file.user(token)) {
            return Some(TokenUser::anywhere(user));
        }
        if let Some(found) = self.accounts.token(token, objects, now).await {
            return Some(found);
        }
        if self.bootstrap_tokens
            && let Some(user) = bootstrap::user(token, objects, now)
        {
            return Some(TokenUser::anywhere(user));
        }
        if let Some(user) = self.structured.get().user(token, now).await {
            return Some(TokenUser::anywhere(user));
        }
        let audiences = if audiences.is_empty() { self.keys().audiences() } else { audiences };
        self.webhook.as_ref()?.token(token, audiences, Instant::now()).await
    }

    /// Takes away what only authentication may see, so that no backend does.
    pub fn strip(&self, headers: &mut HeaderMap) {
        headers.remove(AUTHORIZATION);
        if let Some(proxy) = &self.request_header {
            proxy.strip(headers);
        }
        let has_token = |value: &str| value.contains(WEBSOCKET_BEARER);
        let protocols = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|v| v.to_str().ok());
        if let Some(protocols) = protocols.filter(|value| has_token(value)) {
            let rest: Vec<&str> =
                protocols.split(',').map(str::trim).filter(|p| !has_token(p)).collect();
            match rest.join(", ").parse() {
                Ok(rest) => headers.insert(SEC_WEBSOCKET_PROTOCOL, rest),
                Err(_) => headers.remove(SEC_WEBSOCKET_PROTOCOL),
            };
        }
    }
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

/// The value of a header, in which names may have any letters.
///
/// # Errors
/// [`ApiError::BadRequest`] if it is not UTF-8.
fn text(name: &HeaderName, value: &HeaderValue) -> Result<String, ApiError> {
    let text = String::from_utf8(value.as_bytes().to_vec());
    text.map_err(|_| ApiError::BadRequest(format!("the value of header {name} is not UTF-8")))
}

fn account_groups(namespace: &str) -> Vec<String> {
    vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")]
}

/// The token of an `Authorization: Bearer` header, or of a websocket's subprotocol. An empty one
/// counts as none, as upstream has it.
fn bearer_token(headers: &HeaderMap) -> Option<std::borrow::Cow<'_, str>> {
    use base64::Engine as _;
    if let Some(value) = headers.get(AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim_start();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.into());
    }
    let protocols = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?.split(',');
    let encoded = protocols.map(str::trim).find_map(|p| p.strip_prefix(WEBSOCKET_BEARER))?;
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    let token = String::from_utf8(token).ok()?;
    (!token.is_empty()).then(|| token.into())
}

#[cfg(test)]
mod tests;
