//! The collector on a real server, with only its own rights.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::time::{Duration, Instant};

use apiserver::testing::TestServer;
use garbage_collector_controller::PLAYER;
use k8s_openapi::api::core::v1::ConfigMap;
use kit::testing::{Playing, eventually, grant};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

const WIDGETS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object}}
";

struct World {
    server: TestServer,
    maps: Api<ConfigMap>,
    _playing: Playing,
}

impl World {
    async fn new() -> Self {
        let server = TestServer::start().await.expect("a server");
        let user = grant(server.client(), &PLAYER).await.expect("rights");
        let playing = Playing::start(&PLAYER, server.client_as(&user, &[]), "test");
        let maps = Api::namespaced(server.client(), "default");
        Self { server, maps, _playing: playing }
    }

    fn client(&self) -> Client {
        self.server.client()
    }

    async fn create(&self, name: &str, owners: &[(&ConfigMap, bool)], with: Value) -> ConfigMap {
        let mut map = json!({"metadata": {"name": name, "ownerReferences": owners.iter().map(owned).collect::<Vec<_>>()}});
        for (key, value) in with.as_object().into_iter().flatten() {
            map["metadata"][key] = value.clone();
        }
        let map = serde_json::from_value(map).unwrap();
        self.maps.create(&PostParams::default(), &map).await.unwrap()
    }

    async fn is_gone(&self, name: &str) {
        eventually(SOON, async || match self.maps.get_opt(name).await.unwrap() {
            None => Ok(()),
            Some(map) => Err(format!("{name} is there: {:?}", map.metadata)),
        })
        .await;
    }

    async fn names(&self) -> Vec<String> {
        let all = self.maps.list(&Default::default()).await.unwrap();
        let names = all.iter().map(ResourceExt::name_any);
        names.filter(|name| name != "kube-root-ca.crt").collect()
    }
}

fn owned((owner, block): &(&ConfigMap, bool)) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(),
        "blockOwnerDeletion": block})
}

#[tokio::test]
async fn what_lost_its_owner_goes_and_nothing_else() {
    let world = World::new().await;
    let a = world.create("a", &[], json!({})).await;
    let b = world.create("b", &[(&a, false)], json!({})).await;
    world.create("c", &[(&b, false)], json!({})).await;
    let other = world.create("other", &[], json!({})).await;
    let kept = world.create("kept", &[(&a, false), (&other, false)], json!({})).await;
    world.maps.delete("a", &DeleteParams::background()).await.unwrap();
    world.is_gone("b").await;
    world.is_gone("c").await;
    eventually(SOON, async || {
        let kept = world.maps.get(&kept.name_any()).await.unwrap();
        match kept.owner_references() {
            [owner] if owner.name == "other" => Ok(()),
            owners => Err(format!("{owners:?}")),
        }
    })
    .await;
    assert_eq!(world.names().await, ["kept", "other"]);
}

#[tokio::test]
async fn an_owner_that_never_was_is_looked_for_first() {
    let world = World::new().await;
    let mut never = world.create("other", &[], json!({})).await;
    never.metadata.uid = Some("00000000-0000-0000-0000-000000000000".into());
    world.create("b", &[(&never, false)], json!({})).await;
    world.is_gone("b").await;
    assert_eq!(world.names().await, ["other"]);
}

#[tokio::test]
async fn foreground_deletion_waits_for_those_who_block() {
    let world = World::new().await;
    let a = world.create("a", &[], json!({})).await;
    let waits = json!({"finalizers": ["example.com/wait"]});
    world.create("b", &[(&a, true)], waits).await;
    world.maps.delete("a", &DeleteParams::foreground()).await.unwrap();
    eventually(SOON, async || {
        match world.maps.get("b").await.unwrap().metadata.deletion_timestamp {
            Some(_) => Ok(()),
            None => Err("b is not being deleted".to_owned()),
        }
    })
    .await;
    assert!(world.maps.get("a").await.is_ok(), "a waits for b");
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    world.maps.patch("b", &PatchParams::default(), &free).await.unwrap();
    world.is_gone("a").await;
    world.is_gone("b").await;
}

#[tokio::test]
async fn orphans_stay_without_their_owner() {
    let world = World::new().await;
    let a = world.create("a", &[], json!({})).await;
    world.create("b", &[(&a, true)], json!({})).await;
    world.maps.delete("a", &DeleteParams::orphan()).await.unwrap();
    world.is_gone("a").await;
    assert!(world.maps.get("b").await.unwrap().owner_references().is_empty());
}

#[tokio::test]
async fn custom_types_join_as_they_come() {
    let world = World::new().await;
    let a = world.create("a", &[], json!({})).await;
    world.server.install_crds(WIDGETS).await.unwrap();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Widget"));
    let widgets: Api<DynamicObject> = Api::namespaced_with(world.client(), "default", &resource);
    let widget = DynamicObject::new("w", &resource);
    let mut widget = widget.within("default");
    widget.metadata.owner_references =
        Some(vec![serde_json::from_value(owned(&(&a, false))).unwrap()]);
    let widget = widgets.create(&PostParams::default(), &widget).await.unwrap();
    let mut child = json!({"metadata": {"name": "child"}});
    child["metadata"]["ownerReferences"] = json!([{"apiVersion": "example.com/v1", "kind": "Widget",
        "name": "w", "uid": widget.uid()}]);
    world
        .maps
        .create(&PostParams::default(), &serde_json::from_value(child).unwrap())
        .await
        .unwrap();
    world.maps.delete("a", &DeleteParams::background()).await.unwrap();
    world.is_gone("child").await;
    assert!(widgets.get_opt("w").await.unwrap().is_none());
}

#[tokio::test]
async fn a_hundred_dependents_go_quickly() {
    let world = World::new().await;
    let owner = world.create("owner", &[], json!({})).await;
    for i in 0..100 {
        world.create(&format!("d{i}"), &[(&owner, true)], json!({})).await;
    }
    let first = world.create("first", &[(&owner, false)], json!({})).await; // The collector is at work …
    world.maps.delete("owner", &DeleteParams::background()).await.unwrap();
    world.is_gone(&first.name_any()).await;
    let began = Instant::now(); // … and needs no time to start.
    eventually(SOON, async || match world.names().await.len() {
        0 => Ok(()),
        n => Err(format!("{n} are left")),
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(3), "took {:?}", began.elapsed());
}
