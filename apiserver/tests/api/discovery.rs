//! What the server says about itself.

use std::io::Read as _;

use apiserver::testing::TestServer;
use http::Request;
use http_body_util::BodyExt as _;
use kube::Client;
use serde_json::Value;

async fn get(client: &Client, path: &str, accept: &str) -> Value {
    let request = Request::get(path).header("accept", accept).body(Vec::new()).expect("a request");
    client.request(request).await.expect("an answer")
}

async fn text(client: &Client, path: &str) -> String {
    client
        .request_text(Request::get(path).body(Vec::new()).expect("a request"))
        .await
        .expect("an answer")
}

#[tokio::test]
async fn clients_find_their_types() {
    let server = TestServer::start().await.unwrap();
    let client = server.client();
    let version = client.apiserver_version().await.unwrap();
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "36"));
    let resources = client.list_core_api_resources("v1").await.unwrap().resources;
    let pods = resources.iter().find(|resource| resource.name == "pods").unwrap();
    assert_eq!(pods.short_names.as_deref(), Some(&["po".to_owned()][..]));
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let document = get(&client, "/apis", aggregated).await;
    assert_eq!(document["kind"], "APIGroupDiscoveryList");
    let names: Vec<&str> = document["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| g["metadata"]["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"rbac.authorization.k8s.io"), "{names:?}");
}

#[tokio::test]
async fn openapi_documents_are_found_by_their_hash() {
    let server = TestServer::start().await.unwrap();
    let client = server.client();
    let index = get(&client, "/openapi/v3", "application/json").await;
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = get(&client, url, "application/json").await;
    let pod = &document["components"]["schemas"]["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["x-kubernetes-group-version-kind"][0]["kind"], "Pod");
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    let parameters = patch["parameters"].as_array().unwrap();
    assert!(parameters.iter().any(|p| p["name"] == "fieldValidation"), "{patch}");
}

/// What an operation is, as `data/openapi-operations.txt.gz` has it, recorded from Kubernetes 1.36.2: path, method,
/// name, action, what it answers, with which codes, and what it takes.
fn operation(path: &str, item: &Value, method: &str) -> String {
    let operation = &item[method];
    let last = |reference: &Value| {
        reference["$ref"]
            .as_str()
            .and_then(|name| name.rsplit('.').next())
            .unwrap_or("text")
            .to_owned()
    };
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let codes: Vec<&str> =
        operation["responses"].as_object().unwrap().keys().map(String::as_str).collect();
    let own = operation["parameters"].as_array().into_iter().flatten();
    let mut takes: Vec<String> = own
        .chain(item["parameters"].as_array().into_iter().flatten())
        .map(|one| match one.get("schema") {
            Some(schema) => format!("body={}", last(schema)),
            None => text(&one["name"]),
        })
        .collect();
    takes.sort();
    let takes = if takes.is_empty() { "-".to_owned() } else { takes.join(",") };
    let (id, action) = (text(&operation["operationId"]), text(&operation["x-kubernetes-action"]));
    let answer = last(&operation["responses"]["200"]["schema"]);
    format!("{path} {method} {id} {action} {answer} {} {takes}", codes.join(","))
}

#[tokio::test]
async fn generators_find_the_operations_of_kubernetes() {
    let server = TestServer::start().await.unwrap();
    let document = get(&server.client(), "/openapi/v2", "application/json").await;
    let mut recorded = String::new();
    let packed = &include_bytes!("data/openapi-operations.txt.gz")[..];
    flate2::read::GzDecoder::new(packed).read_to_string(&mut recorded).unwrap();
    let mut compared = 0;
    for line in recorded.lines() {
        let (path, rest) = line.split_once(' ').unwrap();
        let method = rest.split(' ').next().unwrap();
        // This server hosts its own types alone; the others are CRDs that come with the players.
        let group = path.split('/').take(4).collect::<Vec<_>>().join("/");
        if path.starts_with("/apis/") && document["paths"][format!("{group}/")].is_null() {
            continue;
        }
        assert_eq!(operation(path, &document["paths"][path], method), line);
        compared += 1;
    }
    assert!(compared > 400, "{compared}");
}

#[tokio::test]
async fn go_clients_read_the_second_openapi_as_protobuf() {
    let server = TestServer::start().await.unwrap();
    let protobuf = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let request = Request::get("/openapi/v2").header("accept", protobuf).body(Vec::new()).unwrap();
    let response = server.client().send(request.map(Into::into)).await.unwrap();
    assert_eq!(response.headers()["content-type"], protobuf);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    // `swagger`, the first field, though not the first written.
    assert!(body.windows(5).any(|bytes| bytes == b"\x0a\x032.0"));
}

#[tokio::test]
async fn health_and_metrics_are_told() {
    let server = TestServer::start().await.unwrap();
    let client = server.client();
    assert_eq!(text(&client, "/readyz").await, "ok");
    assert!(text(&client, "/livez?verbose").await.contains("[+]etcd ok"));
    let metrics = text(&client, "/metrics").await;
    assert!(metrics.contains("apiserver_request_total{verb=\"CREATE\""), "{metrics}");
    let anonymous = server.client_as("system:anonymous", &[]);
    assert_eq!(text(&anonymous, "/livez").await, "ok");
    assert!(
        anonymous.request_text(Request::get("/metrics").body(Vec::new()).unwrap()).await.is_err()
    );
}
