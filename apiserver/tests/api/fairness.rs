//! Priority and fairness on a whole server: who waits, who is refused, and what is told about it.

use std::time::Duration;

use apiserver::User;
use apiserver::testing::TestServer;
use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, Response, header};
use kit::testing::eventually;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::ServiceExt as _;

const SOON: Duration = Duration::from_secs(10);
const API: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn answer(server: &TestServer, user: User, mut request: Request<Body>) -> Response<Body> {
    request.extensions_mut().insert(user);
    server.server().router().oneshot(request).await.unwrap()
}

fn request(method: Method, path: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    request.header(header::CONTENT_TYPE, "application/json").body(body.into()).unwrap()
}

fn admin() -> User {
    User::new("system:admin", &["system:masters"])
}

/// Somebody who may do everything, and is not exempt.
fn greedy() -> User {
    User::new("greedy", &["greedy"])
}

async fn text(response: Response<Body>) -> String {
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

async fn send(server: &TestServer, method: Method, path: &str, body: Value) -> Value {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let response = answer(server, admin(), request(method.clone(), path, body)).await;
    let ok = response.status().is_success();
    let text = text(response).await;
    assert!(ok, "{method} {path}: {text}");
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// A server on which `greedy` may everything, at a level of its own with one seat.
async fn server(limit_response: Value) -> TestServer {
    let server = TestServer::start().await.unwrap();
    let binding = json!({
        "metadata": { "name": "greedy" },
        "subjects": [{ "kind": "Group", "name": "greedy", "apiGroup": "rbac.authorization.k8s.io" }],
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
    });
    send(&server, Method::POST, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
        .await;
    let level = json!({
        "metadata": { "name": "narrow" },
        "spec": { "type": "Limited", "limited": {
            "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": limit_response,
        } },
    });
    send(&server, Method::POST, &format!("{API}/prioritylevelconfigurations"), level).await;
    let schema = json!({
        "metadata": { "name": "greedy" },
        "spec": {
            "priorityLevelConfiguration": { "name": "narrow" }, "matchingPrecedence": 10,
            "distinguisherMethod": { "type": "ByUser" },
            "rules": [{
                "subjects": [{ "kind": "Group", "group": { "name": "greedy" } }],
                "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"] }],
            }],
        },
    });
    send(&server, Method::POST, &format!("{API}/flowschemas"), schema).await;
    until(&server, "narrow is followed", async |server| {
        send(
            server,
            Method::GET,
            "/debug/api_priority_and_fairness/dump_priority_levels",
            Value::Null,
        )
        .await
        .as_str()
        .unwrap()
        .contains("narrow,")
    })
    .await;
    server
}

async fn until(server: &TestServer, what: &str, holds: impl AsyncFn(&TestServer) -> bool) {
    eventually(SOON, async || if holds(server).await { Ok(()) } else { Err(what) }).await;
}

/// A request that holds its seat until its body is sent.
struct Slow {
    body: mpsc::Sender<Bytes>,
    answer: tokio::task::JoinHandle<Response<Body>>,
}

impl Slow {
    fn start(server: &TestServer, user: User) -> Self {
        let (body, mut rest) = mpsc::channel::<Bytes>(1);
        let stream = futures::stream::poll_fn(move |task| rest.poll_recv(task));
        let stream = futures::StreamExt::map(stream, Ok::<_, std::convert::Infallible>);
        let mut request = request(Method::POST, MAPS, Body::from_stream(stream));
        request.extensions_mut().insert(user);
        let router = server.server().router();
        let answer = tokio::spawn(async move { router.oneshot(request).await.unwrap() });
        Self { body, answer }
    }

    async fn finish(self, name: &str) -> Response<Body> {
        let object = json!({ "metadata": { "name": name } });
        self.body.send(object.to_string().into()).await.unwrap();
        drop(self.body);
        self.answer.await.unwrap()
    }
}

/// A row of the table of priority levels: active queues, …, waiting, executing, dispatched, rejected, ….
async fn row(server: &TestServer, level: &str) -> Vec<String> {
    let path = "/debug/api_priority_and_fairness/dump_priority_levels";
    let table = send(server, Method::GET, path, Value::Null).await;
    let line = table.as_str().unwrap().lines().find(|line| line.starts_with(&format!("{level},")));
    line.unwrap().split(',').map(|cell| cell.trim().to_owned()).collect()
}

#[tokio::test]
async fn a_full_level_refuses_and_says_when_to_come_back() {
    let server = server(json!({ "type": "Reject" })).await;
    let slow = Slow::start(&server, greedy());
    until(&server, "the first one runs", async |s| row(s, "narrow").await[5] == "1").await;
    let refused = answer(&server, greedy(), request(Method::GET, MAPS, Body::empty())).await;
    assert_eq!(refused.status().as_u16(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["content-type"], "text/plain; charset=utf-8");
    let level = send(
        &server,
        Method::GET,
        &format!("{API}/prioritylevelconfigurations/narrow"),
        Value::Null,
    )
    .await;
    let schema =
        send(&server, Method::GET, &format!("{API}/flowschemas/greedy"), Value::Null).await;
    let uid = |object: &Value| object["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(refused.headers()["x-kubernetes-pf-prioritylevel-uid"], uid(&level));
    assert_eq!(refused.headers()["x-kubernetes-pf-flowschema-uid"], uid(&schema));
    assert_eq!(text(refused).await, "Too many requests, please try again later.\n");
    // Others do not notice.
    let other =
        answer(&server, User::new("jane", &[]), request(Method::GET, "/version", Body::empty()))
            .await;
    assert_eq!(other.status().as_u16(), 200);
    assert_eq!(slow.finish("a").await.status().as_u16(), 201);
    let allowed = answer(&server, greedy(), request(Method::GET, MAPS, Body::empty())).await;
    assert_eq!(allowed.status().as_u16(), 200);
    let metrics = send(&server, Method::GET, "/metrics", Value::Null).await;
    let rejected = "apiserver_flowcontrol_rejected_requests_total{priority_level=\"narrow\",flow_schema=\"greedy\",reason=\"concurrency-limit\"} 1";
    assert!(metrics.as_str().unwrap().contains(rejected));
}

#[tokio::test]
async fn a_full_level_with_queues_lets_wait_and_then_run() {
    let queuing = json!({ "queues": 1, "handSize": 1, "queueLengthLimit": 1 });
    let server = server(json!({ "type": "Queue", "queuing": queuing })).await;
    let first = Slow::start(&server, greedy());
    until(&server, "the first one runs", async |s| row(s, "narrow").await[5] == "1").await;
    let second = Slow::start(&server, greedy());
    until(&server, "the second one waits", async |s| row(s, "narrow").await[4] == "1").await;
    let third = answer(&server, greedy(), request(Method::GET, MAPS, Body::empty())).await;
    assert_eq!(third.status().as_u16(), 429);
    assert_eq!(first.finish("a").await.status().as_u16(), 201);
    assert_eq!(second.finish("b").await.status().as_u16(), 201);
    let cells = row(&server, "narrow").await;
    assert_eq!(cells[2..8], ["true", "false", "0", "0", "2", "1"], "{cells:?}");
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_the_queue() {
    let queuing = json!({ "queues": 1, "handSize": 1, "queueLengthLimit": 10 });
    let server = server(json!({ "type": "Queue", "queuing": queuing })).await;
    let first = Slow::start(&server, greedy());
    until(&server, "the first one runs", async |s| row(s, "narrow").await[5] == "1").await;
    let second = Slow::start(&server, greedy());
    until(&server, "the second one waits", async |s| row(s, "narrow").await[4] == "1").await;
    second.answer.abort();
    until(&server, "the second one is gone", async |s| row(s, "narrow").await[4] == "0").await;
    // The first one's client goes, too, and its seat is free.
    first.answer.abort();
    until(&server, "the seat is free", async |s| row(s, "narrow").await[5] == "0").await;
    let cells = row(&server, "narrow").await;
    assert_eq!(cells[9], "1", "{cells:?}");
}

#[tokio::test]
async fn a_watch_takes_a_seat_only_until_its_state_is_sent() {
    let server = server(json!({ "type": "Reject" })).await;
    let path = format!("{MAPS}?watch=1");
    let watch = answer(&server, greedy(), request(Method::GET, &path, Body::empty())).await;
    assert_eq!(watch.status().as_u16(), 200);
    assert_eq!(row(&server, "narrow").await[5], "1");
    let mut frames = watch.into_body().into_data_stream();
    let object = json!({ "metadata": { "name": "new" } });
    send(&server, Method::POST, MAPS, object).await;
    let mut read = String::new();
    while !read.contains("\"new\"") {
        let frame = futures::StreamExt::next(&mut frames).await.unwrap().unwrap();
        read.push_str(std::str::from_utf8(&frame).unwrap());
    }
    until(&server, "the seat is free", async |s| row(s, "narrow").await[5] == "0").await;
}

#[tokio::test]
async fn schemas_say_whether_their_level_exists() {
    let server = server(json!({ "type": "Reject" })).await;
    let condition = async |server: &TestServer| {
        let path = format!("{API}/flowschemas/greedy");
        let schema = send(server, Method::GET, &path, Value::Null).await;
        let condition = &schema["status"]["conditions"][0];
        format!(
            "{} {}",
            condition["status"].as_str().unwrap_or_default(),
            condition["reason"].as_str().unwrap_or_default()
        )
    };
    until(&server, "found", async |s| condition(s).await == "False Found").await;
    send(
        &server,
        Method::DELETE,
        &format!("{API}/prioritylevelconfigurations/narrow"),
        Value::Null,
    )
    .await;
    until(&server, "dangling", async |s| condition(s).await == "True NotFound").await;
    // Its requests fall under the next schema that matches.
    let response = answer(&server, greedy(), request(Method::GET, MAPS, Body::empty())).await;
    let schema =
        send(&server, Method::GET, &format!("{API}/flowschemas/global-default"), Value::Null).await;
    assert_eq!(
        response.headers()["x-kubernetes-pf-flowschema-uid"],
        schema["metadata"]["uid"].as_str().unwrap()
    );
}

#[tokio::test]
async fn recorded_objects_come_back() {
    let server = TestServer::start().await.unwrap();
    let path = format!("{API}/flowschemas/catch-all");
    send(&server, Method::DELETE, &path, Value::Null).await;
    apiserver::bootstrap::ensure_group(server.server(), "flowcontrol.apiserver.k8s.io")
        .await
        .unwrap();
    let schema = send(&server, Method::GET, &path, Value::Null).await;
    assert_eq!(schema["spec"]["matchingPrecedence"], 10_000);
}

#[tokio::test]
async fn without_priorities_two_plain_limits_hold() {
    let server = TestServer::builder()
        .configure(|config| {
            config.fairness.enabled = false;
            config.fairness.max_mutating_requests = 1;
        })
        .start()
        .await
        .unwrap();
    let slow = Slow::start(&server, admin());
    let jane = || User::new("jane", &[]);
    until(&server, "it is full", async |s| {
        let response = answer(s, jane(), request(Method::POST, MAPS, "{}")).await;
        response.status().as_u16() == 429
    })
    .await;
    // Reading has a limit of its own; masters are let through; then it is as before.
    assert_eq!(
        answer(&server, jane(), request(Method::GET, MAPS, Body::empty())).await.status().as_u16(),
        403
    );
    let object = json!({ "metadata": { "name": "m" } });
    send(&server, Method::POST, MAPS, object).await;
    assert_eq!(slow.finish("a").await.status().as_u16(), 201);
    let response = answer(&server, jane(), request(Method::POST, MAPS, "{}")).await;
    assert_eq!(response.status().as_u16(), 403);
}
