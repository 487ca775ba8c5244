//! What stands in the audit log, and what must never stand there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apiserver::User;
use apiserver::audit::Options;
use apiserver::audit::flags::{BatchOptions, Format, LogOptions, Mode, WebhookOptions};
use apiserver::audit::log::Rotation;
use apiserver::testing::TestServer;
use axum::body::Body;
use http::{Method, Request, header};
use http_body_util::BodyExt as _;
use kit::testing::eventually;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::ServiceExt as _;

const BATCH: BatchOptions = BatchOptions {
    buffer_size: 1000,
    max_size: 10,
    max_wait: Duration::from_millis(20),
    qps: 0.0,
    burst: 1,
};

fn options(folder: &Path, policy: &str) -> Options {
    let file = folder.join("policy.yaml");
    std::fs::write(&file, format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{policy}\n"))
        .unwrap();
    let rotation = Rotation { max_size: 0, max_backups: 0, max_age: None, compress: false };
    let log = LogOptions {
        path: folder.join("audit.log"),
        rotation,
        format: Format::Json,
        mode: Mode::Blocking,
        batch: BATCH,
        truncate: None,
    };
    Options { policy_file: Some(file), log: Some(log), webhook: None }
}

/// A server that audits into a folder of its own.
struct Audited {
    folder: tempfile::TempDir,
    server: TestServer,
}

impl Audited {
    async fn start(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let audit = options(folder.path(), policy);
        let server = TestServer::builder().with_socket().configure(|config| config.audit = audit);
        Self { server: server.start().await.unwrap(), folder }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("audit.log")).unwrap_or_default()
    }

    /// The events that say so of themselves.
    fn events(&self, chosen: impl Fn(&Value) -> bool) -> Vec<Value> {
        let text = self.text();
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.filter(|event| chosen(event)).collect()
    }

    async fn send(&self, request: Request<Body>) -> (http::response::Parts, Vec<u8>) {
        send(&self.server, request).await
    }
}

async fn send(server: &TestServer, mut request: Request<Body>) -> (http::response::Parts, Vec<u8>) {
    if request.extensions().get::<User>().is_none()
        && !request.headers().contains_key("authorization")
    {
        request.extensions_mut().insert(User::new("system:admin", &["system:masters"]));
    }
    let response = server.server().router().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    (parts, body.to_vec())
}

fn request(method: Method, path: &str, body: Value) -> Request<Body> {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let request = Request::builder().method(method).uri(path);
    request.header(header::CONTENT_TYPE, "application/json").body(body).unwrap()
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "a": "b" } })
}

#[tokio::test]
async fn a_write_is_recorded_as_it_comes_and_as_it_ends() {
    let audited = Audited::start("rules: [{level: Metadata}]").await;
    let (parts, _) = audited.send(request(Method::POST, MAPS, map("one"))).await;
    let id = parts.headers["audit-id"].to_str().unwrap().to_owned();
    let events = audited.events(|event| event["auditID"] == id.as_str());
    let stages: Vec<&Value> = events.iter().map(|event| &event["stage"]).collect();
    assert_eq!(stages, ["RequestReceived", "ResponseComplete"]);
    let mut last = events[1].clone();
    for time in ["requestReceivedTimestamp", "stageTimestamp"] {
        assert_eq!(last[time].as_str().unwrap().len(), "2026-01-02T03:04:05.123456Z".len());
        last.as_object_mut().unwrap().remove(time);
    }
    let expected = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": id,
        "stage": "ResponseComplete", "requestURI": MAPS, "verb": "create",
        "user": { "username": "system:admin", "groups": ["system:masters", "system:authenticated"] },
        "objectRef": { "resource": "configmaps", "namespace": "default", "name": "one", "apiVersion": "v1" },
        "responseStatus": { "metadata": {}, "code": 201 },
        "annotations": { "authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": "" },
    });
    assert_eq!(last, expected);
    let (parts, _) = audited.send(request(Method::POST, MAPS, map("one"))).await;
    let id = parts.headers["audit-id"].to_str().unwrap();
    let status = &audited.events(|event| event["auditID"] == id)[1]["responseStatus"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(409), &json!("AlreadyExists")));
    assert_eq!(status["message"], "configmaps \"one\" already exists");
}

#[tokio::test]
async fn a_watch_is_recorded_when_it_begins_and_when_it_ends() {
    let audited =
        Audited::start("omitStages: [RequestReceived]\nrules: [{level: Metadata, verbs: [watch]}]")
            .await;
    let mut watch = request(Method::GET, &format!("{MAPS}?watch=1&timeoutSeconds=60"), Value::Null);
    watch.headers_mut().insert("audit-id", "mine".parse().unwrap());
    watch.extensions_mut().insert(User::new("system:admin", &["system:masters"]));
    let response = audited.server.server().router().oneshot(watch).await.unwrap();
    assert_eq!(response.headers()["audit-id"], "mine");
    let stages = || -> Vec<String> {
        let events = audited.events(|event| event["auditID"] == "mine");
        events.iter().map(|event| event["stage"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(stages(), ["ResponseStarted"]);
    drop(response);
    assert_eq!(stages(), ["ResponseStarted", "ResponseComplete"]);
}

#[tokio::test]
async fn objects_are_recorded_at_the_higher_levels() {
    let policy = "omitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n- {level: Request, verbs: [create]}\n- {level: RequestResponse, verbs: [patch, list]}";
    let audited = Audited::start(policy).await;
    audited.send(request(Method::POST, MAPS, map("one"))).await;
    let created =
        &audited.events(|event| event["verb"] == "create" && event["requestURI"] == MAPS)[0];
    assert_eq!(created["requestObject"], map("one"));
    assert!(created.get("responseObject").is_none());
    let mut patch = request(Method::PATCH, &format!("{MAPS}/one"), json!({ "data": { "a": "c" } }));
    let merge = "application/merge-patch+json".parse().unwrap();
    patch.headers_mut().insert(header::CONTENT_TYPE, merge);
    audited.send(patch).await;
    let patched =
        &audited.events(|event| event["verb"] == "patch" && event["objectRef"]["name"] == "one")[0];
    assert_eq!(patched["requestObject"], json!({ "data": { "a": "c" } }));
    assert_eq!(patched["responseObject"]["data"], json!({ "a": "c" }));
    assert!(patched["responseObject"]["metadata"].get("managedFields").is_none());
    let mut list = request(Method::GET, MAPS, Value::Null);
    list.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
    audited.send(list).await;
    let listed = audited.events(|event| event["verb"] == "list" && event["requestURI"] == MAPS);
    let names: Vec<&Value> = listed[0]["responseObject"]["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["metadata"]["name"])
        .collect();
    assert!(names.contains(&&json!("one")), "{names:?}");
}

#[tokio::test]
async fn who_acts_as_somebody_else_is_recorded_with_both_names() {
    let audited = Audited::start("rules: [{level: Metadata}]").await;
    let mut list = request(Method::GET, MAPS, Value::Null);
    list.headers_mut().insert("impersonate-user", "jane".parse().unwrap());
    let (parts, _) = audited.send(list).await;
    let id = parts.headers["audit-id"].to_str().unwrap();
    let last = &audited.events(|event| event["auditID"] == id)[1];
    assert_eq!(last["user"]["username"], "system:admin");
    let jane = json!({ "username": "jane", "groups": ["system:authenticated"] });
    assert_eq!(last["impersonatedUser"], jane);
    assert_eq!(last["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(last["responseStatus"]["code"], 403);
}

#[tokio::test]
async fn what_a_role_allows_is_recorded_with_its_reason() {
    let audited = Audited::start("rules: [{level: Metadata}]").await;
    let mut get = request(Method::GET, "/version", Value::Null);
    get.extensions_mut().insert(User::new("jane", &[]));
    let (parts, _) = audited.send(get).await;
    let id = parts.headers["audit-id"].to_str().unwrap();
    let last = &audited.events(|event| event["auditID"] == id)[1];
    let reason = last["annotations"]["authorization.k8s.io/reason"].as_str().unwrap();
    assert!(reason.starts_with("RBAC: allowed by ClusterRoleBinding"), "{reason}");
    assert!(last.get("objectRef").is_none());
}

/// The log of a day with secrets, searched for each of them.
#[tokio::test]
async fn no_secret_and_no_token_stands_in_the_log() {
    const MARK: &str = "hunter2hunter2";
    let audited = Audited::start("rules: [{level: Metadata}]").await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = |data: Value| json!({ "metadata": { "name": "s" }, "stringData": data });
    let encoded = json!({ "metadata": { "name": "bad" }, "data": { "k": MARK }, "type": [MARK] });
    let codes = [
        audited.send(request(Method::POST, secrets, secret(json!({ "k": MARK })))).await.0.status,
        audited.send(request(Method::GET, &format!("{secrets}/s"), Value::Null)).await.0.status,
        audited.send(request(Method::POST, secrets, encoded)).await.0.status,
        audited.send(request(Method::POST, secrets, json!(MARK))).await.0.status,
        audited
            .send(request(Method::POST, secrets, json!({ "data": { "k": format!("{MARK}!") } })))
            .await
            .0
            .status,
        audited
            .send(request(
                Method::PUT,
                &format!("{secrets}/s"),
                json!({ "metadata": { "name": MARK }, "stringData": { "k": MARK } }),
            ))
            .await
            .0
            .status,
    ];
    assert_eq!(codes.map(|code| code.as_u16() / 100), [2, 2, 4, 4, 4, 4]);
    let account = json!({ "metadata": { "name": "web" } });
    audited
        .send(request(Method::POST, "/api/v1/namespaces/default/serviceaccounts", account))
        .await;
    let path = "/api/v1/namespaces/default/serviceaccounts/web/token";
    let (parts, body) = audited.send(request(Method::POST, path, json!({ "spec": {} }))).await;
    assert_eq!(parts.status.as_u16(), 201);
    let token: Value = serde_json::from_slice(&body).unwrap();
    let token = token["status"]["token"].as_str().unwrap().to_owned();
    let bearer = |token: &str, path: &str| {
        let mut request = request(Method::GET, path, Value::Null);
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, value);
        request
    };
    assert_eq!(audited.send(bearer(&token, "/version")).await.0.status.as_u16(), 200);
    let refused = bearer(MARK, &format!("/api?access_token={MARK}"));
    assert_eq!(audited.send(refused).await.0.status.as_u16(), 401);
    let review = json!({ "spec": { "token": MARK } });
    audited
        .send(request(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews", review))
        .await;
    let text = audited.text();
    let signature = token.rsplit('.').next().unwrap();
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(MARK);
    for hidden in [MARK, &token, signature, encoded.trim_end_matches('=')] {
        let line = text.lines().find(|line| line.contains(hidden));
        assert_eq!(line, None, "{hidden} stands in the log");
    }
    // The name is no secret, and it is the object's own.
    assert!(text.lines().count() > 20);
    let failed = audited.events(|event| event["responseStatus"]["code"] == 401);
    assert_eq!(failed.len(), 1);
    let message = "Authentication failed, attempted: bearer, access_token";
    assert_eq!(failed[0]["responseStatus"]["message"], message);
    assert_eq!(failed[0]["stage"], "ResponseStarted");
}

#[tokio::test]
async fn a_wrong_policy_stops_the_start_with_file_line_and_reason() {
    let folder = tempfile::tempdir().unwrap();
    let audit = options(folder.path(), "rules:\n- level: Metadata\n- level: Everything");
    let started = TestServer::builder().configure(|config| config.audit = audit).start().await;
    let error = started.err().expect("the start fails").to_string();
    assert!(error.contains("policy.yaml:5: "), "{error}");
    assert!(error.contains("Everything"), "{error}");
}

#[tokio::test]
async fn without_a_policy_answers_still_have_an_id() {
    let server = TestServer::start().await.unwrap();
    let (first, _) = send(&server, request(Method::GET, MAPS, Value::Null)).await;
    let (second, _) = send(&server, request(Method::GET, MAPS, Value::Null)).await;
    assert_eq!(first.headers["audit-id"].len(), 36);
    assert_ne!(first.headers["audit-id"], second.headers["audit-id"]);
}

#[tokio::test]
async fn a_strict_log_that_cannot_be_written_refuses_requests() {
    let folder = tempfile::tempdir().unwrap();
    let mut audit = options(folder.path(), "rules: [{level: Metadata, verbs: [list]}]");
    let log = audit.log.as_mut().unwrap();
    (log.path, log.mode) = ("/dev/full".into(), Mode::BlockingStrict);
    let server =
        TestServer::builder().configure(|config| config.audit = audit).start().await.unwrap();
    let (parts, _) = send(&server, request(Method::GET, MAPS, Value::Null)).await;
    assert_eq!(parts.status.as_u16(), 500);
    let (_, text) = send(&server, request(Method::GET, "/metrics", Value::Null)).await;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("apiserver_audit_requests_rejected_total 1"), "{text}");
    assert!(text.contains("apiserver_audit_error_total{plugin=\"log\"} 1"), "{text}");
}

/// A server that takes events, and at first refuses them.
async fn receiver() -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/audit", listener.local_addr().unwrap());
    let got: Arc<Mutex<Vec<Value>>> = Arc::default();
    let shared = got.clone();
    let refusals = Arc::new(Mutex::new(1));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (shared, refusals) = (shared.clone(), refusals.clone());
            let service =
                hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let (shared, refusals) = (shared.clone(), refusals.clone());
                    async move {
                        assert_eq!(request.uri().path(), "/audit");
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let refuse = std::mem::replace(&mut *refusals.lock(), 0) > 0;
                        if !refuse {
                            shared.lock().push(serde_json::from_slice(&body).unwrap());
                        }
                        let code = if refuse { 503 } else { 200 };
                        http::Response::builder().status(code).body(Body::empty())
                    }
                });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    (url, got)
}

#[tokio::test]
async fn a_webhook_gets_all_events_even_at_the_end() {
    let (url, got) = receiver().await;
    let folder = tempfile::tempdir().unwrap();
    let mut audit = options(
        folder.path(),
        "rules: [{level: Metadata, resources: [{group: '', resources: [configmaps]}], users: [system:admin]}]",
    );
    let config_file = folder.path().join("webhook.yaml");
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": url } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        "users": [{ "name": "u", "user": {} }],
    });
    std::fs::write(&config_file, kubeconfig.to_string()).unwrap();
    let initial_backoff = Duration::from_millis(20);
    audit.log = None;
    audit.webhook = Some(WebhookOptions {
        truncate: None,
        config_file,
        initial_backoff,
        mode: Mode::Batch,
        batch: BATCH,
    });
    let server =
        TestServer::builder().configure(|config| config.audit = audit).start().await.unwrap();
    for n in 0..20 {
        send(&server, request(Method::POST, MAPS, map(&format!("m{n}")))).await;
    }
    let delivered = async || if got.lock().is_empty() { Err("nothing came") } else { Ok(()) };
    eventually(Duration::from_secs(10), delivered).await;
    send(&server, request(Method::DELETE, &format!("{MAPS}/m0"), Value::Null)).await;
    server.server().shutdown().await;
    let lists = got.lock().clone();
    assert!(lists.iter().all(|list| list["kind"] == "EventList"));
    let events: Vec<&Value> =
        lists.iter().flat_map(|list| list["items"].as_array().unwrap()).collect();
    assert!(lists.iter().all(|list| list["items"].as_array().unwrap().len() <= 10));
    assert_eq!(events.len(), 42);
    assert_eq!(events[41]["verb"], "delete");
}
