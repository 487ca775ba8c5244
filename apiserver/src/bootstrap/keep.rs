//! What says where the servers are, and which addresses services have, comes back when somebody deletes it.
//!
//! Source: upstream `pkg/controlplane/controller/{kubernetesservice,defaultservicecidr}`.

use std::time::Duration;

use http::Method;
use kube::Client;
use serde_json::{Value, json};

use super::plan::{own, unjudged};
use super::{LOOK_AGAIN, announce, ensure, path_of, present, refused, resource_of, send, settings};
use crate::server::{Server, StartError};
use crate::write::now;

/// How often the server looks.
const EVERY: Duration = Duration::from_secs(10);

/// Looks at the objects again and again, until the server stops.
pub async fn keep(server: Server) {
    let client = server.own_client();
    loop {
        let pause = match mend(&server, &client).await {
            Ok(true) => EVERY,
            Ok(false) => LOOK_AGAIN,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "what says where the server is could not be mended");
                EVERY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Answers whether the types of all objects are served.
async fn mend(server: &Server, client: &Client) -> Result<bool, StartError> {
    let objects = own(&settings(server, announce(server, client).await?));
    let missing = ensure(server, client, &objects.iter().collect::<Vec<_>>()).await?;
    if let Some(ranges) = objects.iter().find(|object| object["kind"] == "ServiceCIDR") {
        judge(server, client, ranges).await?;
    }
    Ok(missing.is_empty())
}

/// Says that the ranges which the server was started with are ready, unless somebody has said something already.
async fn judge(server: &Server, client: &Client, wanted: &Value) -> Result<(), StartError> {
    let wrong = |error| refused(wanted, error);
    let registry = server.core().registry();
    let Some(resource) = resource_of(&registry, wanted) else { return Ok(()) };
    let present = present(resource, wanted).await.map_err(wrong)?;
    if !present.is_some_and(|present| unjudged(wanted, &present)) {
        return Ok(());
    }
    let ready = json!({
        "apiVersion": wanted["apiVersion"], "kind": wanted["kind"],
        "metadata": { "name": wanted["metadata"]["name"] },
        "status": { "conditions": [{
            "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": now(),
            "message": "Kubernetes default Service CIDR is ready",
        }]},
    });
    let path = format!(
        "{}/kubernetes/status?fieldManager=kubernetes-service-cidr-controller&force=true",
        path_of(resource, wanted)
    );
    send(client, Method::PATCH, &path, Some(&ready)).await.map_err(wrong)
}
