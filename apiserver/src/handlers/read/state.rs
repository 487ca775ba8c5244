//! The state that a list shows.

use std::time::Duration;

use store::Revision;
use store::cache::{Cache, Snapshot};

use crate::handlers::Call;
use crate::handlers::options::{ListOptions, Match};
use crate::handlers::token::Token;
use crate::registry::Resource;
use crate::status::{ApiError, StatusCause};

/// Longest wait for a revision that the client has seen elsewhere.
///
/// Source: `blockTimeout` of upstream's watch cache.
const WAIT_FOR_VERSION: Duration = Duration::from_secs(3);

/// Reads a resourceVersion.
///
/// # Errors
/// In Go's words.
pub fn parse_revision(version: &str) -> Result<Revision, String> {
    version.parse().map_err(|_| {
        let digits = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit());
        let fault = if digits { "value out of range" } else { "invalid syntax" };
        format!(
            "resourceVersion: Invalid value: {version:?}: strconv.ParseUint: parsing {version:?}: {fault}"
        )
    })
}

/// Waits until the cache shows a revision.
///
/// # Errors
/// [`ApiError::Timeout`] if it does not come.
pub async fn wait_for(cache: &Cache, revision: Revision) -> Result<(), ApiError> {
    match tokio::time::timeout(WAIT_FOR_VERSION, cache.wait_for(revision)).await {
        Ok(result) => result.map_err(ApiError::from),
        Err(_elapsed) => Err(ApiError::Timeout {
            message: format!(
                "Timeout: Too large resource version: {revision}, current: {}",
                cache.revision()
            ),
            retry_after: 1,
            causes: vec![StatusCause::new(
                "ResourceVersionTooLarge",
                "",
                "Too large resource version".to_owned(),
            )],
        }),
    }
}

/// The state that a list shows.
pub struct State {
    /// Its objects.
    pub snapshot: Snapshot,
    /// The store key from which on it is listed.
    pub from: Option<String>,
    /// The cache keeps it since an earlier page.
    pub(super) is_kept: bool,
}

impl State {
    fn new(snapshot: Snapshot) -> Self {
        Self { snapshot, from: None, is_kept: false }
    }
}

/// The state that a list shows.
///
/// # Errors
/// A token or version that makes no sense, or a state that is gone or not reached.
pub async fn state(
    call: &Call<'_>,
    options: &ListOptions,
    cache: &Cache,
) -> Result<State, ApiError> {
    let namespace = call.namespace();
    let namespace = (!namespace.is_empty()).then_some(namespace);
    let version = options.resource_version.as_str();
    if let Some(token) = &options.continue_token {
        let token = Token::decode(token)?;
        if !matches!(version, "" | "0") {
            let text = "specifying resource version is not allowed when using continue";
            return Err(ApiError::BadRequest(text.to_owned()));
        }
        let Some(revision) = token.revision() else {
            // The list's revision must tell this state from that of the pages before.
            cache.caught_up().await?;
            let snapshot = cache.list(namespace);
            return Ok(State { from: Some(token.key(snapshot.scope())), ..State::new(snapshot) });
        };
        if revision > cache.revision() {
            wait_for(cache, revision).await?;
        }
        return match cache.snapshot_at(revision, namespace) {
            Ok(snapshot) => {
                let from = Some(token.key(snapshot.scope()));
                Ok(State { snapshot, from, is_kept: cache.keeps(revision) })
            }
            Err(store::Error::Compacted { .. }) => Err(expired_token(&token)),
            Err(other) => Err(other.into()),
        };
    }
    if version.is_empty() {
        cache.fresh().await?;
        return Ok(State::new(cache.list(namespace)));
    }
    let revision = parse_revision(version)
        .map_err(|text| ApiError::BadRequest(format!("invalid resource version: {text}")))?;
    match revision {
        0 => own_writes(call.resource).await,
        _ => wait_for(cache, revision).await?,
    }
    let exact = match options.version_match {
        Match::Exact => true,
        Match::NotOlderThan => false,
        Match::Unset => options.limit > 0 && revision > 0,
    };
    let now = cache.list(namespace);
    if !exact || revision == now.revision() {
        return Ok(State::new(now));
    }
    match cache.snapshot_at(revision, namespace) {
        Ok(snapshot) => Ok(State::new(snapshot)),
        Err(store::Error::Compacted { .. }) => Err(ApiError::Expired(
            "The resourceVersion for the provided list is too old.".to_owned(),
        )),
        Err(other) => Err(other.into()),
    }
}

/// How long a list of any state waits for the writes that this server has answered.
const OWN_WRITES: Duration = Duration::from_secs(1);

/// Waits for what this server has just answered, if its watch of etcd is a moment behind: any state will do for
/// version 0, but a client expects to see what it wrote.
pub(crate) async fn own_writes(resource: &Resource) {
    if let Ok(storage) = resource.storage()
        && tokio::time::timeout(OWN_WRITES, storage.recent()).await.is_err()
    {
        tracing::debug!(resource = resource.name, "the cache is behind");
    }
}

/// 410 with a token that goes on in the current state.
fn expired_token(token: &Token) -> ApiError {
    let fresh = token.renewed().encode();
    ApiError::ExpiredToken {
        message: "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.".to_owned(),
        token: fresh,
    }
}
