//! The operator on a real API server, with a stand-in for whoever runs Deployments.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use apiserver::testing::TestServer;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service},
    events::v1::Event,
};
use kit::testing::{Playing, eventually};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use website_operator::{FINALIZER, PLAYER, READY, Website, WebsiteSpec};

const SOON: Duration = Duration::from_secs(10);

struct World {
    _server: TestServer,
    _playing: Playing,
    sites: Api<Website>,
    deployments: Api<Deployment>,
    services: Api<Service>,
    maps: Api<ConfigMap>,
    events: Api<Event>,
}

impl World {
    async fn start() -> Self {
        let server = TestServer::builder()
            .install_crds(include_str!("../../../../crds/deployments.apps.yaml"))
            .install_crds(include_str!("../chart/crds/websites.examples.improv.dev.yaml"))
            .start()
            .await
            .unwrap();
        let client = server.client();
        Self {
            _playing: Playing::start(&PLAYER, client.clone(), "test"),
            sites: Api::namespaced(client.clone(), "default"),
            deployments: Api::namespaced(client.clone(), "default"),
            services: Api::namespaced(client.clone(), "default"),
            maps: Api::namespaced(client.clone(), "default"),
            events: Api::namespaced(client, "default"),
            _server: server,
        }
    }

    async fn create(&self, name: &str) {
        let spec = WebsiteSpec { html: "<h1>Hi</h1>".into(), replicas: 2, image: "nginx".into() };
        self.sites.create(&PostParams::default(), &Website::new(name, spec)).await.unwrap();
    }

    async fn is_ready(&self, name: &str, expected: &str) {
        eventually(SOON, async || {
            let status = self.sites.get(name).await.unwrap().status.unwrap_or_default();
            let ready = status.conditions.iter().find(|condition| condition.type_ == READY);
            let ready = ready.map_or("absent", |ready| ready.status.as_str());
            if ready == expected {
                Ok(())
            } else {
                Err(format!("Ready is {ready}, not {expected}"))
            }
        })
        .await;
    }

    /// What the deployment player and the nodes would do.
    async fn deploy(&self, name: &str) {
        let deployment =
            eventually(SOON, async || self.deployments.get(name).await.map_err(|e| e.to_string()))
                .await;
        let n = deployment.spec.unwrap().replicas;
        let status = json!({
            "observedGeneration": deployment.metadata.generation,
            "replicas": n, "updatedReplicas": n, "readyReplicas": n, "availableReplicas": n,
        });
        let patch = Patch::Merge(json!({ "status": status }));
        self.deployments.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    async fn patch(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.sites.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    async fn directory(&self) -> Vec<String> {
        let directory = self.maps.get_opt("websites").await.unwrap().unwrap_or_default();
        directory
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(line, url)| format!("{line} {url}"))
            .collect()
    }
}

#[tokio::test]
async fn a_website_gets_its_parts_and_becomes_ready() {
    let world = World::start().await;
    world.create("blog").await;
    world.is_ready("blog", "False").await;
    world.deploy("blog").await;
    world.is_ready("blog", "True").await;
    let map = world.maps.get("blog").await.unwrap();
    assert_eq!(map.data.as_ref().unwrap()["index.html"], "<h1>Hi</h1>");
    let service = world.services.get("blog").await.unwrap();
    let site = world.sites.get("blog").await.unwrap();
    for meta in [&map.metadata, &service.metadata] {
        assert!(kit::owner::is_controlled_by(meta, &site.uid().unwrap()));
    }
    assert_eq!(site.status.unwrap().url.as_deref(), Some("http://blog.default.svc"));
    eventually(SOON, async || {
        let events = world.events.list(&Default::default()).await.unwrap();
        let told = events.iter().any(|event| event.reason.as_deref() == Some("Published"));
        if told { Ok(()) } else { Err("no event Published".to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn changes_are_followed_and_damage_is_repaired() {
    let world = World::start().await;
    world.create("blog").await;
    world.deploy("blog").await;
    world.is_ready("blog", "True").await;
    let page = async || {
        let template = world.deployments.get("blog").await.unwrap().spec.unwrap().template;
        template.metadata.unwrap().annotations.unwrap()["examples.improv.dev/page"].clone()
    };
    let before = page().await;
    world.patch("blog", json!({ "html": "<h1>Bye</h1>", "replicas": 3 })).await;
    world.is_ready("blog", "False").await;
    world.deploy("blog").await;
    world.is_ready("blog", "True").await;
    assert_ne!(page().await, before);
    assert_eq!(world.deployments.get("blog").await.unwrap().spec.unwrap().replicas, Some(3));

    world.services.delete("blog", &DeleteParams::default()).await.unwrap();
    eventually(SOON, async || world.services.get("blog").await.map_err(|e| e.to_string())).await;
    let damage = Patch::Merge(json!({ "data": { "index.html": "hacked" } }));
    world.maps.patch("blog", &PatchParams::default(), &damage).await.unwrap();
    eventually(SOON, async || {
        let page = world.maps.get("blog").await.unwrap().data.unwrap()["index.html"].clone();
        if page == "<h1>Bye</h1>" { Ok(()) } else { Err(page) }
    })
    .await;
}

#[tokio::test]
async fn the_directory_has_a_line_for_each_website_while_it_lives() {
    let world = World::start().await;
    world.create("a").await;
    world.create("b").await;
    let lines = async |expected: &[&str]| {
        eventually(SOON, async || {
            let lines = world.directory().await;
            if lines == expected { Ok(()) } else { Err(lines.join(", ")) }
        })
        .await;
    };
    lines(&["default.a http://a.default.svc", "default.b http://b.default.svc"]).await;
    assert!(world.sites.get("a").await.unwrap().finalizers().contains(&FINALIZER.to_owned()));
    world.sites.delete("a", &DeleteParams::default()).await.unwrap();
    lines(&["default.b http://b.default.svc"]).await;
    eventually(SOON, async || match world.sites.get_opt("a").await.unwrap() {
        None => Ok(()),
        Some(_) => Err("the finalizer holds it".to_owned()),
    })
    .await;
}

#[tokio::test]
async fn it_comes_to_rest() {
    let world = World::start().await;
    world.create("blog").await;
    world.deploy("blog").await;
    world.is_ready("blog", "True").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let versions = async || {
        let (site, map) =
            (world.sites.get("blog").await.unwrap(), world.maps.get("websites").await.unwrap());
        let deployment = world.deployments.get("blog").await.unwrap();
        [site.resource_version(), map.resource_version(), deployment.resource_version()]
    };
    let before = versions().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(versions().await, before, "it writes although nothing happens");
}
