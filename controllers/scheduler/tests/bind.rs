//! The scheduler on a real server, with only its own rights.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use apiserver::testing::TestServer;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::events::v1::Event;
use kit::testing::{Playing, equip, eventually, grant};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use kube_scheduler::PLAYER;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

struct World {
    server: TestServer,
    user: String,
    nodes: Api<Node>,
    pods: Api<Pod>,
}

impl World {
    async fn new() -> Self {
        let server = TestServer::start().await.expect("a server");
        equip(server.client(), "default").await.expect("an account");
        let user = grant(server.client(), &PLAYER).await.expect("rights");
        Self {
            user,
            nodes: Api::all(server.client()),
            pods: Api::namespaced(server.client(), "default"),
            server,
        }
    }

    fn play(&self) -> Playing {
        Playing::start(&PLAYER, self.server.client_as(&self.user, &[]), "test")
    }

    async fn add_node(&self, name: &str, cpu: &str) {
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        self.nodes
            .create(&PostParams::default(), &serde_json::from_value(node).unwrap())
            .await
            .unwrap();
        // A node comes with the taint not-ready, which the node lifecycle takes away.
        let sound = Patch::Merge(json!({"spec": {"taints": null}}));
        self.nodes.patch(name, &PatchParams::default(), &sound).await.unwrap();
        let status =
            json!({"status": {"allocatable": {"cpu": cpu, "memory": "64Gi", "pods": "1000"}}});
        self.nodes
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    async fn add_pod(&self, name: &str, spec: Value) {
        let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [
            {"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        self.pods
            .create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
            .await
            .unwrap();
    }

    async fn is_on(&self, pod: &str, node: &str) {
        eventually(SOON, async || {
            let pod = self.pods.get(pod).await.unwrap();
            match pod.spec.and_then(|s| s.node_name) {
                Some(found) if found == node => Ok(()),
                found => Err(format!("on {found:?}: {:?}", pod.status)),
            }
        })
        .await;
    }

    async fn waits(&self, pod: &str, message: &str) {
        eventually(SOON, async || {
            let conditions = self.pods.get(pod).await.unwrap().status.and_then(|s| s.conditions);
            let found =
                conditions.unwrap_or_default().into_iter().find(|c| c.type_ == "PodScheduled");
            let text = found.map(|c| {
                format!(
                    "{} {} {}",
                    c.status,
                    c.reason.unwrap_or_default(),
                    c.message.unwrap_or_default()
                )
            });
            let expected = format!("False Unschedulable {message}");
            if text.as_deref() == Some(&expected) { Ok(()) } else { Err(format!("{text:?}")) }
        })
        .await;
    }

    async fn has_event(&self, reason: &str, note: &str) {
        let events: Api<Event> = Api::namespaced(self.server.client(), "default");
        eventually(SOON, async || {
            let all = events.list(&ListParams::default()).await.map_err(|e| e.to_string())?;
            let told = all.iter().any(|e| {
                e.reason.as_deref() == Some(reason)
                    && e.note.as_deref() == Some(note)
                    && e.reporting_controller.as_deref() == Some("default-scheduler")
            });
            if told { Ok(()) } else { Err(format!("no event {reason}: {note}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn pods_get_nodes_when_there_is_room() {
    let world = World::new().await;
    let _playing = world.play();
    world.add_pod("a", json!({})).await;
    world.waits("a", "no nodes available to schedule pods").await;
    world.add_node("n", "1").await;
    world.is_on("a", "n").await;
    world.has_event("Scheduled", "Successfully assigned default/a to n").await;
    world.add_pod("b", json!({})).await;
    world.waits("b", "0/1 nodes are available: 1 Insufficient cpu.").await;
    world.has_event("FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu.").await;
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    world.pods.delete("a", &now).await.unwrap();
    world.is_on("b", "n").await;
}

#[tokio::test]
async fn gates_and_other_schedulers_are_respected() {
    let world = World::new().await;
    let _playing = world.play();
    world.add_node("n", "4").await;
    world.add_pod("gated", json!({"schedulingGates": [{"name": "example.com/wait"}]})).await;
    world.add_pod("foreign", json!({"schedulerName": "another"})).await;
    world.add_pod("plain", json!({})).await;
    world.is_on("plain", "n").await;
    for pod in ["gated", "foreign"] {
        let spec = world.pods.get(pod).await.unwrap().spec.unwrap();
        assert_eq!(spec.node_name, None, "{pod}");
    }
    let open = Patch::Merge(json!({"spec": {"schedulingGates": null}}));
    world.pods.patch("gated", &PatchParams::default(), &open).await.unwrap();
    world.is_on("gated", "n").await;
}

#[tokio::test]
async fn a_restart_goes_on_where_it_was() {
    let world = World::new().await;
    world.add_node("n", "2").await;
    let playing = world.play();
    world.add_pod("a", json!({})).await;
    world.is_on("a", "n").await;
    drop(playing); // Killed.
    world.add_pod("b", json!({})).await;
    world.add_pod("c", json!({})).await;
    let _playing = world.play();
    eventually(SOON, async || {
        let pods = world.pods.list(&ListParams::default()).await.unwrap();
        let n =
            pods.iter().filter(|p| p.spec.as_ref().is_some_and(|s| s.node_name.is_some())).count();
        if n == 2 { Ok(()) } else { Err(format!("{n} are bound")) }
    })
    .await;
}

#[tokio::test]
async fn a_burst_is_spread_evenly_and_fast() {
    let (n_nodes, n_pods) = (10, 200);
    let world = World::new().await;
    for i in 0..n_nodes {
        world.add_node(&format!("n{i}"), "64").await;
    }
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
    for i in 0..n_pods {
        let pod = json!({"metadata": {"name": format!("p{i}"), "ownerReferences": owner},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}}]}});
        world
            .pods
            .create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
            .await
            .unwrap();
    }
    let began = Instant::now();
    let _playing = world.play();
    let bound = eventually(Duration::from_secs(60), async || {
        let pods = world.pods.list(&ListParams::default()).await.unwrap();
        let mut by_node = BTreeMap::<String, usize>::new();
        for node in pods.iter().filter_map(|p| p.spec.as_ref()?.node_name.clone()) {
            *by_node.entry(node).or_default() += 1;
        }
        let n: usize = by_node.values().sum();
        if n == n_pods { Ok(by_node) } else { Err(format!("{n} are bound")) }
    })
    .await;
    println!("{n_pods} pods in {:?}, with the start", began.elapsed());
    assert_eq!(bound.len(), n_nodes);
    assert!(bound.values().all(|n| *n == n_pods / n_nodes), "{bound:?}");
    assert!(
        world
            .nodes
            .list(&ListParams::default())
            .await
            .unwrap()
            .iter()
            .all(|n| bound.contains_key(&n.name_any()))
    );
}
