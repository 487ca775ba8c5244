//! What the server says about itself.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use apiserver::testing::TestServer;
use http::Request;
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
