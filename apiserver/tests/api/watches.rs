//! Watches over a plain router: what stands in the stream, byte for byte.

use std::time::Duration;

use apiserver::User;
use apiserver::testing::TestServer;
use axum::body::{Body, BodyDataStream};
use futures::StreamExt as _;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// Sends a request as administrator.
async fn send(server: &TestServer, method: Method, path: &str, body: Value) -> (StatusCode, Body) {
    let request =
        Request::builder().method(method).uri(path).header("content-type", "application/json");
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let mut request = request.body(body).unwrap();
    request.extensions_mut().insert(User::new("system:admin", &["system:masters"]));
    let response = server.server().router().oneshot(request).await.unwrap();
    (response.status(), response.into_body())
}

async fn json_of(body: Body) -> Value {
    serde_json::from_slice(&axum::body::to_bytes(body, usize::MAX).await.unwrap()).unwrap()
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn create(server: &TestServer, name: &str) -> String {
    let object = json!({"metadata": {"name": name, "labels": {"n": name}}});
    let (status, body) = send(server, Method::POST, MAPS, object).await;
    assert_eq!(status, StatusCode::CREATED);
    json_of(body).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

/// Reads whole lines of a watch.
struct Lines {
    stream: BodyDataStream,
    rest: Vec<u8>,
}

impl Lines {
    async fn open(server: &TestServer, query: &str) -> Self {
        let (status, body) =
            send(server, Method::GET, &format!("{MAPS}?watch=1&{query}"), Value::Null).await;
        assert_eq!(status, StatusCode::OK);
        Self { stream: body.into_data_stream(), rest: Vec::new() }
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = tokio::time::timeout(Duration::from_secs(5), self.stream.next())
                .await
                .expect("an event");
            self.rest.extend_from_slice(&chunk?.unwrap());
        }
    }

    async fn summary(&mut self) -> String {
        let event = self.next().await.unwrap();
        let object = &event["object"];
        format!(
            "{} {}",
            event["type"].as_str().unwrap(),
            object["metadata"]["name"].as_str().unwrap_or("-")
        )
    }
}

#[tokio::test]
async fn history_then_news() {
    let server = TestServer::start().await.unwrap();
    let first = create(&server, "a").await;
    create(&server, "b").await;
    let mut watch = Lines::open(&server, &format!("resourceVersion={first}")).await;
    assert_eq!(watch.summary().await, "ADDED b");
    let _ = send(&server, Method::DELETE, &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(watch.summary().await, "DELETED a");
    create(&server, "c").await;
    assert_eq!(watch.summary().await, "ADDED c");
}

#[tokio::test]
async fn the_state_ends_with_a_bookmark() {
    let server = TestServer::start().await.unwrap();
    create(&server, "a").await;
    let newest = create(&server, "b").await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = Lines::open(&server, query).await;
    assert_eq!(watch.summary().await, "ADDED a");
    assert_eq!(watch.summary().await, "ADDED b");
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let at: u64 =
        bookmark["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(at >= newest.parse().unwrap());
    create(&server, "c").await;
    assert_eq!(watch.summary().await, "ADDED c");
}

#[tokio::test]
async fn a_field_selector_watches_one_object() {
    let server = TestServer::start().await.unwrap();
    create(&server, "a").await;
    create(&server, "b").await;
    let mut watch = Lines::open(&server, "fieldSelector=metadata.name%3Db&resourceVersion=0").await;
    assert_eq!(watch.summary().await, "ADDED b");
    let _ = send(&server, Method::DELETE, &format!("{MAPS}/a"), Value::Null).await;
    let _ = send(&server, Method::DELETE, &format!("{MAPS}/b"), Value::Null).await;
    assert_eq!(watch.summary().await, "DELETED b");
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_up() {
    let server = TestServer::start().await.unwrap();
    let mut watch = Lines::open(&server, "timeoutSeconds=1").await;
    // The namespace's own config map may be there; then the stream ends.
    while watch.next().await.is_some() {}
}

#[tokio::test]
async fn a_forgotten_version_is_gone() {
    let server = TestServer::start().await.unwrap();
    for n in 0..3 {
        create(&server, &format!("m{n}")).await;
    }
    // Far more than the cache keeps of the past: its ring holds four megabytes.
    let large = "x".repeat(900_000);
    for n in 0..6 {
        let object = json!({"metadata": {"name": format!("l{n}")}, "data": {"x": large}});
        let _ = send(&server, Method::POST, MAPS, object).await;
    }
    // A list is only answered once the cache has seen all of that.
    let _ = send(&server, Method::GET, MAPS, Value::Null).await;
    let mut watch = Lines::open(&server, "resourceVersion=2").await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(event["object"]["reason"], "Expired");
    assert!(watch.next().await.is_none());
}
