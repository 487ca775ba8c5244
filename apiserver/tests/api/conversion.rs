//! A custom type with two versions that a webhook translates.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apiserver::testing::TestServer;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use futures::TryStreamExt as _;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchParams,
};
use kube::core::{ApiResource, GroupVersionKind, WatchEvent};
use serde_json::{Value, json};

use crate::support;

/// v1 has `spec.host` as `name:port`, v2 has two fields.
async fn convert(State(fails): State<Arc<AtomicBool>>, Json(review): Json<Value>) -> Json<Value> {
    let wanted = review["request"]["desiredAPIVersion"].as_str().unwrap();
    let objects = review["request"]["objects"].as_array().unwrap();
    let converted: Vec<Value> = objects.iter().map(|object| translate(object, wanted)).collect();
    let result = match fails.load(Ordering::Relaxed) {
        true => json!({"status": "Failure", "message": "no dictionary"}),
        false => json!({"status": "Success"}),
    };
    Json(json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": {
        "uid": review["request"]["uid"], "result": result, "convertedObjects": converted}}))
}

fn translate(object: &Value, wanted: &str) -> Value {
    let mut object = object.clone();
    let spec = &object["spec"];
    object["spec"] = if wanted.ends_with("/v1") {
        let (name, port) = (spec["name"].as_str().unwrap(), spec["port"].as_str().unwrap());
        json!({"host": format!("{name}:{port}")})
    } else {
        let (name, port) = spec["host"].as_str().unwrap().split_once(':').unwrap();
        json!({"name": name, "port": port})
    };
    object["apiVersion"] = wanted.into();
    object
}

fn definition(url: &str, bundle: &str, stored: &str) -> Value {
    let text = json!({"type": "string"});
    let version = |name: &str, fields: &[&str], spec: Value| {
        let fields: Vec<Value> = fields.iter().map(|path| json!({"jsonPath": path})).collect();
        json!({"name": name, "served": true, "storage": name == stored, "selectableFields": fields,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}})
    };
    let v2 = json!({"type": "object", "properties": {"name": text, "port": text,
        "proto": {"type": "string", "default": "tcp"}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "routes.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "routes", "singular": "route", "kind": "Route", "listKind": "RouteList"},
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1"],
                "clientConfig": {"url": url, "caBundle": bundle}}},
            "versions": [
                version("v1", &[".spec.host"], json!({"type": "object", "properties": {"host": text}})),
                version("v2", &[".spec.name", ".spec.port"], v2)]}})
}

struct World {
    server: TestServer,
    url: String,
    bundle: String,
    fails: Arc<AtomicBool>,
}

impl World {
    async fn start() -> Self {
        let server = TestServer::start().await.unwrap();
        let fails = Arc::new(AtomicBool::new(false));
        let router = Router::new().route("/convert", post(convert)).with_state(fails.clone());
        let address = support::serve(&server, &["127.0.0.1"], router).await;
        let (url, bundle) = (format!("https://{address}/convert"), support::bundle(&server));
        server.install_crds(&definition(&url, &bundle, "v1").to_string()).await.unwrap();
        Self { server, url, bundle, fails }
    }

    fn routes(&self, version: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("example.com", version, "Route");
        let resource = ApiResource::from_gvk_with_plural(&kind, "routes");
        Api::namespaced_with(self.server.client(), "default", &resource)
    }

    async fn create(&self, version: &str, name: &str, spec: Value) -> DynamicObject {
        let object = json!({"apiVersion": format!("example.com/{version}"), "kind": "Route",
            "metadata": {"name": name}, "spec": spec});
        let object = serde_json::from_value(object).unwrap();
        self.routes(version).create(&PostParams::default(), &object).await.unwrap()
    }
}

#[tokio::test]
async fn each_version_is_served_whatever_is_stored() {
    let world = World::start().await;
    let both = json!({"name": "b", "port": "2", "proto": "tcp"});
    world.create("v1", "a", json!({"host": "a:1"})).await;
    let made = world.create("v2", "b", json!({"name": "b", "port": "2"})).await;
    assert_eq!(made.data["spec"], both, "the answer has the version of the request");
    let get = |version: &'static str, name: &'static str| {
        let api = world.routes(version);
        async move { api.get(name).await.unwrap().data["spec"].clone() }
    };
    assert_eq!(get("v1", "b").await, json!({"host": "b:2"}));
    assert_eq!(get("v2", "b").await, both);
    let list = world.routes("v2").list(&ListParams::default()).await.unwrap();
    let specs: Vec<_> = list.items.iter().map(|item| item.data["spec"].clone()).collect();
    assert_eq!(specs, [json!({"name": "a", "port": "1", "proto": "tcp"}), both.clone()]);
    let patch = json!({"spec": {"port": "3"}});
    let patched =
        world.routes("v2").patch("b", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert_eq!(patched.data["spec"]["port"], "3");
    assert_eq!(get("v1", "b").await, json!({"host": "b:3"}));
    // Another storage version: what is stored already is converted the other way.
    let crd = definition(&world.url, &world.bundle, "v2").to_string();
    world.server.install_crds(&crd).await.unwrap();
    world.create("v1", "c", json!({"host": "c:4"})).await;
    assert_eq!(get("v2", "a").await["port"], "1");
    assert_eq!(get("v1", "a").await, json!({"host": "a:1"}));
    assert_eq!(get("v2", "c").await["port"], "4");
    world.routes("v1").delete("c", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn watches_are_converted() {
    let world = World::start().await;
    world.create("v1", "a", json!({"host": "a:1"})).await;
    let params = WatchParams::default();
    let mut events = Box::pin(world.routes("v2").watch(&params, "0").await.unwrap());
    world.create("v1", "b", json!({"host": "b:2"})).await;
    for port in ["1", "2"] {
        match events.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(object) => assert_eq!(object.data["spec"]["port"], port),
            other => panic!("{other:?}"),
        }
    }
    world.fails.store(true, Ordering::Relaxed);
    world.create("v1", "c", json!({"host": "c:3"})).await;
    let broken = events.try_next().await.unwrap().unwrap();
    assert!(matches!(broken, WatchEvent::Error(_)), "{broken:?}");
}

#[tokio::test]
async fn failures_are_told_in_the_webhooks_words() {
    let world = World::start().await;
    world.create("v1", "a", json!({"host": "a:1"})).await;
    world.fails.store(true, Ordering::Relaxed);
    let kube::Error::Api(status) = world.routes("v2").get("a").await.unwrap_err() else {
        panic!("it was refused otherwise")
    };
    let expected = "conversion webhook for example.com/v1, Kind=Route failed: no dictionary";
    assert_eq!((status.code, status.message.as_str()), (500, expected));
    // Where nothing is to be converted, nobody is asked.
    world.routes("v1").get("a").await.unwrap();
}

#[tokio::test]
async fn field_selectors_name_the_fields_of_their_version() {
    let world = World::start().await;
    let named = |name: &str| ListParams::default().fields(&format!("spec.name={name}"));
    let names = async |version, params: &ListParams| -> Vec<String> {
        let list = world.routes(version).list(params).await.unwrap();
        list.items.into_iter().filter_map(|item| item.metadata.name).collect()
    };
    let watched = WatchParams::default().fields("spec.name=web");
    let mut events = Box::pin(world.routes("v2").watch(&watched, "0").await.unwrap());
    world.create("v2", "a", json!({"name": "web", "port": "80"})).await;
    world.create("v1", "b", json!({"host": "web:81"})).await;
    world.create("v1", "c", json!({"host": "db:82"})).await;
    assert_eq!(names("v2", &named("web")).await, ["a", "b"]);
    assert_eq!(
        names("v2", &ListParams::default().fields("spec.name=web,spec.port=81")).await,
        ["b"]
    );
    assert_eq!(names("v1", &ListParams::default().fields("spec.host=db:82")).await, ["c"]);
    assert!(world.routes("v1").list(&named("web")).await.is_err(), "v1 has no such field");

    // What ceases to match looks deleted, as it was.
    let away = Patch::Merge(json!({"spec": {"name": "mail"}}));
    world.routes("v2").patch("b", &PatchParams::default(), &away).await.unwrap();
    world.routes("v2").delete_collection(&DeleteParams::default(), &named("web")).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.push(match events.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(object) => ("added", object.metadata.name.unwrap()),
            WatchEvent::Deleted(object) => {
                assert_eq!(object.data["spec"]["name"], "web");
                ("deleted", object.metadata.name.unwrap())
            }
            other => panic!("{other:?}"),
        });
    }
    let expected = [("added", "a"), ("added", "b"), ("deleted", "b"), ("deleted", "a")];
    assert_eq!(seen, expected.map(|(kind, name)| (kind, name.to_owned())));
    assert_eq!(names("v1", &ListParams::default()).await, ["b", "c"]);
}
