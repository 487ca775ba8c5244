//! Sends events to a server that a kubeconfig names.
//!
//! Source: kubernetes.io, "Auditing", "Webhook backend".

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, header};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rand::Rng as _;
use serde_json::json;

use super::event::Event;

/// How often a batch is tried.
///
/// Source: `DefaultRetryBackoffWithInitialDelay` in upstream's `apiserver/pkg/util/webhook`.
const ATTEMPTS: u32 = 5;
/// By how much the pauses grow.
const GROWTH: f64 = 1.5;
/// Longest time that one attempt may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that takes events.
pub struct Webhook {
    client: kube::Client,
    path: String,
    first_pause: Duration,
}

/// A kubeconfig of the webhook that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be used as the kubeconfig of the audit webhook: {reason}", path.display())]
pub struct WebhookError {
    path: PathBuf,
    reason: String,
}

impl Webhook {
    /// Reads the kubeconfig. Nothing is sent yet.
    ///
    /// # Errors
    /// The file is no kubeconfig, or its certificates cannot be used.
    pub async fn open(path: &Path, first_pause: Duration) -> Result<Self, WebhookError> {
        let wrong = |reason: String| WebhookError { path: path.to_owned(), reason };
        let file = Kubeconfig::read_from(path).map_err(|error| wrong(chain(&error)))?;
        let options = KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(file, &options)
            .await
            .map_err(|error| wrong(chain(&error)))?;
        // The server's URL is the whole address, unlike that of a cluster.
        let url = std::mem::take(&mut config.cluster_url).into_parts();
        let path = url.path_and_query.map_or("/".to_owned(), |path| path.to_string());
        let mut root = http::uri::Parts::default();
        (root.scheme, root.authority) = (url.scheme, url.authority);
        root.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        config.cluster_url =
            http::Uri::from_parts(root).map_err(|error| wrong(error.to_string()))?;
        (config.read_timeout, config.write_timeout) = (Some(PATIENCE), Some(PATIENCE));
        let client = kube::Client::try_from(config).map_err(|error| wrong(chain(&error)))?;
        Ok(Self { client, path, first_pause })
    }

    /// Sends events, several times if need be.
    ///
    /// # Errors
    /// Why the last attempt failed.
    pub async fn send(&self, events: &[Arc<Event>]) -> Result<(), String> {
        let body = json!({
            "kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": events,
        });
        let body = body.to_string().into_bytes();
        let mut pause = self.first_pause;
        for attempt in 1.. {
            match self.post(&body).await {
                Ok(()) => break,
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(error) => tracing::debug!(%error, attempt, "audit events not taken"),
            }
            let jitter = 1.0 + 0.2 * rand::rng().random::<f64>();
            tokio::time::sleep(pause.mul_f64(jitter)).await;
            pause = pause.mul_f64(GROWTH);
        }
        Ok(())
    }

    async fn post(&self, body: &[u8]) -> Result<(), String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_vec()))
            .map_err(|error| error.to_string())?;
        let response = tokio::time::timeout(PATIENCE, self.client.send(request))
            .await
            .map_err(|_elapsed| format!("no answer within {} s", PATIENCE.as_secs()))?
            .map_err(|error| chain(&error))?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(format!("the server answered {status}")),
        }
    }
}

/// An error with all that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
