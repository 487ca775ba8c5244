//! Two servers on one etcd are one cluster: what one says holds for the other.

use std::collections::BTreeSet;
use std::time::Duration;

use apiserver::{Config, Server, storage};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kit::testing::eventually;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use store::EtcdOptions;
use store::testing::Etcd;

/// Addresses for 62 services and ports for 40.
const SOON: Duration = Duration::from_secs(10);
const CIDR: &str = "10.96.0.0/26";
const PORTS: (u16, u16) = (30000, 30039);

struct World {
    servers: Vec<Server>,
    _etcd: Etcd,
    _dir: tempfile::TempDir,
}

/// Both start at the same time, on an empty etcd.
async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path(), 1).unwrap();
    let options = EtcdOptions { endpoints: etcd.endpoints(), ..EtcdOptions::default() };
    let config = Config {
        service_ranges: CIDR.parse().unwrap(),
        node_ports: PORTS,
        storage: storage::Options { etcd: Some(options), ..storage::Options::default() },
        ..Config::default()
    };
    let (one, two) = tokio::join!(Server::start(config.clone()), Server::start(config));
    World { servers: vec![one.unwrap(), two.unwrap()], _etcd: etcd, _dir: dir }
}

impl World {
    fn client(&self, n: usize) -> Client {
        self.servers[n % 2].client("system:admin", &["system:masters"])
    }

    async fn stop(self) {
        for server in &self.servers {
            server.shutdown().await;
        }
    }
}

fn service(name: &str) -> Service {
    let service =
        json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    serde_json::from_value(service).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_address_and_no_port_is_given_twice() {
    let world = world().await;
    let create = |n: usize| {
        let services: Api<Service> = Api::namespaced(world.client(n), "default");
        async move { services.create(&PostParams::default(), &service(&format!("s{n}"))).await }
    };
    let made: Vec<Service> = futures::stream::iter((0..40).map(create))
        .buffer_unordered(16)
        .try_collect()
        .await
        .unwrap();
    let ips: BTreeSet<_> =
        made.iter().map(|s| s.spec.as_ref().unwrap().cluster_ip.clone().unwrap()).collect();
    let ports: BTreeSet<_> = made
        .iter()
        .map(|s| s.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].node_port.unwrap())
        .collect();
    assert_eq!((ips.len(), ports.len()), (40, 40));

    // Full for both; what one frees the other can have.
    for n in 0..2 {
        assert!(create(40 + n).await.unwrap_err().to_string().contains("range is full"));
    }
    let services: Api<Service> = Api::namespaced(world.client(0), "default");
    let gone = services.get("s7").await.unwrap();
    services.delete("s7", &DeleteParams::default()).await.unwrap();
    let again = create(43).await.unwrap();
    let port =
        |service: &Service| service.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].node_port;
    assert_eq!(port(&again), port(&gone));

    // The claims of the addresses are upstream's objects.
    let store = world.servers[1].core().store();
    let claims = store.range("/registry/networking.k8s.io/ipaddresses/", None).await.unwrap();
    assert_eq!(claims.entries.len(), 41, "40 services and kubernetes");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_writes_the_other_shows_at_once() {
    let world = world().await;
    let maps = |n| Api::<ConfigMap>::namespaced(world.client(n), "default");
    let list = maps(1).list(&ListParams::default()).await.unwrap();
    let version = list.metadata.resource_version.unwrap();
    let mut watch =
        maps(1).watch(&WatchParams::default().timeout(60), &version).await.unwrap().boxed();
    for n in 0..20 {
        let map: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": format!("m{n}")}})).unwrap();
        let made = maps(n).create(&PostParams::default(), &map).await.unwrap();
        // A list without a version is consistent, on whichever server.
        let seen = maps(n + 1).list(&ListParams::default()).await.unwrap();
        assert!(seen.items.iter().any(|m| m.name_any() == made.name_any()), "m{n}");
        let event = tokio::time::timeout(SOON, watch.next()).await.unwrap();
        let Some(Ok(WatchEvent::Added(added))) = event else { panic!("{event:?}") };
        assert_eq!(added.resource_version(), made.resource_version());
        let exact = ListParams::default().at(&made.resource_version().unwrap());
        let exact = exact.matching(kube::api::VersionMatch::NotOlderThan);
        assert!(maps(n + 1).list(&exact).await.unwrap().items.len() > n);
    }
    drop(watch);
    world.stop().await;
}

/// Nothing is concluded from an object that a server's cache still shows and the other has changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_builds_on_what_is_there_and_not_on_what_the_cache_shows() {
    let world = world().await;
    let maps = |n| Api::<ConfigMap>::namespaced(world.client(n), "default");
    let params = PatchParams::default();
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"n": "0"}})).unwrap();
    maps(0).create(&PostParams::default(), &map).await.unwrap();
    for n in 0..50 {
        let (now, next) = (n.to_string(), (n + 1).to_string());
        // Refused by a server that takes the value before for the newest.
        let step = json!([{"op": "test", "path": "/data/n", "value": now},
            {"op": "replace", "path": "/data/n", "value": next}]);
        let patch = json_patch(step);
        let written = maps(n).patch("m", &params, &patch).await.unwrap();
        // Changes nothing, unless the value before is taken for the newest.
        let same = Patch::Merge(json!({"data": {"n": next}}));
        let again = maps(n + 1).patch("m", &params, &same).await.unwrap();
        assert_eq!(again.resource_version(), written.resource_version());
        assert_eq!(again.data.unwrap()["n"], next);
    }
    for n in 0..20 {
        let marked = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/f"]}}));
        maps(n).patch("m", &params, &marked).await.unwrap();
        let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        maps(n).patch("m", &params, &free).await.unwrap();
        // With the finalizer, which is gone, it would stay.
        let deleted = maps(n + 1).delete("m", &DeleteParams::default()).await.unwrap();
        assert!(deleted.right().is_some(), "a Status, not the marked object");
        maps(n + 1).create(&PostParams::default(), &map).await.unwrap();
    }
    world.stop().await;
}

fn json_patch(operations: serde_json::Value) -> Patch<()> {
    Patch::Json(serde_json::from_value(operations).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_made_through_one_is_served_by_the_other() {
    let world = world().await;
    let kind = |group: &str, version: &str, kind: &str| {
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
    };
    let definitions = kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let definitions: Api<DynamicObject> = Api::all_with(world.client(0), &definitions);
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let definition = serde_json::from_value(definition).unwrap();
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    let widgets: Api<DynamicObject> =
        Api::all_with(world.client(1), &kind("example.com", "v1", "Widget"));
    // They are served by the other, too.
    eventually(SOON, async || widgets.list(&ListParams::default()).await).await;
    world.stop().await;
}
