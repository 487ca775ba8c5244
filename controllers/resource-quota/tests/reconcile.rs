//! The player on a real server, with only its own rights.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::time::Duration;

use apiserver::testing::TestServer;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use kit::testing::{Playing, equip, eventually, grant};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use resource_quota_controller::PLAYER;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

struct World {
    server: TestServer,
    _playing: Playing,
}

impl World {
    async fn new() -> Self {
        let server = TestServer::start().await.expect("a server");
        equip(server.client(), "default").await.expect("a service account");
        let user = grant(server.client(), &PLAYER).await.expect("rights");
        let playing = Playing::start(&PLAYER, server.client_as(&user, &[]), "test");
        Self { server, _playing: playing }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.server.client(), "default")
    }

    async fn quota(&self, hard: Value, scopes: Value) {
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard, "scopes": scopes}});
        self.api().create(&PostParams::default(), &typed::<ResourceQuota>(quota)).await.unwrap();
    }

    /// Waits until the quota says what is used.
    async fn used(&self, expected: Value) {
        let quotas = self.api::<ResourceQuota>();
        eventually(SOON, async || {
            let quota = quotas.get("q").await.unwrap();
            let status = serde_json::to_value(quota.status).unwrap();
            if status["used"] == expected { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }
}

fn typed<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str) -> Pod {
    typed(json!({"metadata": {"name": name}, "spec": {"containers": [
        {"name": "a", "image": "x", "resources": {"requests": {"cpu": "500m"}}}]}}))
}

fn map(name: &str) -> ConfigMap {
    typed(json!({"metadata": {"name": name}}))
}

#[tokio::test]
async fn what_is_used_is_counted_and_given_back() {
    let world = World::new().await;
    let pods = world.api::<Pod>();
    pods.create(&PostParams::default(), &pod("before")).await.unwrap();
    world.quota(json!({"pods": "2", "requests.cpu": "1"}), json!([])).await;
    world.used(json!({"pods": "1", "requests.cpu": "500m"})).await;
    pods.create(&PostParams::default(), &pod("second")).await.unwrap();
    world.used(json!({"pods": "2", "requests.cpu": "1"})).await;
    let refused = pods.create(&PostParams::default(), &pod("third")).await.unwrap_err();
    assert!(refused.to_string().contains("exceeded quota: q"), "{refused}");
    pods.delete("before", &DeleteParams::default().grace_period(0)).await.unwrap();
    world.used(json!({"pods": "1", "requests.cpu": "500m"})).await;
    let over = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status("second", &PatchParams::default(), &Patch::Merge(over)).await.unwrap();
    world.used(json!({"pods": "0", "requests.cpu": "0"})).await;
}

#[tokio::test]
async fn any_type_can_be_counted() {
    let world = World::new().await;
    let maps = world.api::<ConfigMap>();
    maps.create(&PostParams::default(), &map("a")).await.unwrap();
    maps.create(&PostParams::default(), &map("b")).await.unwrap();
    world
        .quota(json!({"count/configmaps": "9", "count/widgets.example.com": "1"}), json!([]))
        .await;
    // One more is there from the start.
    let n_maps = maps.list(&Default::default()).await.unwrap().items.len();
    world.used(json!({"count/configmaps": n_maps.to_string()})).await;
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    world.used(json!({"count/configmaps": (n_maps - 1).to_string()})).await;
}

/// Many ask at once, the controller counts meanwhile, and nobody gets more than there is.
#[tokio::test]
async fn no_more_is_let_in_than_fits() {
    const HARD: usize = 10;
    let world = World::new().await;
    let pods = world.api::<Pod>();
    world.quota(json!({"pods": HARD.to_string()}), json!([])).await;
    world.used(json!({"pods": "0"})).await;
    for round in 0..3 {
        let names: Vec<String> = (0..40).map(|n| format!("p{round}-{n}")).collect();
        let created = join_all(names.iter().map(|name| {
            let pods = pods.clone();
            async move { pods.create(&PostParams::default(), &pod(name)).await }
        }));
        let created: Vec<_> = created.await.into_iter().filter_map(Result::ok).collect();
        let there = pods.list(&Default::default()).await.unwrap().items;
        assert!(there.len() <= HARD, "{} pods in round {round}", there.len());
        if round == 0 {
            assert_eq!(there.len(), HARD);
        }
        // Make room while the next round comes.
        for pod in created.iter().take(4) {
            let name = pod.metadata.name.as_deref().unwrap();
            pods.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_was_charged_in_vain_is_found() {
    let world = World::new().await;
    let pods = world.api::<Pod>();
    world.quota(json!({"pods": "3"}), json!([])).await;
    world.used(json!({"pods": "0"})).await;
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    // It is charged before the server finds that the name is taken.
    pods.create(&PostParams::default(), &pod("a")).await.unwrap_err();
    world.used(json!({"pods": "1"})).await;
}
