//! CustomResourceDefinitions: served as soon as they are answered, gone with their objects.

use std::fmt::Debug;
use std::time::Duration;

use apiserver::testing::TestServer;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kit::testing::eventually;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Error, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);

fn definition() -> CustomResourceDefinition {
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "size": {"type": "integer", "minimum": 1, "default": 3},
            "name": {"type": "string"}}},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}});
    serde_json::from_value(json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": schema,
                 "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.replicas"}}},
                {"name": "v1beta1", "served": true, "storage": false, "deprecated": true, "schema": schema}]}}))
    .unwrap()
}

fn widgets(server: &TestServer, version: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("example.com", version, "Widget");
    Api::namespaced_with(server.client(), "default", &ApiResource::from_gvk(&kind))
}

fn widget(name: &str, spec: Value) -> DynamicObject {
    serde_json::from_value(json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec}))
        .unwrap()
}

async fn with_definition() -> TestServer {
    let server = TestServer::start().await.unwrap();
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client());
    definitions.create(&PostParams::default(), &definition()).await.unwrap();
    server
}

#[tokio::test]
async fn a_new_type_is_served_at_once() {
    let server = with_definition().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client());
    let status = definitions.get("widgets.example.com").await.unwrap().status.unwrap();
    let conditions: Vec<_> =
        status.conditions.unwrap().iter().map(|c| format!("{}={}", c.type_, c.status)).collect();
    assert_eq!(conditions, ["NamesAccepted=True", "Established=True"]);
    let api = widgets(&server, "v1");
    let from = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let made =
        api.create(&PostParams::default(), &widget("w", json!({"name": "x"}))).await.unwrap();
    assert_eq!((&made.data["spec"]["size"], made.metadata.generation), (&json!(3), Some(1)));
    let events: Vec<_> = api
        .watch(&WatchParams::default(), &from)
        .await
        .unwrap()
        .take(1)
        .try_collect()
        .await
        .unwrap();
    assert!(matches!(&events[0], WatchEvent::Added(w) if w.name_any() == "w"));
}

#[tokio::test]
async fn bad_objects_are_refused_and_unknown_fields_go() {
    let server = with_definition().await;
    let api = widgets(&server, "v1");
    let bad =
        api.create(&PostParams::default(), &widget("w", json!({"size": 0}))).await.unwrap_err();
    assert!(
        matches!(&bad, Error::Api(s) if s.code == 422 && s.message.contains("spec.size")),
        "{bad}"
    );
    let made = api.create(&PostParams::default(), &widget("w", json!({"other": 1}))).await.unwrap();
    assert_eq!(made.data["spec"], json!({"size": 3}));
}

#[tokio::test]
async fn what_is_stored_is_shown_as_the_definition_wants_it_today() {
    let server = with_definition().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client());
    let old = widget("old", json!({"size": 1, "name": "x"}));
    widgets(&server, "v1").create(&PostParams::default(), &old).await.unwrap();

    // `name` goes, `color` comes, in the version that is stored.
    let fields =
        json!({"size": {"type": "integer"}, "color": {"type": "string", "default": "red"}});
    let change = json!([{"op": "replace", "value": fields,
        "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties"}]);
    let change: Patch<()> = Patch::Json(serde_json::from_value(change).unwrap());
    definitions.patch("widgets.example.com", &PatchParams::default(), &change).await.unwrap();
    let wanted = json!({"size": 1, "color": "red"});
    let api = widgets(&server, "v1");
    assert_eq!(api.get("old").await.unwrap().data["spec"], wanted);
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items[0].data["spec"], wanted);
    let mut events = Box::pin(api.watch(&WatchParams::default(), "0").await.unwrap());
    let WatchEvent::Added(seen) = events.try_next().await.unwrap().unwrap() else {
        panic!("no first event")
    };
    assert_eq!(seen.data["spec"], wanted);
    let patch = Patch::Merge(json!({"spec": {"size": 2}}));
    let patched = api.patch("old", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.data["spec"], json!({"size": 2, "color": "red"}));

    // A default that came with a write stays when the definition forgets it.
    let change = json!([{"op": "remove",
        "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/color/default"}]);
    let change: Patch<()> = Patch::Json(serde_json::from_value(change).unwrap());
    definitions.patch("widgets.example.com", &PatchParams::default(), &change).await.unwrap();
    assert_eq!(api.get("old").await.unwrap().data["spec"], json!({"size": 2, "color": "red"}));
}

#[tokio::test]
async fn versions_show_the_same_object() {
    let server = with_definition().await;
    widgets(&server, "v1").create(&PostParams::default(), &widget("w", json!({}))).await.unwrap();
    let old = widgets(&server, "v1beta1");
    assert_eq!(old.get("w").await.unwrap().types.unwrap().api_version, "example.com/v1beta1");
    let listed = old.list(&ListParams::default()).await.unwrap();
    assert_eq!(listed.items[0].types.as_ref().unwrap().api_version, "example.com/v1beta1");
}

#[tokio::test]
async fn parts_are_written_apart() {
    let server = with_definition().await;
    let api = widgets(&server, "v1");
    api.create(&PostParams::default(), &widget("w", json!({}))).await.unwrap();
    let patch = Patch::Merge(json!({"spec": {"size": 9}, "status": {"replicas": 2}}));
    let by_status = api.patch_status("w", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(by_status.data, json!({"spec": {"size": 3}, "status": {"replicas": 2}}));
    assert_eq!(by_status.metadata.generation, Some(1));
    let by_main = api
        .patch(
            "w",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"size": 4}, "status": {"replicas": 7}})),
        )
        .await;
    let by_main = by_main.unwrap();
    assert_eq!(by_main.data, json!({"spec": {"size": 4}, "status": {"replicas": 2}}));
    assert_eq!(by_main.metadata.generation, Some(2));
    let scale = api
        .patch_scale("w", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 6}})))
        .await
        .unwrap();
    assert_eq!((scale.spec.unwrap().replicas, scale.status.unwrap().replicas), (Some(6), 2));
    assert_eq!(api.get("w").await.unwrap().data["spec"]["size"], 6);
}

#[tokio::test]
async fn a_deleted_type_takes_its_objects_along() {
    let server = with_definition().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client());
    let api = widgets(&server, "v1");
    let mut held = widget("held", json!({}));
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    api.create(&PostParams::default(), &held).await.unwrap();
    api.create(&PostParams::default(), &widget("free", json!({}))).await.unwrap();
    definitions.delete("widgets.example.com", &DeleteParams::default()).await.unwrap();
    is_gone(&api, "free").await;
    assert!(definitions.get_opt("widgets.example.com").await.unwrap().is_some());
    api.patch(
        "held",
        &PatchParams::default(),
        &Patch::Merge(json!({"metadata": {"finalizers": null}})),
    )
    .await
    .unwrap();
    is_gone(&definitions, "widgets.example.com").await;
    let gone = api.list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(gone, Error::Api(s) if s.code == 404));
    // The name is free again, and nothing of the old objects is left.
    definitions.create(&PostParams::default(), &definition()).await.unwrap();
    assert!(api.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn names_are_not_shared() {
    let server = with_definition().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client());
    let mut other = definition();
    other.metadata.name = Some("gadgets.example.com".into());
    other.spec.names.plural = "gadgets".into();
    definitions.create(&PostParams::default(), &other).await.unwrap();
    let status = definitions.get("gadgets.example.com").await.unwrap().status.unwrap();
    assert!(status.conditions.unwrap().iter().all(|c| c.status == "False"));
}

async fn is_gone<K: Clone + DeserializeOwned + Debug>(api: &Api<K>, name: &str) {
    eventually(SOON, async || match api.get_opt(name).await.unwrap() {
        None => Ok(()),
        Some(_) => Err(format!("{name} is still there")),
    })
    .await;
}
