//! What a cluster holds for those who join it, as kubeadm makes it: where it is, what its networks are, and the
//! rights of whoever shows a bootstrap token.
//!
//! Source: upstream `cmd/kubeadm/app/phases/bootstraptoken` and `…/uploadconfig`.

use bootstrap_token_controller::plan::{CLUSTER_INFO, KUBECONFIG, PUBLIC};
use k8s_openapi::api::core::v1::ConfigMap;
use kit::chart::to_yaml;
use kit::rules;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::grants::{Grant, apply};

/// Group of those who show a token that was made without saying more.
pub(crate) const GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";
/// The ConfigMap with the cluster's networks.
pub(crate) const CONFIG: &str = "kubeadm-config";
/// Its only entry.
pub(crate) const CONFIG_KEY: &str = "ClusterConfiguration";
/// Where it is.
pub(crate) const SYSTEM: &str = "kube-system";

/// What a node must know of the cluster's networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Networking {
    /// As `cluster.local`.
    pub dns_domain: String,
    /// Addresses of all pods.
    pub pod_subnet: String,
    /// Addresses of the Services.
    pub service_subnet: String,
}

/// The part of kubeadm's configuration that is read here.
#[derive(Debug, Deserialize)]
pub(crate) struct ClusterConfiguration {
    /// The networks.
    pub networking: Networking,
}

/// Writes all of it; what is unchanged costs no write.
///
/// # Errors
/// If the server refuses.
pub(crate) async fn publish(
    admin: &Client,
    url: &str,
    ca: &str,
    networking: &Networking,
) -> anyhow::Result<()> {
    let public: Api<ConfigMap> = Api::namespaced(admin.clone(), PUBLIC);
    let data = json!({ "data": { KUBECONFIG: cluster_info(url, ca)? } });
    apply(&public, CLUSTER_INFO, data).await?;
    let config = to_yaml(&json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "networking": networking,
    }))?;
    let system: Api<ConfigMap> = Api::namespaced(admin.clone(), SYSTEM);
    apply(&system, CONFIG, json!({ "data": { CONFIG_KEY: config } })).await?;
    Ok(rights(admin).await?)
}

/// A kubeconfig that says where the cluster is, and for nobody in particular.
fn cluster_info(url: &str, ca: &str) -> anyhow::Result<String> {
    use base64::Engine as _;
    let ca = base64::engine::general_purpose::STANDARD.encode(ca);
    let cluster = json!({ "server": url, "certificate-authority-data": ca });
    Ok(to_yaml(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "", "cluster": cluster }],
    }))?)
}

async fn rights(admin: &Client) -> Result<(), kube::Error> {
    let group = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name});
    let (joining, nodes) = (json!([group(GROUP)]), json!([group("system:nodes")]));
    let csr = "system:certificates.k8s.io:certificatesigningrequests";
    let (first, renewal) = (format!("{csr}:nodeclient"), format!("{csr}:selfnodeclient"));
    for (name, role, subjects) in [
        ("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", &joining),
        ("kubeadm:node-autoapprove-bootstrap", &first, &joining),
        ("kubeadm:node-autoapprove-certificate-rotation", &renewal, &nodes),
    ] {
        let grant = Grant { name, namespace: None, subjects };
        grant.bind(admin, "ClusterRole", role).await?;
    }
    // A node directs its own traffic, with the rights that a proxy's pod on it would have.
    let proxier = Grant { name: "improv:node-proxier", namespace: None, subjects: &nodes };
    proxier.role(admin, &kube_proxy::PLAYER.all_rules()).await?;
    proxier.bind(admin, "ClusterRole", proxier.name).await?;
    // So that a name that is taken is told of before the node that has it is disturbed.
    let get_nodes = Grant { name: "kubeadm:get-nodes", namespace: None, subjects: &joining };
    get_nodes.role(admin, &[rules::rule("", &["nodes"], &["get"])]).await?;
    get_nodes.bind(admin, "ClusterRole", get_nodes.name).await?;
    let anyone = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"}]);
    let name = "kubeadm:bootstrap-signer-clusterinfo";
    readable(admin, Grant { name, namespace: Some(PUBLIC), subjects: &anyone }, CLUSTER_INFO)
        .await?;
    let both = json!([group(GROUP), group("system:nodes")]);
    let name = "kubeadm:nodes-kubeadm-config";
    readable(admin, Grant { name, namespace: Some(SYSTEM), subjects: &both }, CONFIG).await
}

/// Lets the subjects read one ConfigMap.
async fn readable(admin: &Client, grant: Grant<'_>, map: &str) -> Result<(), kube::Error> {
    let mut rule = rules::rule("", &["configmaps"], &["get"]);
    rule.resource_names = Some(vec![map.to_owned()]);
    grant.role(admin, &[rule]).await?;
    grant.bind(admin, "Role", grant.name).await
}

/// The networks in the ConfigMap's entry.
///
/// # Errors
/// It is no configuration of kubeadm's, or names no networks.
pub(crate) fn networking(config: &ConfigMap) -> anyhow::Result<Networking> {
    let text = config.data.as_ref().and_then(|data| data.get(CONFIG_KEY));
    let text = text.ok_or_else(|| anyhow::anyhow!("it has no entry {CONFIG_KEY}"))?;
    let read: Value = serde_saphyr::from_str(text)?;
    Ok(serde_json::from_value::<ClusterConfiguration>(read)?.networking)
}
