//! The rights of players that run in this process: each its own role, the same that its chart would give it.

use futures::future::try_join_all;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use kit::chart::Chart;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

/// Where the service accounts of built-in players are.
pub(crate) const NAMESPACE: &str = "kube-system";

/// Writes roles and bindings of each player; unchanged ones cost no write.
///
/// The service accounts need no object: their names are enough in this process, and a chart brings its own.
///
/// # Errors
/// If the server refuses.
pub(crate) async fn grant(admin: &Client, players: &[&'static Chart]) -> Result<(), kube::Error> {
    try_join_all(players.iter().map(|chart| grant_one(admin, chart))).await.map(drop)
}

async fn grant_one(admin: &Client, chart: &Chart) -> Result<(), kube::Error> {
    let player = chart.player;
    let name = format!("improv:{}", player.name);
    let subjects = json!([{"kind": "ServiceAccount", "name": player.name, "namespace": NAMESPACE}]);
    let everywhere = Grant { name: &name, namespace: None, subjects: &subjects };
    everywhere.role(admin, &player.all_rules()).await?;
    everywhere.bind(admin, "ClusterRole", &name).await?;
    for (namespace, rules) in (player.namespaced_rules)() {
        let there = Grant { namespace: Some(namespace), ..everywhere };
        there.role(admin, &rules).await?;
        there.bind(admin, "Role", &name).await?;
    }
    Ok(())
}

/// A role or its binding, in all namespaces or one.
#[derive(Clone, Copy)]
pub(crate) struct Grant<'a> {
    /// Of the role, or of the binding.
    pub name: &'a str,
    /// `None`: in all of them.
    pub namespace: Option<&'a str>,
    /// Who gets the rights.
    pub subjects: &'a Value,
}

impl Grant<'_> {
    /// Writes the role.
    ///
    /// # Errors
    /// If the server refuses.
    pub(crate) async fn role(
        self,
        admin: &Client,
        rules: &[PolicyRule],
    ) -> Result<(), kube::Error> {
        let rules = json!({ "rules": rules });
        match self.namespace {
            None => self.write(Api::<ClusterRole>::all(admin.clone()), rules).await,
            Some(namespace) => {
                self.write(Api::<Role>::namespaced(admin.clone(), namespace), rules).await
            }
        }
    }

    /// Binds the subjects to a role of this kind and name.
    ///
    /// # Errors
    /// If the server refuses.
    pub(crate) async fn bind(
        self,
        admin: &Client,
        kind: &str,
        role: &str,
    ) -> Result<(), kube::Error> {
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role});
        let binding = json!({ "roleRef": role, "subjects": self.subjects });
        match self.namespace {
            None => self.write(Api::<ClusterRoleBinding>::all(admin.clone()), binding).await,
            Some(namespace) => {
                self.write(Api::<RoleBinding>::namespaced(admin.clone(), namespace), binding).await
            }
        }
    }

    async fn write<K>(self, api: Api<K>, content: Value) -> Result<(), kube::Error>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        apply(&api, self.name, content).await
    }
}

/// Makes an object be as `content` says, apart from what others have said of it.
///
/// # Errors
/// If the server refuses.
pub(crate) async fn apply<K>(api: &Api<K>, name: &str, content: Value) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut object = content;
    object["apiVersion"] = K::api_version(&()).into();
    object["kind"] = K::kind(&()).into();
    object["metadata"]["name"] = name.into();
    let params = PatchParams::apply("improv").force();
    api.patch(name, &params, &Patch::Apply(object)).await.map(drop)
}
