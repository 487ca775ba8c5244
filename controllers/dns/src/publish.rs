//! Makes a server that runs outside a pod reachable as Service `kube-dns`: the Service has no selector, and its
//! one EndpointSlice names the node's address.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kit::services::SERVICE_NAME;
use kit::{Stage, chain};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const AGAIN: Duration = Duration::from_secs(1);

/// Where the server listens, and where clients look for it.
#[derive(Debug, Clone)]
pub struct At {
    /// An address of the node that pods reach.
    pub node: IpAddr,
    /// The port at which the server listens there.
    pub port: u16,
    /// The Service's address, which pods have in their resolv.conf.
    pub cluster_ip: String,
}

/// Writes both objects, tries again until they are there, and then rests.
///
/// # Errors
/// None: a refusal is logged and tried again.
pub async fn run(stage: Stage, at: At) -> Result<(), kit::Error> {
    while let Err(error) = write(&stage, &at).await {
        tracing::warn!(error = chain(&error), "cannot publish Service kube-dns, trying again");
        stage.clock.sleep(AGAIN).await;
    }
    std::future::pending().await
}

async fn write(stage: &Stage, at: &At) -> Result<(), kube::Error> {
    let services: Api<Service> = Api::namespaced(stage.client.clone(), NAMESPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(stage.client.clone(), NAMESPACE);
    let params = PatchParams::apply(stage.player.name).force();
    services.patch(NAME, &params, &Patch::Apply(service(at))).await?;
    slices.patch(NAME, &params, &Patch::Apply(slice(at))).await?;
    Ok(())
}

fn service(at: &At) -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "protocol": protocol});
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": NAME,
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"},
        },
        "spec": {"clusterIP": at.cluster_ip, "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")]},
    })
}

fn slice(at: &At) -> Value {
    let port =
        |name: &str, protocol: &str| json!({"name": name, "port": at.port, "protocol": protocol});
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": NAME,
            "labels": {
                SERVICE_NAME: NAME,
                "endpointslice.kubernetes.io/managed-by": NAME,
            },
        },
        "addressType": if at.node.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [at.node], "conditions": {"ready": true}}],
        "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
    })
}
