//! Configuration files that change while the server runs: what others must know of it is told them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tracing::warn;

use super::Server;
use crate::bootstrap;
use crate::identity::file::{Change, Problem};

/// Looks at the files again and again, until the server stops.
pub(super) async fn follow(server: Server) {
    let every = server.core.config.identity.reload_every;
    loop {
        tokio::time::sleep(every).await;
        for Change { config, outcome } in server.core.reloads.reload() {
            match outcome {
                Ok(()) => publish(&server).await,
                Err(problem) => report(&server, config, &problem).await,
            }
        }
    }
}

async fn publish(server: &Server) {
    if let Err(error) = bootstrap::publish(server).await {
        let error: &dyn std::error::Error = &error;
        warn!(error, "what extension servers trust was not written down");
    }
}

/// Tells with an Event of the server's own Service that a file was not taken.
async fn report(server: &Server, config: &str, problem: &Problem) {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let message = format!("{config} configuration was not reloaded, the old one stays: {problem}");
    let event = json!({
        "metadata": { "generateName": "kubernetes-", "namespace": "default" },
        "involvedObject": {
            "apiVersion": "v1", "kind": "Service", "namespace": "default", "name": "kubernetes",
        },
        "type": "Warning",
        "reason": "FailedConfigReload",
        "message": message.chars().take(1024).collect::<String>(),
        "source": { "component": "kube-apiserver" },
        "reportingComponent": "kube-apiserver",
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    });
    let events: Api<Event> = Api::namespaced(server.own_client(), "default");
    let made = match serde_json::from_value(event) {
        Ok(event) => events.create(&PostParams::default(), &event).await.map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = made {
        warn!(error, "no event told of a configuration that was not reloaded");
    }
}
