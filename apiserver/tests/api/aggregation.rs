//! API servers behind this one; a small one is made here.

use std::time::Duration;

use apiserver::Config;
use apiserver::identity::Pki;
use apiserver::identity::pki::ServerNames;
use apiserver::testing::TestServer;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use kit::testing::eventually;
use serde_json::{Value, json};

use crate::support::{self, Shown};

const SOON: Duration = Duration::from_secs(10);

/// Serves `metrics.example.com/v1`: documents, an echo of who asks, a stream, a redirect and an upgrade.
fn backend() -> Router {
    let list = || async {
        Json(json!({"kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": "metrics.example.com/v1", "resources": [
                {"name": "things", "singularName": "thing", "namespaced": false, "kind": "Thing",
                 "verbs": ["get", "list"]}]}))
    };
    let index = || async {
        let url = "/openapi/v3/apis/metrics.example.com/v1?hash=ABC";
        Json(json!({"paths": {"apis/metrics.example.com/v1": {"serverRelativeURL": url}}}))
    };
    let document = || async { Json(json!({"openapi": "3.0.0", "info": {"title": "theirs"}})) };
    let swagger = || async {
        Json(json!({"swagger": "2.0", "paths": {"/apis/metrics.example.com/v1/things": {}},
            "definitions": {"com.example.Thing": {"type": "object"}}}))
    };
    let moved = || async { (StatusCode::FOUND, [(header::LOCATION, "http://169.254.169.254/")]) };
    Router::new()
        .route("/apis/metrics.example.com/v1", get(list))
        .route("/openapi/v3", get(index))
        .route("/openapi/v3/apis/metrics.example.com/v1", get(document))
        .route("/openapi/v2", get(swagger))
        .route("/apis/metrics.example.com/v1/things/who", get(who))
        .route("/apis/metrics.example.com/v1/things/moved", get(moved))
        .route("/apis/metrics.example.com/v1/things/upgrade", get(upgrade))
}

async fn who(headers: HeaderMap, Extension(Shown(chain)): Extension<Shown>) -> Json<Value> {
    let (_, certificate) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    let all = |name: &str| -> Vec<&str> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    };
    Json(json!({
        "vouched": certificate.subject().to_string(),
        "user": all("x-remote-user"),
        "groups": all("x-remote-group"),
        "authorization": all("authorization"),
        "extra": all("x-remote-extra-forged"),
    }))
}

async fn upgrade(mut request: Request) -> Response {
    let switched = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = hyper_util::rt::TokioIo::new(switched.await.unwrap());
        let (mut read, mut write) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "echo")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn send(
    client: &kube::Client,
    path: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, HeaderMap, Vec<u8>) {
    use futures::TryStreamExt as _;
    use http_body_util::BodyExt as _;
    let mut request = http::Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client.send(request.body(Vec::new().into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.into_data_stream().try_fold(Vec::new(), |mut all, chunk| async move {
        all.extend_from_slice(&chunk);
        Ok(all)
    });
    (parts.status, parts.headers, body.await.unwrap())
}

async fn get_json(client: &kube::Client, path: &str) -> Value {
    let (_, _, body) = send(client, path, &[]).await;
    serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into())
}

async fn post(client: &kube::Client, path: &str, object: Value) {
    let request = http::Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())
        .unwrap();
    client.request::<Value>(request).await.unwrap();
}

/// Starts both servers and waits until the one behind is available.
async fn start() -> (TestServer, kube::Client) {
    start_with(|_| ()).await
}

async fn start_with(change: impl FnOnce(&mut Config)) -> (TestServer, kube::Client) {
    let server = TestServer::builder().configure(change).start().await.unwrap();
    let address = support::serve(&server, &["metrics.default.svc"], backend()).await;
    let client = server.client();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "metrics"},
        "spec": {"type": "ExternalName", "externalName": "localhost"}});
    post(&client, "/api/v1/namespaces/default/services", service).await;
    let api = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.metrics.example.com"},
        "spec": {"group": "metrics.example.com", "version": "v1", "groupPriorityMinimum": 100,
            "versionPriority": 100, "caBundle": support::bundle(&server),
            "service": {"namespace": "default", "name": "metrics", "port": address.port()}}});
    post(&client, "/apis/apiregistration.k8s.io/v1/apiservices", api).await;
    let path = "/apis/apiregistration.k8s.io/v1/apiservices/v1.metrics.example.com";
    eventually(SOON, async || {
        let object = get_json(&client, path).await;
        let condition = &object["status"]["conditions"][0];
        if condition["status"] != "True" {
            return Err(object);
        }
        assert_eq!(condition["reason"], "Passed");
        Ok(())
    })
    .await;
    (server, client)
}

#[tokio::test]
async fn the_user_travels_and_cannot_be_forged() {
    let (server, _) = start().await;
    let jane = server.client_as("jane", &["dev"]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "things"}, "rules": [
            {"apiGroups": ["metrics.example.com"], "resources": ["*"], "verbs": ["*"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    post(&server.client(), &format!("{rbac}/clusterroles"), role).await;
    let path = "/apis/metrics.example.com/v1/things/who";
    assert_eq!(send(&jane, path, &[]).await.0, StatusCode::FORBIDDEN);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "things"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "things"},
        "subjects": [{"kind": "Group", "name": "dev", "apiGroup": "rbac.authorization.k8s.io"}]});
    post(&server.client(), &format!("{rbac}/clusterrolebindings"), binding).await;
    let forged = [
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
        ("x-remote-extra-forged", "1"),
    ];
    let (status, _, body) = send(&jane, path, &forged).await;
    assert_eq!(status, StatusCode::OK);
    let seen: Value = serde_json::from_slice(&body).unwrap();
    let expected = json!({"vouched": "CN=front-proxy-client", "user": ["jane"],
        "groups": ["dev", "system:authenticated"], "authorization": [], "extra": []});
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn the_server_shows_the_certificate_that_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["proxy.crt", "proxy.key"].map(|name| folder.path().join(name));
    let pki = Pki::open(None, &ServerNames::default()).unwrap();
    let write = |name: &str| {
        let made = pki.client_cert(name, &[]).unwrap();
        std::fs::write(&files[1], made.key).unwrap();
        std::fs::write(&files[0], made.certificate).unwrap();
    };
    write("one");
    let (_server, client) = start_with(|config| {
        let [certificate, key] = files.clone();
        config.identity.request_header.client = Some((certificate, key));
        config.identity.reload_every = Duration::from_millis(20);
    })
    .await;
    let path = "/apis/metrics.example.com/v1/things/who";
    assert_eq!(get_json(&client, path).await["vouched"], "CN=one");
    write("two");
    eventually(SOON, async || {
        let vouched = get_json(&client, path).await["vouched"].clone();
        if vouched == "CN=two" { Ok(()) } else { Err(vouched) }
    })
    .await;
}

#[tokio::test]
async fn redirects_stay_here_and_upgrades_pass() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (_server, client) = start().await;
    let (status, headers, _) =
        send(&client, "/apis/metrics.example.com/v1/things/moved", &[]).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(!headers.contains_key(header::LOCATION));
    let request = http::Request::get("/apis/metrics.example.com/v1/things/upgrade")
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "echo");
    let response = client.send(request.body(Vec::new().into()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let stream = hyper::upgrade::on(response).await.unwrap();
    let mut stream = hyper_util::rt::TokioIo::new(stream);
    stream.write_all(b"hello").await.unwrap();
    let mut echoed = [0; 5];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"hello");
}

#[tokio::test]
async fn documents_show_what_is_served_elsewhere() {
    let (_server, client) = start().await;
    let list = get_json(&client, "/apis/metrics.example.com/v1").await;
    assert_eq!(list["resources"][0]["name"], "things");
    let group = get_json(&client, "/apis/metrics.example.com").await;
    assert_eq!(group["preferredVersion"]["groupVersion"], "metrics.example.com/v1");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let found = eventually(SOON, async || {
        let (_, _, body) = send(&client, "/apis", &[("accept", accept)]).await;
        let all: Value = serde_json::from_slice(&body).unwrap();
        let mut groups = all["items"].as_array().unwrap().iter();
        let group = groups.find(|g| g["metadata"]["name"] == "metrics.example.com");
        let has_things = |g: &&Value| g["versions"][0]["resources"][0]["resource"] == "things";
        group.filter(has_things).cloned().ok_or(all.clone())
    })
    .await;
    assert_eq!(found["versions"][0]["freshness"], "Current");
    let index = get_json(&client, "/openapi/v3").await;
    let url = &index["paths"]["apis/metrics.example.com/v1"]["serverRelativeURL"];
    assert_eq!(url, "/openapi/v3/apis/metrics.example.com/v1?hash=ABC");
    assert_eq!(get_json(&client, url.as_str().unwrap()).await["info"]["title"], "theirs");
    let all = get_json(&client, "/openapi/v2").await;
    assert!(all["paths"]["/apis/metrics.example.com/v1/things"].is_object());
    assert!(all["definitions"]["com.example.Thing"].is_object());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_to_be_unavailable() {
    let server = TestServer::start().await.unwrap();
    let client = server.client();
    let api = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.gone.example.com"},
        "spec": {"group": "gone.example.com", "version": "v1", "groupPriorityMinimum": 100,
            "versionPriority": 100, "insecureSkipTLSVerify": true,
            "service": {"namespace": "default", "name": "gone"}}});
    post(&client, "/apis/apiregistration.k8s.io/v1/apiservices", api).await;
    let path = "/apis/apiregistration.k8s.io/v1/apiservices/v1.gone.example.com";
    let reason = eventually(SOON, async || {
        let object = get_json(&client, path).await;
        object["status"]["conditions"][0]["reason"].as_str().map(str::to_owned).ok_or(object)
    })
    .await;
    assert_eq!(reason, "ServiceNotFound");
    // Conditions of others stay when that changes.
    let other = json!({"status": {"conditions": [{"type": "Other", "status": "True"}]}});
    let request = http::Request::patch(format!("{path}/status"))
        .header(header::CONTENT_TYPE, "application/strategic-merge-patch+json")
        .body(other.to_string().into_bytes())
        .unwrap();
    client.request::<Value>(request).await.unwrap();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "gone"},
        "spec": {"ports": [{"port": 443}]}});
    post(&client, "/api/v1/namespaces/default/services", service).await;
    let conditions = eventually(SOON, async || {
        let object = get_json(&client, path).await;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ours = conditions.iter().find(|one| one["type"] == "Available");
        let is_other = ours.is_some_and(|ours| ours["reason"] != "ServiceNotFound");
        if is_other { Ok(conditions) } else { Err(object) }
    })
    .await;
    assert!(conditions.iter().any(|one| one["type"] == "Other"), "{conditions:?}");
    let (status, headers, body) = send(&client, "/apis/gone.example.com/v1/x", &[]).await;
    assert_eq!(
        (status, body.as_slice()),
        (StatusCode::SERVICE_UNAVAILABLE, &b"service unavailable\n"[..])
    );
    assert_eq!(headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");
}
