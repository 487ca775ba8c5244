//! Admission webhooks, with a webhook server made here.

use std::sync::Arc;

use apiserver::testing::TestServer;
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode, header};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support;

/// Every question that was asked, with the path it was asked at.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

struct World {
    server: TestServer,
    url: String,
    bundle: String,
    asked: Asked,
}

impl World {
    async fn start() -> Self {
        let server = TestServer::start().await.unwrap();
        let asked = Asked::default();
        let router = Router::new().route("/{*what}", post(hook)).with_state(asked.clone());
        let address = support::serve(&server, &["127.0.0.1", "hook.default.svc"], router).await;
        let bundle = support::bundle(&server);
        Self { url: format!("https://{address}"), bundle, asked, server }
    }

    /// Configures webhooks; each is the path it is served at, and what differs from the usual.
    async fn configure(&self, kind: &str, hooks: &[(&str, Value)]) {
        let hooks: Vec<Value> = hooks.iter().map(|(path, more)| self.hook(path, more)).collect();
        let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
        let api: Api<DynamicObject> =
            Api::all_with(self.server.client(), &ApiResource::from_gvk(&kind));
        let object = json!({"apiVersion": kind.api_version(), "kind": kind.kind,
            "metadata": {"name": "test"}, "webhooks": hooks});
        let object = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    fn hook(&self, path: &str, more: &Value) -> Value {
        let mut hook = json!({
            "name": format!("{}.example.com", path.replace('/', "-")),
            "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 5,
            "clientConfig": {"url": format!("{}/{path}", self.url), "caBundle": self.bundle},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"],
                       "resources": ["configmaps"]}],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            hook[key] = value.clone();
        }
        hook
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.server.client(), "default")
    }

    async fn create(&self, name: &str) -> Result<ConfigMap, kube::Error> {
        self.maps().create(&PostParams::default(), &map(name)).await
    }

    fn asked(&self, path: &str) -> Vec<Value> {
        let asked = self.asked.lock();
        asked.iter().filter(|(at, _)| at == path).map(|(_, review)| review.clone()).collect()
    }
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
}

fn status(error: kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.message.clone()),
        other => panic!("{other}"),
    }
}

/// What a webhook answers depends on its path.
async fn hook(
    State(asked): State<Asked>,
    Path(what): Path<String>,
    Json(review): Json<Value>,
) -> Response<axum::body::Body> {
    asked.lock().push((what.clone(), review.clone()));
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    let patch = |operations: Value| {
        base64::engine::general_purpose::STANDARD.encode(operations.to_string())
    };
    let object = &review["request"]["object"];
    match what.as_str() {
        "deny" => {
            response["allowed"] = false.into();
            response["status"] = json!({"code": 403, "message": "not today"});
            response["warnings"] = json!(["mind the gap"]);
        }
        "warn" => response["warnings"] = json!(["look out"]),
        "slow" => tokio::time::sleep(std::time::Duration::from_secs(30)).await,
        "other-uid" => response["uid"] = "x".into(),
        "redirect" => {
            let builder = Response::builder().status(StatusCode::FOUND);
            let builder = builder.header(header::LOCATION, "/allow");
            return builder.body(axum::body::Body::empty()).unwrap();
        }
        label if label.starts_with("label") => {
            let (_, value) = label.split_once('/').unwrap();
            let labels = match object["metadata"]["labels"].as_object() {
                None => json!([{"op": "add", "path": "/metadata/labels", "value": {value: "1"}}]),
                Some(labels) if labels.contains_key(value) => json!([]),
                Some(_) => {
                    json!([{"op": "add", "path": format!("/metadata/labels/{value}"), "value": "1"}])
                }
            };
            response["patch"] = patch(labels).into();
            response["patchType"] = "JSONPatch".into();
        }
        _ => (),
    }
    let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": response});
    let builder = Response::builder().header(header::CONTENT_TYPE, "application/json");
    builder.body(body.to_string().into()).unwrap()
}

#[tokio::test]
async fn a_webhook_sees_the_request_and_may_refuse_it() {
    let world = World::start().await;
    world.configure("ValidatingWebhookConfiguration", &[("deny", json!({}))]).await;
    let refused = status(world.create("a").await.unwrap_err());
    let expected = "admission webhook \"deny.example.com\" denied the request: not today";
    assert_eq!(refused, (403, expected.to_owned()));
    let review = &world.asked("deny")[0];
    assert_eq!(review["kind"], "AdmissionReview");
    let request = &review["request"];
    assert_eq!(request["operation"], "CREATE");
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(request["resource"]["resource"], "configmaps");
    assert_eq!((&request["name"], &request["namespace"]), (&json!("a"), &json!("default")));
    assert_eq!(request["userInfo"]["username"], "system:admin");
    assert_eq!(request["object"]["metadata"]["name"], "a");
    assert_eq!((&request["oldObject"], &request["dryRun"]), (&Value::Null, &json!(false)));
    assert_eq!(request["options"]["kind"], "CreateOptions");
    // Configurations themselves are never refused, so that they can be repaired.
    let rules = json!({"rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"],
        "resources": ["*"]}]});
    world.configure("MutatingWebhookConfiguration", &[("deny", rules)]).await;
    let kind =
        GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration");
    let api: Api<DynamicObject> =
        Api::all_with(world.server.client(), &ApiResource::from_gvk(&kind));
    api.delete("test", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn updates_and_deletions_show_what_is_stored() {
    let world = World::start().await;
    world.create("a").await.unwrap();
    world.configure("ValidatingWebhookConfiguration", &[("allow", json!({}))]).await;
    let patch = json!({"metadata": {"labels": {"x": "1"}}});
    world.maps().patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    world.maps().delete("a", &DeleteParams::default()).await.unwrap();
    let asked = world.asked("allow");
    let labels = |object: &Value| object["metadata"]["labels"].clone();
    assert_eq!(asked[0]["request"]["operation"], "UPDATE");
    assert_eq!(asked[0]["request"]["options"]["kind"], "PatchOptions");
    assert_eq!(labels(&asked[0]["request"]["object"]), json!({"x": "1"}));
    assert_eq!(labels(&asked[0]["request"]["oldObject"]), Value::Null);
    assert_eq!(asked[1]["request"]["operation"], "DELETE");
    assert_eq!(asked[1]["request"]["object"], Value::Null);
    assert_eq!(labels(&asked[1]["request"]["oldObject"]), json!({"x": "1"}));
}

#[tokio::test]
async fn mutations_build_upon_each_other_and_are_looked_at_again() {
    let world = World::start().await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let hooks = [("label/a", again), ("label/b", json!({}))];
    world.configure("MutatingWebhookConfiguration", &hooks).await;
    let made = world.create("a").await.unwrap();
    let labels: Vec<String> = made.metadata.labels.unwrap().into_keys().collect();
    assert_eq!(labels, ["a", "b"]);
    let (first, second) = (world.asked("label/a"), world.asked("label/b"));
    // The first is asked again after the second's change; the second does not want to be.
    assert_eq!((first.len(), second.len()), (2, 1));
    assert_eq!(second[0]["request"]["object"]["metadata"]["labels"], json!({"a": "1"}));
    let seen = &first[1]["request"]["object"]["metadata"]["labels"];
    assert_eq!(*seen, json!({"a": "1", "b": "1"}));
}

#[tokio::test]
async fn only_what_matches_is_asked_about() {
    let world = World::start().await;
    let labelled = json!({"objectSelector": {"matchLabels": {"x": "1"}}});
    let elsewhere = json!({"namespaceSelector": {"matchLabels": {"team": "a"}}});
    let named = json!({"matchConditions": [
        {"name": "name", "expression": "object.metadata.name == 'a' && request.operation == 'CREATE'"},
        {"name": "right", "expression": "authorizer.group('').resource('pods').check('get').allowed()"}]});
    let hooks = [("marked", labelled), ("elsewhere", elsewhere), ("named", named)];
    world.configure("ValidatingWebhookConfiguration", &hooks).await;
    let spaces: Api<Namespace> = Api::all(world.server.client());
    let space = json!({"metadata": {"name": "other", "labels": {"team": "a"}}});
    spaces.create(&PostParams::default(), &serde_json::from_value(space).unwrap()).await.unwrap();
    world.create("a").await.unwrap();
    world.create("b").await.unwrap();
    let others: Api<ConfigMap> = Api::namespaced(world.server.client(), "other");
    let mut with_label = map("c");
    with_label.metadata.labels = Some([("x".to_owned(), "1".to_owned())].into());
    others.create(&PostParams::default(), &with_label).await.unwrap();
    let names = |path: &str| -> Vec<Value> {
        world.asked(path).iter().map(|review| review["request"]["name"].clone()).collect()
    };
    assert_eq!(names("marked"), ["c"]);
    assert_eq!(names("elsewhere"), ["c"]);
    assert_eq!(names("named"), ["a"]);
}

#[tokio::test]
async fn failures_refuse_or_pass_as_the_policy_says() {
    let world = World::start().await;
    for (path, expected) in [
        ("slow", "context deadline exceeded"),
        ("other-uid", "received invalid webhook response: expected response.uid="),
        ("redirect", "the server responded with the status code 302"),
    ] {
        let hook = json!({"timeoutSeconds": 1});
        let name = format!("{path}.example.com");
        world.configure("ValidatingWebhookConfiguration", &[(path, hook)]).await;
        let (code, message) = status(world.create("a").await.unwrap_err());
        let start = format!("Internal error occurred: failed calling webhook {name:?}: ");
        assert_eq!(code, 500, "{message}");
        assert!(message.starts_with(&start) && message.contains(expected), "{message}");
        let kind = GroupVersionKind::gvk(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingWebhookConfiguration",
        );
        let api: Api<DynamicObject> =
            Api::all_with(world.server.client(), &ApiResource::from_gvk(&kind));
        let open = json!({"webhooks": [{"name": name, "failurePolicy": "Ignore"}]});
        api.patch("test", &PatchParams::default(), &Patch::Strategic(open)).await.unwrap();
        world.create(&format!("passes-{path}")).await.unwrap();
        api.delete("test", &DeleteParams::default()).await.unwrap();
    }
    assert!(world.asked("allow").is_empty(), "a redirect was followed");
}

#[tokio::test]
async fn dry_runs_are_told_to_webhooks() {
    let world = World::start().await;
    let careful = json!({"sideEffects": "NoneOnDryRun"});
    world.configure("ValidatingWebhookConfiguration", &[("careful", careful)]).await;
    let params = PostParams { dry_run: true, ..PostParams::default() };
    world.maps().create(&params, &map("a")).await.unwrap();
    let request = &world.asked("careful")[0]["request"];
    assert_eq!(
        (&request["dryRun"], &request["options"]["dryRun"]),
        (&json!(true), &json!(["All"]))
    );
}

#[tokio::test]
async fn streams_are_connections() {
    let world = World::start().await;
    let exec = json!({"rules": [{"apiGroups": [""], "apiVersions": ["v1"],
        "operations": ["CONNECT"], "resources": ["pods/exec"]}]});
    world.configure("ValidatingWebhookConfiguration", &[("deny", exec)]).await;
    let path = "/api/v1/namespaces/default/pods/p/exec?command=ls&container=c&stdout=true";
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    let (code, _) = status(world.server.client().request::<Value>(request).await.unwrap_err());
    assert_eq!(code, 403);
    let request = &world.asked("deny")[0]["request"];
    assert_eq!(
        (&request["operation"], &request["subResource"]),
        (&json!("CONNECT"), &json!("exec"))
    );
    assert_eq!(request["kind"]["kind"], "PodExecOptions");
    assert_eq!(request["object"]["command"], json!(["ls"]));
}

#[tokio::test]
async fn the_clients_deadline_counts_too() {
    let world = World::start().await;
    world.configure("ValidatingWebhookConfiguration", &[("slow", json!({}))]).await;
    let begun = std::time::Instant::now();
    let request = http::Request::post("/api/v1/namespaces/default/configmaps?timeout=300ms")
        .header(header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(&map("a")).unwrap())
        .unwrap();
    let (code, message) =
        status(world.server.client().request::<Value>(request).await.unwrap_err());
    // Both ends come at the same time: that of the call, and that of the request.
    match code {
        500 => assert!(message.ends_with("context deadline exceeded"), "{message}"),
        code => assert_eq!(code, 504, "{message}"),
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(4));
}

#[tokio::test]
async fn a_service_is_resolved_and_must_have_its_own_certificate() {
    let world = World::start().await;
    let port = world.url.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let services: Api<k8s_openapi::api::core::v1::Service> =
        Api::namespaced(world.server.client(), "default");
    for name in ["hook", "other"] {
        let service = json!({"metadata": {"name": name},
            "spec": {"type": "ExternalName", "externalName": "localhost"}});
        let service = serde_json::from_value(service).unwrap();
        services.create(&PostParams::default(), &service).await.unwrap();
    }
    let at = |name: &str| {
        json!({"clientConfig": {"caBundle": world.bundle, "service": {
            "namespace": "default", "name": name, "path": "/warn", "port": port}}})
    };
    world.configure("MutatingWebhookConfiguration", &[("warn", at("hook"))]).await;
    world.create("a").await.unwrap();
    assert_eq!(world.asked("warn").len(), 1);
    world.configure("ValidatingWebhookConfiguration", &[("stranger", at("other"))]).await;
    let (_, message) = status(world.create("b").await.unwrap_err());
    assert!(message.contains("x509: certificate is valid for"), "{message}");
}
