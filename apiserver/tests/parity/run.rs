//! Takes the steps of a case and compares.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, Request, Response, header};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Map, Value, json};

use super::case::{Case, Step, Watch};
use super::compare::differences;
use super::normalise::Normaliser;

/// Headers that are compared.
const HEADERS: [&str; 5] = ["Content-Type", "Warning", "Retry-After", "Allow", "WWW-Authenticate"];
/// Pause before a step is repeated that may take its time.
const AGAIN: Duration = Duration::from_millis(50);
/// How often a deletion is tried before the leftover is told.
const DELETIONS: usize = 40;

/// Clients with the credentials that cases ask with.
pub(crate) struct Clients {
    config: Config,
    admin: Client,
}

impl Clients {
    pub(crate) async fn new(kubeconfig: &str) -> Self {
        let kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let mut config =
            Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a config");
        config.default_retry = false; // What the server refuses is what is looked at.
        Self { admin: Client::try_from(config.clone()).expect("a client"), config }
    }

    fn get(&self, auth: Option<&str>) -> Client {
        let Some(auth) = auth else { return self.admin.clone() };
        let token = auth.strip_prefix("token:").map(|token| token.to_owned().into());
        let mut config = self.config.clone();
        config.auth_info = AuthInfo { token, ..AuthInfo::default() };
        Client::try_from(config).expect("a client")
    }

    async fn json(&self, method: &str, path: &str, kind: &str, body: &Value) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::CONTENT_TYPE, kind);
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let sent = self.admin.send(request.body(bytes.into()).expect("a request")).await;
        let response = sent.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let status = response.status().as_u16();
        let bytes = response.into_body().collect_bytes().await.expect("a body");
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }
}

/// One case under way.
pub(crate) struct Run<'a> {
    clients: &'a Clients,
    case: &'a Case,
    namespace: String,
    variables: BTreeMap<String, Value>,
    /// Paths of what was created, to be removed in reverse.
    created: Vec<String>,
}

/// Runs a case; answers how it differs, which is not at all if it passes.
pub(crate) async fn run(clients: &Clients, case: &Case, namespace: String) -> Vec<String> {
    let mut run = Run { clients, case, namespace, variables: BTreeMap::new(), created: Vec::new() };
    run.set_up().await;
    let mut found = Vec::new();
    for (n, step) in case.steps.iter().enumerate() {
        found = run.compare(step).await;
        if !found.is_empty() {
            found.insert(0, format!("step {n}: {} {}", step.request.method, step.request.path));
            break;
        }
    }
    run.clean_up().await;
    found
}

impl Run<'_> {
    async fn set_up(&mut self) {
        if !self.case.namespace {
            return;
        }
        let metadata = json!({"name": self.namespace, "labels": self.case.namespace_labels});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        let (status, body) =
            self.clients.json("POST", "/api/v1/namespaces", JSON, &namespace).await;
        assert_eq!(status, 201, "namespace {}: {body}", self.namespace);
        let path = format!("/api/v1/namespaces/{}/serviceaccounts", self.namespace);
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}, "automountServiceAccountToken": false});
        let (status, body) = self.clients.json("POST", &path, JSON, &account).await;
        assert_eq!(status, 201, "service account in {}: {body}", self.namespace);
    }

    /// Takes a step until it is right, or its time is over.
    async fn compare(&mut self, step: &Step) -> Vec<String> {
        let end = Instant::now() + Duration::from_secs(step.eventually);
        loop {
            let answer = self.take(step).await;
            let found = differences(&step.response, &answer);
            if found.is_empty() || Instant::now() >= end {
                return found;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn take(&mut self, step: &Step) -> Value {
        let request = self.request(step);
        let auth = step.request.auth.as_deref().map(|auth| self.fill(auth));
        let response = match self.clients.get(auth.as_deref()).send(request).await {
            Ok(response) => response,
            Err(error) => return json!({"error": error.to_string()}),
        };
        let status = response.status().as_u16();
        let mut out = json!({"status": status, "headers": self.headers(step, response.headers())});
        if let Some(watch) = step.watch.as_ref().filter(|_| status == 200) {
            out["events"] = self.events(step, watch, response).await;
            return out;
        }
        let media = media_type(response.headers());
        let bytes = response.into_body().collect_bytes().await.unwrap_or_default();
        match parse(&media, &bytes) {
            Parsed::Nothing => (),
            Parsed::Protobuf(envelope) => out["proto"] = envelope,
            Parsed::Text(text) => out["body"] = self.normaliser(step).text(&text).into(),
            Parsed::Data(body) => {
                self.remember(step, status, &body);
                out["body"] = self.normaliser(step).body(&body);
            }
        }
        self.narrow(step, &mut out);
        out
    }

    fn request(&self, step: &Step) -> Request<Body> {
        let asked = &step.request;
        let body = match (&asked.body_base64, &asked.body) {
            (Some(encoded), _) => Some(BASE64.decode(encoded).expect("base64")),
            (None, Some(body)) => Some(self.fill(&body.text()).into_bytes()),
            (None, None) => None,
        };
        let mut request =
            Request::builder().method(asked.method.as_str()).uri(self.fill(&asked.path));
        let headers = request.headers_mut().expect("a path");
        headers.insert(header::ACCEPT, JSON.parse().expect("a header"));
        headers.insert(header::USER_AGENT, "replay".parse().expect("a header"));
        for (name, value) in &asked.headers {
            let name: header::HeaderName = name.parse().expect("a name");
            headers.insert(name, self.fill(value).parse().expect("a header"));
        }
        let kind = asked.content_type.as_deref().or(body.as_ref().map(|_| JSON));
        if let Some(kind) = kind.filter(|kind| !kind.is_empty()) {
            headers.insert(header::CONTENT_TYPE, kind.parse().expect("a header"));
        }
        request.body(body.unwrap_or_default().into()).expect("a request")
    }

    /// Puts the namespace and the variables in.
    fn fill(&self, text: &str) -> String {
        let mut text = text.replace("$NS", &self.namespace);
        while let Some(start) = text.find("${repeat:") {
            let end = start + text[start..].find('}').expect("an end");
            let (what, count) = text[start + 9..end].split_once(':').expect("a count");
            let repeated = what.repeat(count.parse().expect("a number"));
            text.replace_range(start..=end, &repeated);
        }
        for (name, value) in &self.variables {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text = text.replace(&format!("${{{name}}}"), &value);
        }
        text
    }

    fn normaliser(&self, step: &Step) -> Normaliser<'_> {
        Normaliser {
            namespace: &self.namespace,
            variables: &self.variables,
            managed_fields: step.managed_fields,
        }
    }

    fn headers(&self, step: &Step, headers: &HeaderMap) -> Value {
        let normaliser = self.normaliser(step);
        let mut out = Map::new();
        for name in HEADERS {
            let all = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            let mut all: Vec<String> = all.map(|text| normaliser.text(text)).collect();
            if all.is_empty() {
                continue;
            }
            all.sort();
            let value = if name == "Warning" { json!(all) } else { json!(all[0]) };
            out.insert(name.to_owned(), value);
        }
        out.into()
    }

    async fn events(&self, step: &Step, watch: &Watch, response: Response<Body>) -> Value {
        let normaliser = self.normaliser(step);
        let bytes = response.into_body().into_data_stream().map_err(std::io::Error::other);
        let lines = bytes.into_async_read().lines();
        let events = lines.filter_map(async |line| {
            let event: Value = serde_json::from_str(&line.ok()?).ok()?;
            Some(normaliser.body(&event))
        });
        let end = tokio::time::sleep(Duration::from_secs(watch.seconds));
        let mut events: Vec<Value> = events.take_until(end).take(watch.events).collect().await;
        if watch.unordered {
            events.sort_by_key(Value::to_string);
        }
        events.into()
    }

    /// Keeps what later steps and the cleaning up need.
    fn remember(&mut self, step: &Step, status: u16, body: &Value) {
        for (variable, path) in &step.capture {
            let value = pick(body, path);
            if !value.is_null() {
                self.variables.insert(variable.clone(), value.clone());
            }
        }
        let path = self.fill(&step.request.path);
        let kind = body["kind"].as_str().unwrap_or_default();
        if status != 201 || matches!(kind, "" | "Status" | "Table") || path.contains("dryRun=") {
            return;
        }
        let path = path.split('?').next().unwrap_or_default();
        match (step.request.method.as_str(), body["metadata"]["name"].as_str()) {
            ("POST", Some(name)) => self.created.push(format!("{path}/{name}")),
            ("PUT" | "PATCH", _) => self.created.push(path.to_owned()),
            _ => (),
        }
    }

    /// Leaves only what the step compares.
    fn narrow(&self, step: &Step, out: &mut Value) {
        if let Some(paths) = &step.only {
            let picked = paths.iter().map(|path| (path.clone(), pick(&out["body"], path).clone()));
            out["body"] = Value::Object(picked.collect());
        }
        if let Some(texts) = &step.contains {
            let body = out.as_object_mut().and_then(|out| out.remove("body")).unwrap_or_default();
            let body = body.as_str().map_or_else(|| spaced(&body), str::to_owned);
            let there = texts.iter().filter(|text| body.contains(*text));
            out["contains"] = there.cloned().collect();
        }
    }

    async fn clean_up(&mut self) {
        for path in std::mem::take(&mut self.created).iter().rev() {
            self.remove(path).await;
        }
        if self.case.namespace {
            self.remove(&format!("/api/v1/namespaces/{}", self.namespace)).await;
        }
    }

    async fn remove(&self, path: &str) {
        let now = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Background"});
        for _ in 0..DELETIONS {
            let (status, _) = self.clients.json("DELETE", path, JSON, &now).await;
            if matches!(status, 403..=405) {
                return;
            }
            let (status, left) = self.clients.json("GET", path, JSON, &Value::Null).await;
            if status != 200 {
                return;
            }
            if left["kind"] == "Namespace" {
                let name = &left["metadata"]["name"];
                let empty = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []}});
                self.clients.json("PUT", &format!("{path}/finalize"), JSON, &empty).await;
            } else if left["kind"] != "CustomResourceDefinition" {
                let free = json!({"metadata": {"finalizers": null}});
                self.clients.json("PATCH", path, "application/merge-patch+json", &free).await;
            }
            tokio::time::sleep(AGAIN).await;
        }
        panic!("{}: {path} cannot be removed", self.case.name);
    }
}

const JSON: &str = "application/json";

enum Parsed {
    Nothing,
    Text(String),
    Data(Value),
    /// The envelope alone: apiVersion and kind.
    Protobuf(Value),
}

fn parse(media: &str, bytes: &[u8]) -> Parsed {
    let text = || String::from_utf8_lossy(bytes).into_owned();
    match media {
        _ if bytes.is_empty() => Parsed::Nothing,
        "application/vnd.kubernetes.protobuf" => Parsed::Protobuf(envelope(bytes)),
        "application/yaml" => Parsed::Data(serde_saphyr::from_str(&text()).expect("YAML")),
        media if media == JSON || media.ends_with("+json") => {
            serde_json::from_slice(bytes).map_or_else(|_| Parsed::Text(text()), Parsed::Data)
        }
        _ => Parsed::Text(text()),
    }
}

fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().to_owned()
}

/// `apiVersion` and `kind` of a protobuf answer: fields 1 and 2 of field 1, all of them shorter than 128 bytes.
fn envelope(bytes: &[u8]) -> Value {
    let Some(rest) = bytes.strip_prefix(b"k8s\0") else {
        return json!({"prefix": format!("{:02x?}", &bytes[..bytes.len().min(8)])});
    };
    let mut out = json!({"magic": "k8s"});
    let mut type_meta = &rest[2..2 + usize::from(rest[1])];
    while let [tag, length, after @ ..] = type_meta {
        let (text, after) = after.split_at(usize::from(*length));
        let name = if tag >> 3 == 1 { "apiVersion" } else { "kind" };
        out[name] = String::from_utf8_lossy(text).into();
        type_meta = after;
    }
    out
}

/// The part of a value at a dotted path; null if there is none.
fn pick<'v>(value: &'v Value, path: &str) -> &'v Value {
    path.split('.').fold(value, |value, part| match part.parse::<usize>() {
        Ok(index) if value.is_array() => value.get(index).unwrap_or(&Value::Null),
        _ => &value[part],
    })
}

/// JSON with a space after each colon and comma, as the texts in `contains` are written.
fn spaced(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(k, v)| format!("{}: {}", json!(k), spaced(v)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(spaced).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
