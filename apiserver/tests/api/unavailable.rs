//! A store that does not answer is not a bug of the server: clients are told to try again.

use std::sync::Arc;

use apiserver::{Config, Server};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::{
    BoxFuture, Entry, Error, Expect, MemoryStore, Result, Revision, Snapshot, Store, WatchStream,
};

/// A store that cannot be reached for keys that contain a text, and cannot be caught up with.
struct Faulty {
    store: MemoryStore,
    down: Mutex<Option<&'static str>>,
}

impl Faulty {
    fn check(&self, operation: &'static str, key: &str) -> Result<()> {
        match *self.down.lock() {
            Some(text) if key.contains(text) => Err(Error::Unavailable {
                operation,
                key: key.into(),
                store: "the test's store".into(),
                source: Arc::new(std::io::Error::other("unplugged")),
            }),
            _ => Ok(()),
        }
    }

    fn unless_down<'a, T: Send + 'a>(
        &'a self,
        operation: &'static str,
        key: &'a str,
        call: impl FnOnce() -> BoxFuture<'a, Result<T>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            self.check(operation, key)?;
            call().await
        })
    }
}

impl Store for Faulty {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>> {
        self.unless_down("read", key, || self.store.get(key))
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Snapshot>> {
        self.unless_down("list", prefix, move || self.store.range(prefix, at))
    }

    fn commit<'a>(
        &'a self,
        key: &'a str,
        expect: Expect,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision>> {
        self.unless_down("write", key, move || self.store.commit(key, expect, value))
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        self.store.watch(prefix, from)
    }

    fn catch_up(&self) -> Option<BoxFuture<'_, Result<()>>> {
        Some(Box::pin(async { self.check("follow", "/") }))
    }

    fn request_progress(&self, prefix: &str) {
        self.store.request_progress(prefix);
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        self.store.compact(before)
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        self.unless_down("read", "/", || self.store.revision())
    }
}

/// Status, `Retry-After`, and reason.
async fn ask(client: &Client, method: &str, path: &str, body: &Value) -> (StatusCode, u32, String) {
    let kind = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, kind);
    let response = client.send(request.body(body.into()).unwrap()).await.unwrap();
    let status = response.status();
    let retry =
        response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
    let bytes = response.into_body().collect_bytes().await.unwrap();
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    (status, retry.unwrap_or_default(), answer["reason"].as_str().unwrap_or_default().to_owned())
}

/// What is asked while keys that contain the text are out of reach.
fn questions() -> Vec<(&'static str, &'static str, &'static str, Value)> {
    const NS: &str = "/api/v1/namespaces/default";
    let path = |rest: &str| -> &'static str { format!("{NS}/{rest}").leak() };
    let named = |name: &str| json!({"metadata": {"name": name}});
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    let mut foreign = pod.clone();
    foreign["spec"]["serviceAccountName"] = "unheard-of".into();
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let binding = json!({"metadata": {"name": "b"}, "subjects": [],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "none"}});
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    vec![
        ("/configmaps/", "GET", path("configmaps/m"), Value::Null),
        ("/", "GET", path("configmaps"), Value::Null),
        ("/", "GET", path("configmaps?limit=1"), Value::Null),
        ("/configmaps/", "POST", path("configmaps"), named("n")),
        ("/configmaps/", "PUT", path("configmaps/m"), named("m")),
        ("/configmaps/", "PATCH", path("configmaps/m"), json!({"data": {"a": "1"}})),
        ("/configmaps/", "DELETE", path("configmaps/m"), Value::Null),
        ("/", "DELETE", path("configmaps"), Value::Null),
        // What admission and the types look at beside the object itself, where no cache has it.
        ("/serviceaccounts/", "POST", path("pods"), foreign),
        ("/", "POST", path("pods"), pod),
        ("/ipaddresses/", "POST", path("services"), service.clone()),
        ("/", "POST", path("services"), service),
        ("/", "POST", path("serviceaccounts/default/token"), json!({"spec": {}})),
        ("/rolebindings/", "POST", rbac, binding),
        ("/namespaces/", "POST", "/api/v1/namespaces", named("n")),
        ("/", "DELETE", "/api/v1/namespaces/default", Value::Null),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_to_try_again() {
    let store = Arc::new(Faulty { store: MemoryStore::new(), down: Mutex::new(None) });
    let server = Server::start_on(Config::default(), store.clone()).await.unwrap();
    let client = server.client("system:admin", &["system:masters"]);
    let account = json!({"metadata": {"name": "default"}});
    for (resource, object) in
        [("serviceaccounts", account), ("configmaps", json!({"metadata": {"name": "m"}}))]
    {
        let path = format!("/api/v1/namespaces/default/{resource}");
        assert_eq!(ask(&client, "POST", &path, &object).await.0, StatusCode::CREATED);
    }
    let mut wrong = Vec::new();
    for (text, method, path, body) in questions() {
        *store.down.lock() = Some(text);
        let answer = ask(&client, method, path, &body).await;
        *store.down.lock() = None;
        if answer != (StatusCode::INTERNAL_SERVER_ERROR, 1, "ServerTimeout".to_owned()) {
            wrong.push(format!("{method} {path} without {text}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // And then they succeed.
    let path = "/api/v1/namespaces/default/configmaps/m";
    assert_eq!(ask(&client, "GET", path, &Value::Null).await.0, StatusCode::OK);
    server.shutdown().await;
}
