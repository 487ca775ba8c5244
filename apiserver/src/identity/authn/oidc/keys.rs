//! The keys of an issuer: fetched when they are needed, kept for a while, fetched anew when a token
//! names one that is not among them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use jsonwebtoken::jwk::JwkSet;
use kube::client::Body;
use kube::{Client, Config};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

/// Largest discovery document or key set, in bytes.
const DOCUMENT: usize = 1024 * 1024;
/// Longest wait for one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Keys are fetched anew after this, so that one that an issuer took back does not count for ever.
const KEPT: Duration = Duration::from_secs(300);
/// Tokens with unknown keys make an issuer be asked at most this often.
const PAUSE: Duration = Duration::from_secs(2);

/// Where the keys are, and what they were of late.
#[derive(Debug)]
pub(super) struct Keys {
    issuer: String,
    discovery: String,
    authorities: Option<Vec<CertificateDer<'static>>>,
    state: Mutex<State>,
    /// Those in `state`, for who cannot wait while they are fetched anew.
    known: ArcSwapOption<JwkSet>,
}

#[derive(Debug, Default)]
struct State {
    keys: Option<Arc<JwkSet>>,
    /// When keys were fetched, or the last try failed.
    tried: Option<Instant>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Keys {
    /// The keys of `issuer`, found through its discovery document. Nothing is fetched yet.
    pub(super) fn new(issuer: &str, discovery: Option<&str>, ca: &str) -> Result<Self, String> {
        let authorities = CertificateDer::pem_slice_iter(ca.as_bytes())
            .map(|certificate| certificate.map(CertificateDer::into_owned))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        if authorities.is_empty() && !ca.is_empty() {
            return Err("data does not contain any valid RSA or ECDSA certificates".to_owned());
        }
        let own = || format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        Ok(Self {
            issuer: issuer.to_owned(),
            discovery: discovery.map_or_else(own, str::to_owned),
            authorities: (!authorities.is_empty()).then_some(authorities),
            state: Mutex::default(),
            known: ArcSwapOption::empty(),
        })
    }

    /// The keys; `anew` if those that are known did not fit. One fetch at a time; others who need what it brings
    /// wait for it.
    pub(super) async fn get(&self, anew: bool) -> Result<Arc<JwkSet>, String> {
        let mut state = match (self.state.try_lock(), self.known.load_full()) {
            (Ok(state), _) => state,
            (Err(_), Some(known)) if !anew => return Ok(known),
            (Err(_), _) => self.state.lock().await,
        };
        let age = state.tried.map(|at| at.elapsed());
        let known = state.keys.clone();
        let is_due = |after: Duration| age.is_none_or(|age| age >= after);
        match known {
            Some(keys) if !is_due(if anew { PAUSE } else { KEPT }) => return Ok(keys),
            None if !is_due(PAUSE) => return Err("the issuer's keys are not known".to_owned()),
            _ => (),
        }
        let fetched = tokio::time::timeout(PATIENCE, self.fetch()).await;
        let fetched = fetched.unwrap_or_else(|_elapsed| Err("took too long".to_owned()));
        state.tried = Some(Instant::now());
        match (fetched, &state.keys) {
            (Ok(keys), _) => {
                let keys = Arc::new(keys);
                state.keys = Some(keys.clone());
                self.known.store(Some(keys.clone()));
                Ok(keys)
            }
            (Err(reason), known) => {
                tracing::warn!(issuer = self.issuer, reason, "issuer's keys were not fetched");
                // An issuer that is away for a moment does not lock its users out.
                known.clone().ok_or(reason)
            }
        }
    }

    async fn fetch(&self) -> Result<JwkSet, String> {
        let discovery: Discovery = self.document(&self.discovery).await?;
        if discovery.issuer != self.issuer {
            return Err(format!("the discovery document is of issuer {:?}", discovery.issuer));
        }
        self.document(&discovery.jwks_uri).await
    }

    /// A JSON document at an address. Redirects are not followed.
    async fn document<T: DeserializeOwned>(&self, url: &str) -> Result<T, String> {
        let failed = |e: &dyn std::fmt::Display| format!("failed to get {url}: {e}");
        let uri: Uri = url.parse().map_err(|e| failed(&e))?;
        if uri.scheme_str() != Some("https") {
            return Err(failed(&"the scheme must be https"));
        }
        let mut base = uri.clone().into_parts();
        let path = base.path_and_query.replace(http::uri::PathAndQuery::from_static("/"));
        let mut config = Config::new(Uri::from_parts(base).map_err(|e| failed(&e))?);
        config.root_cert =
            self.authorities.as_ref().map(|list| list.iter().map(|c| c.to_vec()).collect());
        let client = Client::try_from(config).map_err(|e| failed(&e))?;
        let request = Request::get(path.as_ref().map_or("/", |p| p.as_str()))
            .header(header::ACCEPT, "application/json")
            .body(Body::empty())
            .map_err(|e| failed(&e))?;
        let response = client.send(request).await.map_err(|e| failed(&e))?;
        if !response.status().is_success() {
            return Err(failed(&response.status()));
        }
        let body = Limited::new(response.into_body(), DOCUMENT).collect().await;
        serde_json::from_slice(&body.map_err(|e| failed(&e))?.to_bytes()).map_err(|e| failed(&e))
    }
}
