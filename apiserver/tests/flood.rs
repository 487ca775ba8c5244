//! A flood of lists, with node heartbeats that must not notice.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use apiserver::User;
use apiserver::testing::TestServer;
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use futures::StreamExt as _;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const OBJECTS: usize = 3000;
const CLIENTS: usize = 200;
const NODES: usize = 20;
const LENGTH: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(200);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

async fn request(
    router: &Router,
    user: &User,
    method: Method,
    path: &str,
    body: &Value,
) -> Response {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let request = Request::builder().method(method).uri(path);
    let mut request = request.header("content-type", "application/json").body(body).unwrap();
    request.extensions_mut().insert(user.clone());
    router.clone().oneshot(request).await.unwrap()
}

/// Sends a request and reads the whole answer without keeping it; answers its code and length.
async fn send(
    router: &Router,
    user: &User,
    method: Method,
    path: &str,
    body: &Value,
) -> (StatusCode, usize) {
    let response = request(router, user, method, path, body).await;
    let status = response.status();
    let mut stream = response.into_body().into_data_stream();
    let mut length = 0;
    while let Some(Ok(chunk)) = stream.next().await {
        length += chunk.len();
    }
    (status, length)
}

async fn prepare(router: &Router, admin: &User) {
    let binding = json!({
        "metadata": { "name": "flood" },
        "subjects": [{ "kind": "User", "name": "flood", "apiGroup": "rbac.authorization.k8s.io" }],
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(send(router, admin, Method::POST, path, &binding).await.0, 201);
    let object = |n: usize| json!({ "metadata": { "name": format!("m{n}") }, "data": { "x": "x".repeat(1000) } });
    let codes: Vec<StatusCode> = futures::stream::iter(0..OBJECTS)
        .map(|n| async move { send(router, admin, Method::POST, MAPS, &object(n)).await.0 })
        .buffer_unordered(64)
        .collect()
        .await;
    assert!(codes.iter().all(|code| *code == 201));
    for n in 0..NODES {
        let node = json!({ "metadata": { "name": format!("n{n}") } });
        assert_eq!(send(router, admin, Method::POST, "/api/v1/nodes", &node).await.0, 201);
        let lease = json!({ "metadata": { "name": format!("n{n}") }, "spec": { "holderIdentity": format!("n{n}") } });
        assert_eq!(send(router, &node_user(n), Method::POST, LEASES, &lease).await.0, 201);
    }
}

fn node_user(n: usize) -> User {
    User::new(&format!("system:node:n{n}"), &["system:nodes"])
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

async fn version_of(lease: Response) -> String {
    let body = axum::body::to_bytes(lease.into_body(), 1 << 20).await.unwrap();
    let lease: Value = serde_json::from_slice(&body).unwrap();
    lease["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

/// Renews a node's lease now and then; answers how long each renewal took.
async fn heartbeats(router: Router, n: usize, end: Instant) -> Vec<Duration> {
    let user = node_user(n);
    let path = format!("{LEASES}/n{n}");
    let mut took = Vec::new();
    let mut version = String::new();
    while Instant::now() < end {
        let began = Instant::now();
        if version.is_empty() {
            let known = request(&router, &user, Method::GET, &path, &Value::Null).await;
            version = version_of(known).await;
        }
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let lease = json!({
            "metadata": { "name": format!("n{n}"), "resourceVersion": version },
            "spec": { "holderIdentity": format!("n{n}"), "leaseDurationSeconds": 40, "renewTime": now },
        });
        let renewed = request(&router, &user, Method::PUT, &path, &lease).await;
        assert_eq!(renewed.status(), 200, "a heartbeat of n{n} is lost");
        version = version_of(renewed).await;
        took.push(began.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_survive_a_flood_of_lists() {
    let server = TestServer::start().await.unwrap();
    let router = server.server().router();
    let admin = User::new("system:admin", &["system:masters"]);
    prepare(&router, &admin).await;
    let before = resident();
    let (stop, lists, refused) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let flood: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (router, stop) = (router.clone(), stop.clone());
            let (lists, refused) = (lists.clone(), refused.clone());
            tokio::spawn(async move {
                let user = User::new("flood", &[]);
                while !stop.load(Ordering::Relaxed) {
                    match send(&router, &user, Method::GET, MAPS, &Value::Null).await {
                        (StatusCode::OK, length) => {
                            assert!(length > OBJECTS * 1000, "a list is cut short: {length}");
                            lists.fetch_add(1, Ordering::Relaxed);
                        }
                        (StatusCode::TOO_MANY_REQUESTS, _) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                        (other, _) => panic!("{other}"),
                    }
                }
            })
        })
        .collect();
    let end = Instant::now() + LENGTH;
    let beats: Vec<_> =
        (0..NODES).map(|n| tokio::spawn(heartbeats(router.clone(), n, end))).collect();
    let mut took: Vec<Duration> = Vec::new();
    let mut most = before;
    for beat in beats {
        took.extend(beat.await.unwrap());
        most = most.max(resident());
    }
    stop.store(true, Ordering::Relaxed);
    took.sort_unstable();
    let quantile = |percent: usize| took[(took.len() - 1) * percent / 100];
    println!(
        "{} heartbeats, p50 {:?}, p99 {:?}, most {:?}; {} lists, {} refused; {} MB more at the end",
        took.len(),
        quantile(50),
        quantile(99),
        took[took.len() - 1],
        lists.load(Ordering::Relaxed),
        refused.load(Ordering::Relaxed),
        most.saturating_sub(before) >> 20,
    );
    flood.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(lists.load(Ordering::Relaxed) > 20, "the flood was no flood");
    assert!(quantile(99) < Duration::from_secs(1), "p99 of heartbeats: {:?}", quantile(99));
    assert!(most.saturating_sub(before) < 256 << 20, "{} MB more", (most - before) >> 20);
}
