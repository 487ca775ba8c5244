//! The player on a real server, with only its own rights.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::time::Duration;

use apiserver::testing::TestServer;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kit::testing::{Playing, equip, eventually, grant};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use volume_protection_controller::PLAYER;

const SOON: Duration = Duration::from_secs(20);
const CLASSES: &str = include_str!("../../../crds/volumeattributesclasses.storage.k8s.io.yaml");

async fn world() -> (TestServer, Playing) {
    let server = TestServer::builder().install_crds(CLASSES).start().await.expect("a server");
    equip(server.client(), "default").await.expect("a service account");
    let user = grant(server.client(), &PLAYER).await.expect("rights");
    let playing = Playing::start(&PLAYER, server.client_as(&user, &[]), "test");
    (server, playing)
}

async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

async fn is_gone<K>(api: &Api<K>, name: &str)
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    eventually(SOON, async || match api.get_opt(name).await.unwrap() {
        None => Ok(()),
        Some(object) => Err(format!("{object:?}")),
    })
    .await;
}

fn claim(class: &str) -> Value {
    json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "volumeAttributesClassName": class,
        "storageClassName": "s", "resources": {"requests": {"storage": "1Gi"}}}})
}

#[tokio::test]
async fn a_claim_waits_for_its_pods_and_a_class_for_its_claims() {
    let (server, _playing) = world().await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(server.client(), "default");
    let pods: Api<Pod> = Api::namespaced(server.client(), "default");
    let classes: Api<VolumeAttributesClass> = Api::all(server.client());
    create(&classes, json!({"metadata": {"name": "gold"}, "driverName": "d.example.com", "parameters": {"a": "b"}})).await;
    create(&claims, claim("gold")).await;
    create(&pods, json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "a", "image": "x"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}})).await;
    classes.delete("gold", &DeleteParams::default()).await.unwrap();
    claims.delete("c", &DeleteParams::default()).await.unwrap();
    // A volume that nobody uses shows that the player has had its turn.
    let volumes: Api<PersistentVolume> = Api::all(server.client());
    let free = json!({"metadata": {"name": "free"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/tmp/x"}}});
    create(&volumes, free).await;
    volumes.delete("free", &DeleteParams::default()).await.unwrap();
    is_gone(&volumes, "free").await;
    assert!(claims.get("c").await.unwrap().metadata.deletion_timestamp.is_some());
    assert!(classes.get("gold").await.unwrap().metadata.deletion_timestamp.is_some());
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    is_gone(&claims, "c").await;
    is_gone(&classes, "gold").await;
}

#[tokio::test]
async fn a_bound_volume_waits_for_its_claim() {
    let (server, _playing) = world().await;
    let volumes: Api<PersistentVolume> = Api::all(server.client());
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/tmp/x"}}});
    create(&volumes, volume).await;
    let phase = |phase: &str| Patch::Merge(json!({"status": {"phase": phase}}));
    volumes.patch_status("v", &PatchParams::default(), &phase("Bound")).await.unwrap();
    volumes.delete("v", &DeleteParams::default()).await.unwrap();
    assert!(volumes.get("v").await.unwrap().metadata.deletion_timestamp.is_some());
    volumes.patch_status("v", &PatchParams::default(), &phase("Released")).await.unwrap();
    is_gone(&volumes, "v").await;
}
