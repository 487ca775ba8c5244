//! Objects through the whole road: written, read, listed, watched and deleted.

use apiserver::testing::TestServer;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::{Error, ResourceExt};
use serde_json::json;

fn map(name: &str, labels: serde_json::Value) -> ConfigMap {
    serde_json::from_value(
        json!({"metadata": {"name": name, "labels": labels}, "data": {"k": "v"}}),
    )
    .unwrap()
}

fn account(name: &str) -> ServiceAccount {
    serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
}

async fn maps(server: &TestServer) -> Api<ConfigMap> {
    Api::namespaced(server.client(), "default")
}

#[tokio::test]
async fn a_map_lives_and_dies() {
    let server = TestServer::start().await.unwrap();
    let maps = maps(&server).await;
    let made = maps.create(&PostParams::default(), &map("a", json!({}))).await.unwrap();
    assert!(
        made.uid().is_some()
            && made.resource_version().is_some()
            && made.creation_timestamp().is_some()
    );
    let again = maps.create(&PostParams::default(), &map("a", json!({}))).await.unwrap_err();
    assert!(matches!(again, Error::Api(s) if s.reason == "AlreadyExists" && s.code == 409));
    let mut read = maps.get("a").await.unwrap();
    read.data.as_mut().unwrap().insert("k2".into(), "v2".into());
    let updated = maps.replace("a", &PostParams::default(), &read).await.unwrap();
    assert_ne!(updated.resource_version(), made.resource_version());
    let stale = maps.replace("a", &PostParams::default(), &read).await.unwrap_err();
    assert!(matches!(stale, Error::Api(s) if s.reason == "Conflict"));
    let patch = Patch::Merge(json!({"data": {"k": null}}));
    let patched = maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.data.unwrap().into_keys().collect::<Vec<_>>(), ["k2"]);
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn generated_names_differ() {
    let server = TestServer::start().await.unwrap();
    let maps = maps(&server).await;
    let mut base = map("", json!({}));
    base.metadata.name = None;
    base.metadata.generate_name = Some("x-".into());
    let a = maps.create(&PostParams::default(), &base).await.unwrap();
    let b = maps.create(&PostParams::default(), &base).await.unwrap();
    assert_ne!(a.name_any(), b.name_any());
    assert_eq!(a.name_any().len(), "x-".len() + 5);
}

#[tokio::test]
async fn pages_show_one_state() {
    let server = TestServer::start().await.unwrap();
    let maps = maps(&server).await;
    for n in 0..5 {
        maps.create(&PostParams::default(), &map(&format!("m{n}"), json!({}))).await.unwrap();
    }
    let mut page = maps.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(page.metadata.remaining_item_count, Some(3));
    maps.delete("m4", &DeleteParams::default()).await.unwrap();
    let mut names: Vec<String> = page.items.iter().map(ResourceExt::name_any).collect();
    while let Some(token) = page.metadata.continue_.filter(|t| !t.is_empty()) {
        page = maps.list(&ListParams::default().limit(2).continue_token(&token)).await.unwrap();
        names.extend(page.items.iter().map(ResourceExt::name_any));
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4"]);
}

#[tokio::test]
async fn who_goes_on_in_the_current_state_learns_its_version() {
    /// After `m0`, in whatever state there is: what a client gets when its own token has expired.
    const TOKEN: &str = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoibTBcdTAwMDAifQ";
    let server = TestServer::start().await.unwrap();
    let maps = maps(&server).await;
    for name in ["m0", "m1"] {
        maps.create(&PostParams::default(), &map(name, json!({}))).await.unwrap();
    }
    let before = maps.list(&ListParams::default().limit(1)).await.unwrap();
    // Only another type changes.
    let accounts: Api<ServiceAccount> = Api::namespaced(server.client(), "default");
    accounts.create(&PostParams::default(), &account("a")).await.unwrap();
    let rest = ListParams::default().limit(1).continue_token(TOKEN);
    let rest = maps.list(&rest).await.unwrap();
    assert_eq!(rest.items[0].name_any(), "m1");
    assert_ne!(rest.metadata.resource_version, before.metadata.resource_version);
}

#[tokio::test]
async fn selectors_see_objects_come_and_go() {
    let server = TestServer::start().await.unwrap();
    let maps = maps(&server).await;
    let from = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    maps.create(&PostParams::default(), &map("a", json!({"s": "off"}))).await.unwrap();
    for value in ["on", "off"] {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"s": value}}}));
        maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    }
    let watched = maps.watch(&WatchParams::default().labels("s=on"), &from).await.unwrap();
    let events: Vec<_> = watched.take(2).try_collect().await.unwrap();
    assert!(matches!(&events[0], WatchEvent::Added(m) if m.name_any() == "a"));
    assert!(matches!(&events[1], WatchEvent::Deleted(m) if m.labels()["s"] == "on"));
}

#[tokio::test]
async fn finalizers_hold() {
    let server = TestServer::start().await.unwrap();
    let maps = maps(&server).await;
    let mut held = map("a", json!({}));
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    maps.create(&PostParams::default(), &held).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(maps.get("a").await.unwrap().metadata.deletion_timestamp.is_some());
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn nobody_is_not_let_in() {
    let server = TestServer::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(server.client_as("jane", &[]), "default");
    let refused = maps.list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(refused, Error::Api(s) if s.code == 403));
}
