//! Times the hot roads of the server inside this process: no socket, no TLS, the memory store.
//!
//! `cargo bench -p kube-apiserver` prints microseconds a request. With a road's name and a number of requests it runs
//! that road alone, for tools that count instructions:
//! `valgrind --tool=callgrind <binary> --only status --requests 1000`.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the benchmark")]

use std::time::Instant;

use apiserver::User;
use apiserver::testing::TestServer;
use axum::Router;
use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// As the server's binaries have it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PODS: usize = 1000;
const ROADS: [&str; 7] = ["create", "get", "list", "page", "status", "apply", "delete"];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).cloned()
    };
    let only = value("--only");
    let requests = value("--requests").map(|n| n.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = Bench::start().await;
        for road in
            ROADS.into_iter().filter(|road| only.as_deref().is_none_or(|only| only == *road))
        {
            // Every road but the first finds the pods of the first, and the last one takes them away.
            if only.is_some() && road != "create" {
                bench.run("create", PODS).await;
            }
            let requests = requests.unwrap_or(if road == "list" { 20 } else { PODS });
            let micros = bench.run(road, requests).await;
            println!("{road:8} {micros:10.1} µs a request");
        }
    });
}

struct Bench {
    _server: TestServer,
    router: Router,
    pod: Value,
}

impl Bench {
    async fn start() -> Self {
        let server = TestServer::start().await.unwrap();
        let router = server.server().router();
        let bench = Self { _server: server, router, pod: pod() };
        let account =
            json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default"}});
        let path = "/api/v1/namespaces/default/serviceaccounts";
        bench.send(Method::POST, path, "application/json", account.to_string()).await;
        bench
    }

    async fn run(&self, road: &str, requests: usize) -> f64 {
        let began = Instant::now();
        for n in 0..requests {
            let (method, path, media, body) = self.request(road, n);
            let status = self.send(method, &path, media, body).await;
            assert!(status.is_success(), "{road} {n} was answered {status}");
        }
        began.elapsed().as_secs_f64() * 1e6 / requests.max(1) as f64
    }

    fn request(&self, road: &str, n: usize) -> (Method, String, &'static str, String) {
        let pods = "/api/v1/namespaces/default/pods";
        let name = format!("bench-{:08}", n % PODS);
        let one = format!("{pods}/{name}");
        let json = "application/json";
        let mut pod = self.pod.clone();
        pod["metadata"]["name"] = name.into();
        match road {
            "create" => (Method::POST, pods.to_owned(), json, pod.to_string()),
            "get" => (Method::GET, one, json, String::new()),
            "list" => (Method::GET, pods.to_owned(), json, String::new()),
            "page" => (Method::GET, format!("{pods}?limit=500"), json, String::new()),
            "status" => {
                let body = json!({"status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "True", "reason": "Bench", "message": format!("{n}")}]}});
                let media = "application/strategic-merge-patch+json";
                (Method::PATCH, one + "/status", media, body.to_string())
            }
            "apply" => {
                pod["metadata"]["annotations"]["applied"] = n.to_string().into();
                let query = "?fieldManager=bench-apply&force=true";
                (Method::PATCH, one + query, "application/apply-patch+yaml", pod.to_string())
            }
            _ => (Method::DELETE, one, json, String::new()),
        }
    }

    async fn send(&self, method: Method, path: &str, media: &str, body: String) -> StatusCode {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, media)
            .header(header::USER_AGENT, "bench/1")
            .extension(User::new("bench", &["system:masters"]))
            .body(Body::from(body))
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        response.into_body().collect().await.unwrap();
        status
    }
}

/// A pod of 1.5 kB as a Deployment makes them.
fn pod() -> Value {
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": 8080}, "periodSeconds": 10});
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": "", "labels": {"app": "bench", "pod-template-hash": "6d4f8b9c7", "tier": "web"},
            "annotations": {"padding": "x".repeat(400)},
        },
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "web", "image": "registry.example/web:1.2.3",
                "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
                "env": [{"name": "MODE", "value": "production"}, {"name": "LEVEL", "value": "info"}],
                "resources": {
                    "requests": {"cpu": "100m", "memory": "128Mi"},
                    "limits": {"cpu": "200m", "memory": "256Mi"},
                },
                "livenessProbe": probe("/healthz"), "readinessProbe": probe("/readyz"),
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
            }],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        }
    })
}
