//! The player on a real server. There is no node agent here: the tests say what pods do.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::HashSet, sync::Arc, time::Duration};

use apiserver::testing::TestServer;
use futures::StreamExt;
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Pod, ServiceAccount},
    events::v1::Event,
};
use kit::{
    Change, Reflectors, owner,
    testing::{Playing, eventually},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use replicaset_controller::PLAYER;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

async fn server() -> TestServer {
    let crd = include_str!("../../../crds/replicasets.apps.yaml");
    let server = TestServer::builder().install_crds(crd).start().await.unwrap();
    // No pod without its service account, and nobody here makes one.
    let accounts: Api<ServiceAccount> = Api::namespaced(server.client(), "default");
    let account = serde_json::from_value(json!({ "metadata": { "name": "default" } })).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    server
}

struct World {
    client: Client,
    sets: Api<ReplicaSet>,
    pods: Api<Pod>,
}

impl World {
    fn new(client: Client) -> Self {
        Self {
            sets: Api::namespaced(client.clone(), "default"),
            pods: Api::namespaced(client.clone(), "default"),
            client,
        }
    }

    async fn create(&self, replicas: i32) -> ReplicaSet {
        let set = json!({
            "metadata": { "name": "web" },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": { "app": "web" } },
                "template": {
                    "metadata": { "labels": { "app": "web" } },
                    "spec": { "containers": [{ "name": "web", "image": "web" }] },
                },
            },
        });
        let set = serde_json::from_value(set).unwrap();
        self.sets.create(&PostParams::default(), &set).await.unwrap()
    }

    async fn scale(&self, replicas: i32) {
        let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        self.sets.patch("web", &PatchParams::default(), &patch).await.unwrap();
    }

    async fn own_pods(&self) -> Vec<Pod> {
        let pods = self.pods.list(&Default::default()).await.unwrap().items;
        pods.into_iter().filter(|pod| owner::controller_of(&pod.metadata).is_some()).collect()
    }

    async fn has_pods(&self, n: usize) -> Vec<Pod> {
        eventually(SOON, async || {
            let pods = self.own_pods().await;
            if pods.len() == n { Ok(pods) } else { Err(format!("{} pods, not {n}", pods.len())) }
        })
        .await
    }

    async fn has_status(&self, expected: Value) {
        eventually(SOON, async || {
            let status = json!(self.sets.get("web").await.unwrap().status.unwrap_or_default());
            let same = expected
                .as_object()
                .unwrap()
                .iter()
                .all(|(key, value)| status.get(key) == Some(value));
            if same { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }

    async fn set_pod_status(&self, pod: &str, status: Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        self.pods.patch_status(pod, &PatchParams::default(), &patch).await.unwrap();
    }

    async fn make_ready(&self, pod: &str) {
        let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" });
        self.set_pod_status(pod, json!({ "phase": "Running", "conditions": [ready] })).await;
    }

    async fn has_event(&self, reason: &str, note: &str) {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        eventually(SOON, async || {
            let events =
                events.list(&Default::default()).await.map_err(|error| error.to_string())?;
            let told = |event: &Event| {
                event.reason.as_deref() == Some(reason)
                    && event.note.as_deref().is_some_and(|text| text.starts_with(note))
                    && event.reporting_controller.as_deref() == Some("replicaset-controller")
            };
            if events.iter().any(told) { Ok(()) } else { Err(format!("no event {reason}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn it_creates_replaces_and_deletes_pods() {
    let server = server().await;
    let world = World::new(server.client());
    let _playing = Playing::start(&PLAYER, server.client(), "test");
    world.create(3).await;
    let pods = world.has_pods(3).await;
    assert!(pods.iter().all(|pod| pod.name_any().starts_with("web-")));
    world.has_event("SuccessfulCreate", "Created pod: web-").await;

    let first = pods[0].name_any();
    world.pods.delete(&first, &DeleteParams::default()).await.unwrap();
    let names: Vec<_> = world.has_pods(3).await.iter().map(|pod| pod.name_any()).collect();
    assert!(!names.contains(&first));

    world.set_pod_status(&names[0], json!({ "phase": "Failed" })).await;
    world.has_pods(4).await; // The failed one stays, for people to look at.

    world.scale(0).await;
    world.has_pods(1).await;
    world.has_event("SuccessfulDelete", "Deleted pod: web-").await;
}

#[tokio::test]
async fn the_status_follows_the_pods_and_the_ready_one_stays() {
    let server = server().await;
    let world = World::new(server.client());
    let _playing = Playing::start(&PLAYER, server.client(), "test");
    world.create(3).await;
    let pods = world.has_pods(3).await;
    world
        .has_status(json!({ "replicas": 3, "fullyLabeledReplicas": 3, "observedGeneration": 1 }))
        .await;
    world.make_ready(&pods[1].name_any()).await;
    world.has_status(json!({ "replicas": 3, "readyReplicas": 1, "availableReplicas": 1 })).await;
    world.scale(1).await;
    let left = world.has_pods(1).await;
    assert_eq!(left[0].name_any(), pods[1].name_any());
    world.has_status(json!({ "replicas": 1, "readyReplicas": 1, "observedGeneration": 2 })).await;
}

#[tokio::test]
async fn it_adopts_orphans_and_releases_what_matches_no_longer() {
    let server = server().await;
    let world = World::new(server.client());
    let orphan: Pod = serde_json::from_value(json!({
        "metadata": { "name": "orphan", "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "web", "image": "web" }] },
    }))
    .unwrap();
    world.pods.create(&PostParams::default(), &orphan).await.unwrap();
    let _playing = Playing::start(&PLAYER, server.client(), "test");
    let set = world.create(2).await;
    let pods = world.has_pods(2).await;
    let adopted = pods.iter().find(|pod| pod.name_any() == "orphan").expect("adopted");
    assert!(owner::is_controlled_by(&adopted.metadata, &set.uid().unwrap()));

    let patch = Patch::Merge(json!({ "metadata": { "labels": { "app": "debug" } } }));
    world.pods.patch("orphan", &PatchParams::default(), &patch).await.unwrap();
    eventually(SOON, async || {
        let pod = world.pods.get("orphan").await.unwrap();
        if pod.owner_references().is_empty() { Ok(()) } else { Err("still owned".to_owned()) }
    })
    .await;
    let names: Vec<_> = world.has_pods(2).await.iter().map(|pod| pod.name_any()).collect();
    assert!(!names.contains(&"orphan".to_owned()));
}

/// Every pod that was ever created, by UID.
async fn count_creations(
    client: Client,
) -> (Arc<parking_lot::Mutex<HashSet<String>>>, tokio::task::JoinHandle<()>) {
    let reflectors = Reflectors::new(client);
    let pods = reflectors.get::<Pod>();
    pods.ready().await.unwrap();
    let created = Arc::new(parking_lot::Mutex::new(HashSet::new()));
    let (seen, changes) = (Arc::clone(&created), pods.changes());
    let task = tokio::spawn(changes.for_each(move |change| {
        if let Change::Applied { object, .. } = change {
            seen.lock().insert(object.uid().unwrap());
        }
        std::future::ready(())
    }));
    (created, task)
}

#[tokio::test]
async fn no_pod_is_created_twice_however_often_leaders_die() {
    let server = server().await;
    let world = World::new(server.client());
    let (created, counting) = count_creations(server.client()).await;
    world.create(60).await;
    for round in 0..8 {
        // The same identity, as after a kill -9 of the process: it goes on at once.
        let playing = Playing::start(&PLAYER, server.client(), "test");
        tokio::time::sleep(Duration::from_millis(20 + round * 13)).await;
        drop(playing); // Without any farewell.
    }
    let _playing = Playing::start(&PLAYER, server.client(), "test");
    world.has_pods(60).await;
    world.has_status(json!({ "replicas": 60 })).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(created.lock().len(), 60, "pods were created twice");
    counting.abort();
}

#[tokio::test]
async fn no_pod_is_created_twice_when_leadership_moves_to_and_fro() {
    let server = server().await;
    let world = World::new(server.client());
    let (created, counting) = count_creations(server.client()).await;
    let built_in = Playing::start(&PLAYER, server.client(), "built-in");
    eventually(SOON, async || if built_in.leads() { Ok(()) } else { Err("no leader".to_owned()) })
        .await;
    world.create(100).await;
    for round in 0..3 {
        let name = format!("chart-{round}");
        let chart = Playing::start_as_chart(&PLAYER, server.client(), &name);
        eventually(SOON, async || if chart.leads() { Ok(()) } else { Err("no swap".to_owned()) })
            .await;
        assert!(!built_in.leads(), "two leaders");
        world.scale(100 + (round + 1) * 20).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        chart.stop().await.unwrap();
    }
    world.has_pods(160).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(created.lock().len(), 160, "pods were created twice");
    counting.abort();
}

#[tokio::test]
async fn its_own_rights_suffice() {
    let server = server().await;
    let world = World::new(server.client());
    let roles: Api<k8s_openapi::api::rbac::v1::ClusterRole> = Api::all(server.client());
    let bindings: Api<k8s_openapi::api::rbac::v1::ClusterRoleBinding> = Api::all(server.client());
    let role = json!({ "metadata": { "name": "player" }, "rules": PLAYER.all_rules() });
    roles.create(&PostParams::default(), &serde_json::from_value(role).unwrap()).await.unwrap();
    let binding = json!({
        "metadata": { "name": "player" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "player" },
        "subjects": [{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "player" }],
    });
    bindings
        .create(&PostParams::default(), &serde_json::from_value(binding).unwrap())
        .await
        .unwrap();
    let _playing =
        Playing::start(&PLAYER, server.client_as("player", &["system:authenticated"]), "test");
    world.create(2).await;
    world.has_pods(2).await;
    world.has_status(json!({ "replicas": 2 })).await;
    world.has_event("SuccessfulCreate", "Created pod: web-").await;
}
