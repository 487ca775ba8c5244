//! The player on a real server, with a stand-in for whoever runs the ReplicaSets.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use apiserver::testing::TestServer;
use deployment_controller::PLAYER;
use futures::StreamExt;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    events::v1::Event,
};
use kit::{
    Reflectors,
    testing::{Playing, eventually},
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const REVISION: &str = "deployment.kubernetes.io/revision";

async fn server() -> TestServer {
    TestServer::builder()
        .install_crds(include_str!("../../../crds/replicasets.apps.yaml"))
        .install_crds(include_str!("../../../crds/deployments.apps.yaml"))
        .start()
        .await
        .unwrap()
}

struct World {
    client: Client,
    deployments: Api<Deployment>,
    sets: Api<ReplicaSet>,
}

impl World {
    fn new(client: Client) -> Self {
        Self {
            deployments: Api::namespaced(client.clone(), "default"),
            sets: Api::namespaced(client.clone(), "default"),
            client,
        }
    }

    async fn create(&self, strategy: Value) {
        let deployment = json!({
            "metadata": { "name": "web", "annotations": { "kubernetes.io/change-cause": "first" } },
            "spec": {
                "replicas": 3,
                "strategy": strategy,
                "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 2,
                "selector": { "matchLabels": { "app": "web" } },
                "template": {
                    "metadata": { "labels": { "app": "web" } },
                    "spec": { "containers": [{ "name": "web", "image": "v1" }] },
                },
            },
        });
        let deployment = serde_json::from_value(deployment).unwrap();
        self.deployments.create(&PostParams::default(), &deployment).await.unwrap();
    }

    async fn patch(&self, patch: Value) {
        self.deployments.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn set_image(&self, image: &str) {
        let containers = json!([{ "name": "web", "image": image }]);
        self.patch(json!({ "spec": { "template": { "spec": { "containers": containers } } } }))
            .await;
    }

    /// `image×replicas@revision` of each ReplicaSet, sorted, becomes `expected`.
    async fn has_sets(&self, expected: &str) -> Vec<ReplicaSet> {
        eventually(SOON, async || {
            let sets = self.sets.list(&Default::default()).await.unwrap().items;
            let mut found: Vec<_> = sets.iter().map(render).collect();
            found.sort_unstable();
            let found = found.join(" ");
            if found == expected { Ok(sets) } else { Err(found) }
        })
        .await
    }

    /// Waits until `kubectl rollout status` would say that it is done.
    async fn is_rolled_out(&self) -> Deployment {
        eventually(SOON, async || {
            let deployment = self.deployments.get("web").await.unwrap();
            let status = deployment.status.clone().unwrap_or_default();
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
            let done = status.observed_generation == deployment.metadata.generation
                && status.updated_replicas == wanted
                && status.replicas == wanted
                && status.available_replicas == wanted;
            if done { Ok(deployment) } else { Err(json!(status).to_string()) }
        })
        .await
    }

    async fn has_condition(&self, type_: &str, reason: &str) {
        eventually(SOON, async || {
            let status = self.deployments.get("web").await.unwrap().status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let found = conditions.iter().find(|condition| condition.type_ == type_);
            match found.and_then(|condition| condition.reason.clone()) {
                Some(found) if found == reason => Ok(()),
                found => Err(format!("{type_} is {found:?}, not {reason}")),
            }
        })
        .await;
    }

    async fn has_event(&self, note: &str) {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        eventually(SOON, async || {
            let events =
                events.list(&Default::default()).await.map_err(|error| error.to_string())?;
            let mut notes = events.iter().filter(|event| {
                event.reason.as_deref() == Some("ScalingReplicaSet")
                    && event.reporting_controller.as_deref() == Some("deployment-controller")
            });
            let told =
                notes.any(|event| event.note.as_deref().is_some_and(|text| text.contains(note)));
            if told { Ok(()) } else { Err(format!("no event with {note}")) }
        })
        .await;
    }
}

fn image(rs: &ReplicaSet) -> String {
    let pod = rs.spec.as_ref().and_then(|spec| spec.template.as_ref()?.spec.as_ref());
    pod.and_then(|pod| pod.containers.first()?.image.clone()).unwrap_or_default()
}

fn render(rs: &ReplicaSet) -> String {
    let replicas = rs.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(-1);
    let revision = rs.annotations().get(REVISION).cloned().unwrap_or_default();
    format!("{}×{replicas}@{revision}", image(rs))
}

/// Makes every ReplicaSet what it should be, at once, except those whose image is `broken`.
fn run_replica_sets(client: Client) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let sets = Reflectors::new(client.clone()).get::<ReplicaSet>();
        let mut changed = std::pin::pin!(sets.applied());
        while let Some(rs) = changed.next().await {
            let wanted = rs.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
            let good = if image(&rs) == "broken" { 0 } else { wanted };
            let status = json!({
                "replicas": wanted,
                "readyReplicas": good,
                "availableReplicas": good,
                "observedGeneration": rs.metadata.generation,
            });
            let api: Api<ReplicaSet> = Api::namespaced(client.clone(), "default");
            let patch = Patch::Merge(json!({ "status": status }));
            api.patch_status(&rs.name_any(), &PatchParams::default(), &patch).await.ok();
        }
    })
}

#[tokio::test]
async fn a_rollout_an_undo_and_the_history() {
    let server = server().await;
    let world = World::new(server.client());
    let _sets = run_replica_sets(server.client());
    let _playing = Playing::start(&PLAYER, server.client(), "test");
    world.create(json!({ "type": "RollingUpdate" })).await;
    let sets = world.has_sets("v1×3@1").await;
    let rs = &sets[0];
    let hash = rs.labels().get("pod-template-hash").unwrap();
    assert_eq!(rs.name_any(), format!("web-{hash}"));
    assert_eq!(rs.annotations().get("kubernetes.io/change-cause").unwrap(), "first");
    world.is_rolled_out().await;
    world.has_condition("Progressing", "NewReplicaSetAvailable").await;
    world.has_condition("Available", "MinimumReplicasAvailable").await;
    world.has_event(&format!("Scaled up replica set {} from 0 to 3", rs.name_any())).await;

    world.set_image("v2").await;
    world.has_sets("v1×0@1 v2×3@2").await;
    let deployment = world.is_rolled_out().await;
    assert_eq!(deployment.annotations().get(REVISION).unwrap(), "2");
    world.has_event(&format!("Scaled down replica set {} from 3 to 2", rs.name_any())).await;

    world.set_image("v1").await; // What `kubectl rollout undo` does.
    world.has_sets("v1×3@3 v2×0@2").await;
    let history = "deployment.kubernetes.io/revision-history";
    let sets = world.sets.list(&Default::default()).await.unwrap();
    let v1 = sets.iter().find(|rs| image(rs) == "v1").unwrap();
    assert_eq!(v1.annotations().get(history).unwrap(), "1");
    world.is_rolled_out().await;

    world.set_image("v3").await;
    world.has_sets("v1×0@3 v2×0@2 v3×3@4").await;
    world.set_image("v4").await;
    world.has_sets("v1×0@3 v3×0@4 v4×3@5").await; // Two old ones are kept.
}

#[tokio::test]
async fn scaling_pausing_and_resuming() {
    let server = server().await;
    let world = World::new(server.client());
    let _sets = run_replica_sets(server.client());
    let _playing = Playing::start(&PLAYER, server.client(), "test");
    world.create(json!({ "type": "RollingUpdate" })).await;
    world.is_rolled_out().await;
    world.patch(json!({ "spec": { "paused": true } })).await;
    world.has_condition("Progressing", "DeploymentPaused").await;
    world.set_image("v2").await;
    world.patch(json!({ "spec": { "replicas": 5 } })).await;
    world.has_sets("v1×5@1").await;
    world.patch(json!({ "spec": { "paused": null } })).await;
    world.has_sets("v1×0@1 v2×5@2").await;
    world.is_rolled_out().await;
    world.has_condition("Progressing", "NewReplicaSetAvailable").await;
}

#[tokio::test]
async fn a_broken_template_stops_within_the_bounds_and_times_out() {
    let server = server().await;
    let world = World::new(server.client());
    let _sets = run_replica_sets(server.client());
    let _playing = Playing::start(&PLAYER, server.client(), "test");
    world.create(json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } })).await;
    world.is_rolled_out().await;
    world.patch(json!({ "spec": { "progressDeadlineSeconds": 1 } })).await;
    world.set_image("broken").await;
    world.has_sets("broken×1@2 v1×3@1").await;
    world.has_condition("Progressing", "ProgressDeadlineExceeded").await;
    world.has_condition("Available", "MinimumReplicasAvailable").await;
}

#[tokio::test]
async fn recreate_lets_no_two_versions_run() {
    let server = server().await;
    let world = World::new(server.client());
    let _sets = run_replica_sets(server.client());
    let _playing = Playing::start(&PLAYER, server.client(), "test");
    world.create(json!({ "type": "Recreate" })).await;
    world.is_rolled_out().await;
    world.set_image("v2").await;
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let sets = world.sets.list(&Default::default()).await.unwrap();
        let running =
            sets.iter().filter(|rs| rs.status.as_ref().is_some_and(|status| status.replicas > 0));
        assert!(running.count() <= 1, "both versions run");
        if sets.iter().any(|rs| render(rs) == "v2×3@2") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "v2 does not start");
    }
    world.is_rolled_out().await;
}

#[tokio::test]
async fn a_rollout_survives_that_its_player_is_killed() {
    let server = server().await;
    let world = World::new(server.client());
    let _sets = run_replica_sets(server.client());
    let playing = Playing::start(&PLAYER, server.client(), "test");
    world.create(json!({ "type": "RollingUpdate" })).await;
    world.patch(json!({ "spec": { "replicas": 20 } })).await;
    world.is_rolled_out().await;
    drop(playing);
    world.set_image("v2").await;
    for round in 0..10 {
        let playing = Playing::start(&PLAYER, server.client(), "test");
        tokio::time::sleep(Duration::from_millis(5 + round * 3)).await;
        drop(playing);
    }
    let _playing = Playing::start(&PLAYER, server.client(), "test");
    world.has_sets("v1×0@1 v2×20@2").await;
    world.is_rolled_out().await;
}

#[tokio::test]
async fn a_taken_name_is_avoided() {
    let server = server().await;
    let world = World::new(server.client());
    let _sets = run_replica_sets(server.client());
    let playing = Playing::start(&PLAYER, server.client(), "test");
    world.create(json!({ "type": "RollingUpdate" })).await;
    let name = world.has_sets("v1×3@1").await[0].name_any();
    world.is_rolled_out().await;
    playing.stop().await.unwrap();
    // Somebody else's ReplicaSet gets the name that the template asks for.
    world.sets.delete(&name, &Default::default()).await.unwrap();
    eventually(SOON, async || match world.sets.get_opt(&name).await.unwrap() {
        None => Ok(()),
        Some(_) => Err("still there".to_owned()),
    })
    .await;
    let foreign = json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": 0,
            "selector": { "matchLabels": { "app": "other" } },
            "template": {
                "metadata": { "labels": { "app": "other" } },
                "spec": { "containers": [{ "name": "web", "image": "other" }] },
            },
        },
    });
    let foreign = serde_json::from_value(foreign).unwrap();
    world.sets.create(&PostParams::default(), &foreign).await.unwrap();
    let _playing = Playing::start(&PLAYER, server.client(), "test");
    let sets = world.has_sets("other×0@ v1×3@1").await;
    assert!(sets.iter().any(|rs| image(rs) == "v1" && rs.name_any() != name));
    let deployment = world.is_rolled_out().await;
    assert_eq!(deployment.status.unwrap().collision_count, Some(1));
}
