//! The controller on a real server, with only its own rights.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::time::Duration;

use apiserver::testing::TestServer;
use endpointslice_controller::PLAYER;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kit::testing::{Playing, equip, eventually, grant};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// The server has a Service of its own.
fn of_web() -> ListParams {
    ListParams::default().labels("kubernetes.io/service-name=web")
}

struct World {
    _server: TestServer,
    _playing: Playing,
    pods: Api<Pod>,
    services: Api<Service>,
    slices: Api<EndpointSlice>,
    endpoints: Api<Endpoints>,
}

impl World {
    async fn new() -> Self {
        let crd = include_str!("../../../crds/endpointslices.discovery.k8s.io.yaml");
        let server = TestServer::builder().install_crds(crd).start().await.expect("a server");
        let user = grant(server.client(), &PLAYER).await.expect("rights");
        equip(server.client(), "default").await.expect("an account");
        let playing = Playing::start(&PLAYER, server.client_as(&user, &[]), "test");
        let node =
            json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}}});
        let nodes = Api::<Node>::all(server.client());
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        Self {
            pods: Api::namespaced(server.client(), "default"),
            services: Api::namespaced(server.client(), "default"),
            slices: Api::namespaced(server.client(), "default"),
            endpoints: Api::namespaced(server.client(), "default"),
            _server: server,
            _playing: playing,
        }
    }

    async fn create_service(&self) {
        let service = json!({"metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
        let service = serde_json::from_value(service).unwrap();
        self.services.create(&PostParams::default(), &service).await.unwrap();
    }

    async fn create_pod(&self, name: &str, ip: &str) {
        let pod = json!({"metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i",
                "ports": [{"name": "http", "containerPort": 8080}]}]}});
        self.pods
            .create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
            .await
            .unwrap();
        let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]});
        self.set_status(name, status).await;
    }

    async fn set_status(&self, name: &str, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        self.pods.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Slices show these addresses, marked if they are not ready; Endpoints the same.
    async fn shows(&self, expected: &str) {
        eventually(SOON, async || {
            let slices = self.slices.list(&of_web()).await.map_err(|e| e.to_string())?;
            let of_slices = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
            let mut of_slices: Vec<_> = of_slices
                .map(|e| {
                    let ready = e.conditions.as_ref().and_then(|c| c.ready) == Some(true);
                    format!("{}{}", e.addresses[0], if ready { "" } else { "!" })
                })
                .collect();
            of_slices.sort();
            let endpoints = self.endpoints.get_opt("web").await.map_err(|e| e.to_string())?;
            let subsets = endpoints.and_then(|e| e.subsets).unwrap_or_default();
            let mut of_endpoints: Vec<_> = subsets
                .iter()
                .flat_map(|s| {
                    let ready = s.addresses.iter().flatten().map(|a| a.ip.clone());
                    ready
                        .chain(s.not_ready_addresses.iter().flatten().map(|a| format!("{}!", a.ip)))
                })
                .collect();
            of_endpoints.sort();
            let found = (of_slices.join(" "), of_endpoints.join(" "));
            if found == (expected.to_owned(), expected.to_owned()) {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await;
    }
}

#[tokio::test]
async fn slices_and_endpoints_follow_the_pods() {
    let world = World::new().await;
    world.create_service().await;
    world.shows("").await;
    world.create_pod("a", "10.0.0.1").await;
    world.create_pod("b", "10.0.0.2").await;
    world.shows("10.0.0.1 10.0.0.2").await;
    let slices = world.slices.list(&of_web()).await.unwrap().items;
    assert_eq!(slices.len(), 1, "one slice is enough");
    let endpoint = &slices[0].endpoints.as_ref().unwrap()[0];
    assert_eq!((endpoint.node_name.as_deref(), endpoint.zone.as_deref()), (Some("n"), Some("z")));
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));

    world.set_status("a", json!({"conditions": [{"type": "Ready", "status": "False"}]})).await;
    world.shows("10.0.0.1! 10.0.0.2").await;
    let relabel = Patch::Merge(json!({"metadata": {"labels": {"app": "other"}}}));
    world.pods.patch("b", &PatchParams::default(), &relabel).await.unwrap();
    world.shows("10.0.0.1!").await;
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    world.pods.delete("a", &now).await.unwrap();
    world.shows("").await;
}

#[tokio::test]
async fn what_was_deleted_by_hand_comes_back() {
    let world = World::new().await;
    world.create_pod("a", "10.0.0.1").await;
    world.create_service().await;
    world.shows("10.0.0.1").await;
    let slice = world.slices.list(&of_web()).await.unwrap().items.remove(0);
    world.slices.delete(&slice.metadata.name.unwrap(), &DeleteParams::default()).await.unwrap();
    world.endpoints.delete("web", &DeleteParams::default()).await.unwrap();
    world.shows("10.0.0.1").await;
}

#[tokio::test]
async fn endpoints_go_with_their_service() {
    let world = World::new().await;
    world.create_pod("a", "10.0.0.1").await;
    world.create_service().await;
    world.shows("10.0.0.1").await;
    world.services.delete("web", &DeleteParams::default()).await.unwrap();
    eventually(SOON, async || match world.endpoints.get_opt("web").await.unwrap() {
        None => Ok(()),
        Some(_) => Err("endpoints are there".to_owned()),
    })
    .await;
}
