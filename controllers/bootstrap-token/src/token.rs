//! Bootstrap tokens as their Secrets hold them.
//!
//! Source: kubernetes.io, "Authenticating with Bootstrap Tokens", "Bootstrap Token Secret Format".

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

/// Type of their Secrets.
pub const TYPE: &str = "bootstrap.kubernetes.io/token";
/// What the Secrets' names begin with; the token's id follows.
pub const PREFIX: &str = "bootstrap-token-";
/// Where the Secrets are.
pub const NAMESPACE: &str = "kube-system";

/// A bootstrap token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The part that everybody may know.
    pub id: String,
    /// The other part.
    pub secret: String,
    /// When it ends.
    pub end: End,
    /// Whether it may sign `cluster-info`.
    pub signs: bool,
}

/// When a token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It does not.
    Never,
    /// Then.
    At(Timestamp),
    /// The Secret says something that is no time: nobody may rely on the token any more.
    Unreadable,
}

impl End {
    /// Whether it is over.
    pub fn is_past(self, now: Timestamp) -> bool {
        match self {
            Self::Never => false,
            Self::At(end) => end <= now,
            Self::Unreadable => true,
        }
    }
}

impl Token {
    /// The token in a Secret; `None` if the Secret holds none, or one whose id is not in the Secret's name.
    pub fn read(secret: &Secret) -> Option<Self> {
        if secret.type_.as_deref() != Some(TYPE) {
            return None;
        }
        let id = text(secret, "token-id")?;
        let named = secret.name_any().strip_prefix(PREFIX) == Some(id.as_str());
        Some(Self {
            secret: text(secret, "token-secret").filter(|secret| !secret.is_empty() && named)?,
            end: end(secret),
            signs: text(secret, "usage-bootstrap-signing").as_deref() == Some("true"),
            id,
        })
    }
}

/// When the token in a Secret ends, whatever else the Secret says.
pub fn end(secret: &Secret) -> End {
    match text(secret, "expiration").filter(|text| !text.is_empty()) {
        None => End::Never,
        Some(text) => text.parse().map_or(End::Unreadable, End::At),
    }
}

/// One entry of a Secret's data.
pub fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}
