//! The namespace that a benchmark works in, and that it takes with it.

use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::arguments::Encoding;
use super::connection::{Call, Connection, Media};
use super::target::Target;

/// How long whoever empties namespaces on this cluster may take; where nobody does, the benchmark lets go itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// A namespace of the benchmark's own.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// Its name.
    pub name: String,
}

impl Namespace {
    /// Makes it, with the service account that pods are given.
    ///
    /// # Errors
    /// If the server refuses.
    pub(crate) async fn make(target: &Target) -> anyhow::Result<Self> {
        let mut connection = Connection::open(target, Encoding::Json).await?;
        let namespace = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"generateName": "bench-"}});
        let call = create("/api/v1/namespaces", &namespace);
        let made = connection.json(&call).await?;
        let name = made["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let account = json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default"},
            "automountServiceAccountToken": false});
        let path = format!("/api/v1/namespaces/{name}/serviceaccounts");
        let (status, body) = connection.read(&create(&path, &account)).await?;
        let made = Self { name };
        // A controller may have been faster.
        if !status.is_success() && status != StatusCode::CONFLICT {
            made.remove(target).await?;
            bail!("no service account: {}", String::from_utf8_lossy(&body));
        }
        Ok(made)
    }

    /// Removes it and everything in it.
    ///
    /// # Errors
    /// If the server refuses.
    pub(crate) async fn remove(&self, target: &Target) -> anyhow::Result<()> {
        let mut connection = Connection::open(target, Encoding::Json).await?;
        let path = format!("/api/v1/namespaces/{}", self.name);
        for resource in ["pods", "serviceaccounts"] {
            let query = "gracePeriodSeconds=0";
            let call = Call::new(Method::DELETE, format!("{path}/{resource}?{query}"));
            connection.succeed(&call).await?;
        }
        connection.succeed(&Call::new(Method::DELETE, path.clone())).await?;
        let began = Instant::now();
        while let (StatusCode::OK, namespace) =
            connection.read(&Call::new(Method::GET, path.clone())).await?
        {
            if began.elapsed() > PATIENCE {
                return self.let_go(&mut connection, &namespace).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// Takes the last finalizer away: without a namespace controller nobody else does.
    async fn let_go(&self, connection: &mut Connection, namespace: &Bytes) -> anyhow::Result<()> {
        let mut namespace: Value = serde_json::from_slice(namespace)?;
        namespace["spec"]["finalizers"] = json!([]);
        let path = format!("/api/v1/namespaces/{}/finalize", self.name);
        let call =
            Call::new(Method::PUT, path).with(Media::Object(Encoding::Json), namespace.to_string());
        connection.succeed(&call).await.map(|_| ())
    }
}

fn create(path: &str, object: &Value) -> Call {
    Call::new(Method::POST, path.to_owned()).with(Media::Object(Encoding::Json), object.to_string())
}
