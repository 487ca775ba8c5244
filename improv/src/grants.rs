//! The rights of players that run in this process: each its own role, the same that its chart would give it.

use futures::future::try_join_all;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kit::chart::Chart;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// Where the service accounts of built-in players are.
pub(crate) const NAMESPACE: &str = "kube-system";

/// Writes role and binding of each player; unchanged ones cost no write.
///
/// The service accounts need no object: their names are enough in this process, and a chart brings its own.
///
/// # Errors
/// If the server refuses.
pub(crate) async fn grant(admin: &Client, players: &[&'static Chart]) -> Result<(), kube::Error> {
    try_join_all(players.iter().map(|chart| grant_one(admin, chart))).await.map(drop)
}

async fn grant_one(admin: &Client, chart: &Chart) -> Result<(), kube::Error> {
    let params = PatchParams::apply("improv").force();
    let name = chart.player.name;
    let role_name = format!("improv:{name}");
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": role_name},
        "rules": chart.player.all_rules(),
    });
    Api::<ClusterRole>::all(admin.clone()).patch(&role_name, &params, &Patch::Apply(role)).await?;
    let bindings: Api<ClusterRoleBinding> = Api::all(admin.clone());
    bindings.patch(&role_name, &params, &Patch::Apply(binding(name, &role_name))).await?;
    Ok(())
}

fn binding(name: &str, role: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
    })
}
