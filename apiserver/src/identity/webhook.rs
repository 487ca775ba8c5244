//! Calls of servers outside that judge tokens or requests, as a kubeconfig file describes them.
//!
//! Source: kubernetes.io, "Webhook Mode" and "Webhook Token Authentication".

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Limited};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::file::{self, Problem};

/// Largest answer, in bytes: a review with its groups and reason.
const ANSWER: usize = 1024 * 1024;
/// Tries of one call, the first included, and the pauses between them.
///
/// Source: `DefaultRetryBackoff` in upstream `apiserver/pkg/util/webhook/webhook.go`.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client could not be made from the file.
    #[error("{0}")]
    Config(String),
    /// No connection, or it broke.
    #[error("failed calling webhook: {0}")]
    Unreachable(String),
    /// An answer that is none.
    #[error("webhook answered with {0}")]
    Answer(String),
    /// It took too long.
    #[error("webhook did not answer within {0:?}")]
    Timeout(Duration),
}

/// A server outside. The connection is made with the first call.
pub struct Webhook {
    kubeconfig: Kubeconfig,
    path: PathBuf,
    timeout: Duration,
    client: OnceCell<(Client, String)>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Webhook {
    /// The server that the current context of the kubeconfig at `path` names.
    ///
    /// # Errors
    /// The file cannot be read, does not parse, or names no server.
    pub fn new(path: &Path, timeout: Duration) -> Result<Self, Problem> {
        let text = file::read(path)?;
        let kubeconfig: Kubeconfig = file::parse(path, &text)?;
        let context = kubeconfig.current_context.clone().unwrap_or_default();
        let found = kubeconfig.contexts.iter().find(|c| c.name == context);
        let cluster = found.and_then(|c| Some(c.context.as_ref()?.cluster.clone()));
        let Some(cluster) = cluster else {
            let reason = format!("current-context {context:?} is not among the contexts");
            return Err(Problem::at(path, &text, "current-context", reason));
        };
        let server = kubeconfig.clusters.iter().find(|c| c.name == cluster);
        if server.and_then(|c| c.cluster.as_ref()?.server.as_ref()).is_none() {
            let reason = format!("cluster {cluster:?} has no server");
            return Err(Problem::at(path, &text, &cluster, reason));
        }
        // Once more, for paths inside that are relative to the file.
        let kubeconfig = Kubeconfig::read_from(path).map_err(|e| Problem::new(path, e))?;
        Ok(Self { kubeconfig, path: path.to_owned(), timeout, client: OnceCell::new() })
    }

    /// Posts `review` and gives the answer, a JSON object. Busy and broken servers are asked again.
    ///
    /// # Errors
    /// [`Error`] if there is no answer in time.
    pub async fn call(&self, review: &Value) -> Result<Value, Error> {
        let asked = tokio::time::timeout(self.timeout, self.ask_again(review));
        asked.await.map_err(|_elapsed| Error::Timeout(self.timeout))?
    }

    async fn ask_again(&self, review: &Value) -> Result<Value, Error> {
        let (client, path) = self.client.get_or_try_init(|| self.connect()).await?;
        let mut pause = PAUSE;
        let mut tried = 1;
        loop {
            match ask(client, path, review).await {
                Err((error, true)) if tried < TRIES => {
                    tracing::debug!(%error, "webhook is asked again");
                    tokio::time::sleep(pause).await;
                    pause = pause.mul_f32(1.5);
                    tried += 1;
                }
                answer => return answer.map_err(|(error, _)| error),
            }
        }
    }

    async fn connect(&self) -> Result<(Client, String), Error> {
        let broken = |e: &dyn std::fmt::Display| {
            Error::Config(Problem::new(self.path.clone(), e).to_string())
        };
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(self.kubeconfig.clone(), &options)
            .await
            .map_err(|e| broken(&e))?;
        // The environment's proxy is for the way out, a webhook is configured where it is.
        config.proxy_url = None;
        let path = config.cluster_url.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        let mut base = config.cluster_url.clone().into_parts();
        base.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        config.cluster_url = http::Uri::from_parts(base).map_err(|e| broken(&e))?;
        Ok((Client::try_from(config).map_err(|e| broken(&e))?, path))
    }
}

/// One call. An error comes with whether another try may help. Redirects are answers, not followed.
async fn ask(client: &Client, path: &str, review: &Value) -> Result<Value, (Error, bool)> {
    let unreachable = |e: &dyn std::fmt::Display| (Error::Unreachable(e.to_string()), true);
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Body::from(review.to_string().into_bytes()))
        .map_err(|e| unreachable(&e))?;
    let response = client.send(request).await.map_err(|e| unreachable(&e))?;
    let status = response.status();
    if !status.is_success() {
        let busy = status.is_server_error() || status.as_u16() == 429;
        return Err((Error::Answer(format!("status {status}")), busy));
    }
    let body = Limited::new(response.into_body(), ANSWER).collect().await;
    let body = body.map_err(|e| unreachable(&e))?.to_bytes();
    serde_json::from_slice(&body)
        .map_err(|e| (Error::Answer(format!("a body that is no review: {e}")), false))
}
