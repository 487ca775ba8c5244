//! Shared reflectors on a real server.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::{collections::BTreeMap, time::Duration};

use apiserver::testing::TestServer;
use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::ConfigMap,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kit::{Change, Reflector, Reflectors, Writes, testing::eventually};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(5);

fn map(name: &str) -> ConfigMap {
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "ConfigMap".into(),
        name: "owner".into(),
        uid: "owner-uid".into(),
        controller: Some(true),
        ..OwnerReference::default()
    };
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some(BTreeMap::from([("color".to_owned(), "red".to_owned())])),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

fn render(change: &Change<ConfigMap>) -> String {
    match change {
        Change::Applied { object, previous: None } => format!("new {}", object.name_any()),
        Change::Applied { object, previous: Some(_) } => format!("changed {}", object.name_any()),
        Change::Deleted(object) => format!("deleted {}", object.name_any()),
    }
}

#[tokio::test]
async fn the_first_list_wakes_everyone_who_waits() {
    let server = TestServer::start().await.unwrap();
    let maps: Reflector<ConfigMap> = Reflectors::new(server.client()).get();
    let waiting = (0..8).map(|_| {
        let maps = maps.clone();
        tokio::spawn(async move { maps.ready().await })
    });
    let all = tokio::time::timeout(SOON, futures::future::join_all(waiting)).await.unwrap();
    assert!(all.into_iter().all(|waited| waited.unwrap().is_ok()));
}

#[tokio::test]
async fn changes_are_complete_and_indexes_follow() {
    let server = TestServer::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let create = async |name| maps.create(&PostParams::default(), &map(name)).await.unwrap();
    create("a").await;
    let reflectors = Reflectors::new(server.client());
    let reflector: Reflector<ConfigMap> = reflectors.get();
    reflector.ready().await.unwrap();
    let mut changes = std::pin::pin!(reflector.changes().filter(|change| {
        let ours = change.object().namespace().as_deref() == Some("default")
            && change.object().name_any().len() == 1;
        std::future::ready(ours)
    }));
    let mut touched = std::pin::pin!(
        reflector.touched().filter(|object| { std::future::ready(object.name_any() == "b") })
    );
    create("b").await;
    let green = Patch::Merge(json!({ "metadata": { "labels": { "color": "green" } } }));
    maps.patch("b", &PatchParams::default(), &green).await.unwrap();
    maps.delete("b", &DeleteParams::default()).await.unwrap();

    let mut seen = Vec::new();
    while seen.len() < 4 {
        let change = tokio::time::timeout(SOON, changes.next()).await.expect("a change is missing");
        seen.push(render(&change.unwrap()));
    }
    assert_eq!(seen, ["new a", "new b", "changed b", "deleted b"]);
    let mut colors = Vec::new();
    while colors.len() < 4 {
        let object =
            tokio::time::timeout(SOON, touched.next()).await.expect("a state is missing").unwrap();
        colors.push(object.labels().get("color").unwrap().clone());
    }
    // The change of labels brings the state before as well, for who has just lost the object.
    assert_eq!(colors, ["red", "red", "green", "green"]);

    let children = reflector.controlled_by("owner-uid");
    assert_eq!(children.iter().map(|map| map.name_any()).collect::<Vec<_>>(), ["a"]);
    assert!(reflector.get(Some("default"), "a").unwrap().metadata.managed_fields.is_none());
    assert!(reflector.get(Some("default"), "b").is_none());
    assert!(reflector.controlled_by("nobody").is_empty());
}

#[tokio::test]
async fn one_reflector_a_type_that_ends_with_its_last_user() {
    let server = TestServer::start().await.unwrap();
    let reflectors = Reflectors::new(server.client());
    let (a, b) = (reflectors.get::<ConfigMap>(), reflectors.get::<ConfigMap>());
    a.ready().await.unwrap();
    let before = b.revision();
    drop((a, b));
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    maps.create(&PostParams::default(), &map("c")).await.unwrap();
    let again = reflectors.get::<ConfigMap>();
    assert_eq!(again.revision(), 0, "the dropped one still runs (it was at {before})");
    again.ready().await.unwrap();
    assert!(again.get(Some("default"), "c").is_some());
}

#[tokio::test]
async fn writes_are_awaited_even_if_the_object_is_gone_again() {
    let server = TestServer::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let reflectors = Reflectors::new(server.client());
    let reflector: Reflector<ConfigMap> = reflectors.get();
    reflector.ready().await.unwrap();
    let writes = Writes::new(reflector.clone());
    assert!(writes.seen_by_cache("rs"));
    let created = maps.create(&PostParams::default(), &map("d")).await.unwrap();
    writes.wrote("rs", &created);
    let seen =
        async |owner| if writes.seen_by_cache(owner) { Ok(()) } else { Err("not seen".to_owned()) };
    eventually(SOON, || seen("rs")).await;
    assert!(reflector.get(Some("default"), "d").is_some());

    let created = maps.create(&PostParams::default(), &map("e")).await.unwrap();
    maps.delete("e", &DeleteParams::default()).await.unwrap();
    writes.wrote("rs", &created);
    writes.deleted("rs", &created);
    eventually(SOON, || seen("rs")).await;
}
