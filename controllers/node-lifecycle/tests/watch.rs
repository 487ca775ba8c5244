//! The controller on a real server, with only its own rights and a clock that is stepped.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::sync::Arc;
use std::time::Duration;

use apiserver::testing::TestServer;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kit::testing::{Playing, equip, eventually, grant};
use kit::{InProcess, SteppedClock};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use node_lifecycle_controller::PLAYER;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

struct World {
    _server: TestServer,
    _playing: Playing,
    clock: Arc<SteppedClock>,
    nodes: Api<Node>,
    pods: Api<Pod>,
}

impl World {
    /// Two ready nodes, `a` and `b`, since one alone would never be evicted from.
    async fn new() -> Self {
        let server = TestServer::start().await.expect("a server");
        let user = grant(server.client(), &PLAYER).await.expect("rights");
        equip(server.client(), "default").await.expect("an account");
        let clock = SteppedClock::at(Timestamp::now());
        let with = InProcess::new(server.client_as(&user, &[]), "test");
        let with = InProcess { clock: Arc::clone(&clock) as _, ..with };
        let playing = Playing::start_with(&PLAYER, with);
        let world = Self {
            nodes: Api::all(server.client()),
            pods: Api::namespaced(server.client(), "default"),
            _server: server,
            _playing: playing,
            clock,
        };
        for name in ["a", "b"] {
            let node = json!({"metadata": {"name": name}});
            world
                .nodes
                .create(&PostParams::default(), &serde_json::from_value(node).unwrap())
                .await
                .unwrap();
            world.report(name, "True", 0).await;
        }
        world
    }

    async fn report(&self, node: &str, ready: &str, beat: i64) {
        let heartbeat = Timestamp::from_second(1_700_000_000 + beat).unwrap();
        let condition =
            json!({"type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat.to_string()});
        let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
        self.nodes.patch_status(node, &PatchParams::default(), &patch).await.unwrap();
    }

    async fn add_pod(&self, name: &str, node: &str, tolerations: Value) {
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "tolerations": tolerations,
            "terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "image": "i"}]}});
        self.pods
            .create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
            .await
            .unwrap();
    }

    /// The node has the condition and these taints; the clock goes on meanwhile, a second at a time.
    async fn becomes(&self, node: &str, ready: &str, taints: &[&str]) {
        eventually(SOON, async || {
            self.clock.step(Duration::from_secs(1));
            let node = self.nodes.get(node).await.unwrap();
            let conditions =
                node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
            let status = conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.status);
            let found = node.spec.and_then(|s| s.taints).unwrap_or_default();
            let mut found: Vec<_> = found
                .iter()
                .map(|t| {
                    format!("{}:{}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect)
                })
                .collect();
            found.sort();
            if status.as_deref() == Some(ready) && found == taints {
                Ok(())
            } else {
                Err(format!("{status:?} {found:?}"))
            }
        })
        .await;
    }

    async fn is_deleted(&self, pod: &str) {
        eventually(SOON, async || {
            self.clock.step(Duration::from_secs(1));
            match self.pods.get_opt(pod).await.unwrap() {
                Some(pod) if pod.metadata.deletion_timestamp.is_none() => {
                    Err(format!("{:?}", pod.status))
                }
                _ => Ok(()),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_cordon_becomes_a_taint() {
    let world = World::new().await;
    world.becomes("a", "True", &[]).await;
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    world.nodes.patch("a", &PatchParams::default(), &cordon).await.unwrap();
    world.becomes("a", "True", &["unschedulable:NoSchedule"]).await;
    let uncordon = Patch::Merge(json!({"spec": {"unschedulable": null}}));
    world.nodes.patch("a", &PatchParams::default(), &uncordon).await.unwrap();
    world.becomes("a", "True", &[]).await;
}

#[tokio::test]
async fn a_node_that_is_not_ready_loses_its_pods() {
    let world = World::new().await;
    world.becomes("a", "True", &[]).await;
    world.add_pod("short", "a", json!([])).await;
    let bears = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}]);
    world.add_pod("long", "a", bears).await;
    world.add_pod("elsewhere", "b", json!([])).await;
    world.report("a", "False", 1).await;
    world.becomes("a", "False", &["not-ready:NoExecute", "not-ready:NoSchedule"]).await;
    // What the server adds to every pod bears it for 300 s.
    world.clock.step(Duration::from_secs(300));
    world.is_deleted("short").await;
    for pod in ["long", "elsewhere"] {
        let pod = world.pods.get(pod).await.unwrap();
        assert_eq!(pod.metadata.deletion_timestamp, None, "{:?}", pod.metadata.name);
    }
    world.report("a", "True", 2).await;
    world.becomes("a", "True", &[]).await;
}

#[tokio::test]
async fn pods_of_a_node_that_is_gone_are_given_up() {
    let world = World::new().await;
    world.add_pod("lost", "never-was", json!([])).await;
    world.add_pod("kept", "a", json!([])).await;
    eventually(SOON, async || {
        world.clock.step(Duration::from_secs(5));
        world.report("a", "True", world.beat()).await;
        match world.pods.get_opt("lost").await.unwrap() {
            None => Ok(()),
            Some(pod) => Err(format!("{:?}", pod.status)),
        }
    })
    .await;
    assert!(world.pods.get("kept").await.unwrap().metadata.deletion_timestamp.is_none());
}

#[tokio::test]
async fn a_silent_node_becomes_unknown() {
    let world = World::new().await;
    world.becomes("a", "True", &[]).await;
    eventually(SOON, async || {
        world.clock.step(Duration::from_secs(1));
        world.report("b", "True", world.beat()).await; // It lives, a does not.
        let node = world.nodes.get("a").await.unwrap();
        let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
        let ready = conditions.into_iter().find(|c| c.type_ == "Ready").unwrap();
        match (ready.status.as_str(), ready.reason.as_deref()) {
            ("Unknown", Some("NodeStatusUnknown")) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
    world.becomes("a", "Unknown", &["unreachable:NoExecute", "unreachable:NoSchedule"]).await;
}

impl World {
    /// A number that is larger each second of the stepped clock.
    fn beat(&self) -> i64 {
        use kit::Clock;
        self.clock.elapsed().as_secs().cast_signed() + 10
    }
}
