//! No secret and no token stands in the log of any part, however much is logged.
//!
//! Source: CVE-2019-11250, CVE-2020-8563 to 8566, CVE-2023-2878, CVE-2024-3744.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kit::testing::eventually;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};

/// What must never be seen, each in its own place.
/// How long each part may take.
const PATIENCE: Duration = Duration::from_secs(60);

const ADMIN: &str = "admin-token-5ae91c";
const WRONG: &str = "wrong-token-77b0d2";
const JUDGED: &str = "judged-token-1f6e44";
const PASSWORD: &str = "hunter2-3d9f10";
const SOCKET: &str = "socket-token-90c2aa";
const DATA: &str = "secret-data-4b8e77";
const PULL: &str = "registry-password-e02d6b";
const BOOTSTRAP: &str = "0123456789abcdef";
const DISK_KEY: [u8; 32] = *b"a-key-for-the-disk-of-32-bytes!!";
const WEBHOOK: &str = "webhook-credential-c61d09";

/// A cluster of simulated nodes that logs all that it can.
struct Cluster {
    process: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // What a killed cluster leaves below /run, secrets of its pods among it.
        let data = self.folder.path().join("data");
        let down = Command::new(env!("CARGO_BIN_EXE_improv"))
            .arg("down")
            .arg("--data-dir")
            .arg(data)
            .output();
        let ended = down.is_ok_and(|down| down.status.success());
        assert!(ended || std::thread::panicking(), "improv down failed");
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let tokens = write(at, "tokens.csv", &format!("{ADMIN},admin,1,\"system:masters\"\n"));
        let nobody = free_port();
        let webhook = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}],
             users: [{{name: u, user: {{token: {WEBHOOK}}}}}],
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{nobody}/'}}}}]}}"
        );
        let webhook = write(at, "webhook.yaml", &webhook);
        let key = STANDARD.encode(DISK_KEY);
        let encryption = format!(
            "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{{resources: [secrets],
             providers: [{{aesgcm: {{keys: [{{name: k, secret: {key}}}]}}}}, {{identity: {{}}}}]}}]}}"
        );
        let encryption = write(at, "encryption.yaml", &encryption);
        let port = free_port();
        let log = std::fs::File::create(at.join("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_improv"))
            .args(["up", "--runtime=hollow", "--bind=127.0.0.1", "--log=trace"])
            // The others change the machine's network.
            .arg("--players=namespace,service-account,certificate,scheduler,replicaset,garbage-collector,endpointslice,node-lifecycle")
            .arg("--enable-bootstrap-token-auth")
            .arg(format!("--port={port}"))
            .arg(format!("--node-port={}", free_port()))
            .arg(format!("--data-dir={}", at.join("data").display()))
            .arg(format!("--token-auth-file={}", tokens.display()))
            .arg(format!("--authentication-token-webhook-config-file={}", webhook.display()))
            .arg(format!("--encryption-provider-config={}", encryption.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, folder, port }
    }

    fn log(&self) -> String {
        let log = std::fs::read(self.folder.path().join("log")).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Sends a request over a connection of its own; `None` while nobody listens.
    async fn send(
        &self,
        protocol: &str,
        mut request: Request<Full<bytes::Bytes>>,
    ) -> Option<(StatusCode, Value)> {
        let ca = self.folder.path().join("data/pki/ca.crt");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).ok()?).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let name = ServerName::try_from("kubernetes").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TokioIo::new(connector.connect(name, stream).await.ok()?);
        let uri = format!("https://kubernetes{}", request.uri());
        let response = if protocol == "h2" {
            *request.uri_mut() = uri.parse().unwrap();
            let executor = TokioExecutor::new();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            request.headers_mut().insert("host", "kubernetes".parse().unwrap());
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// Sends one request each way; answers what came the second time.
    async fn both(
        &self,
        header: (&str, &str),
        method: Method,
        path: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        let mut answer = None;
        for protocol in ["http/1.1", "h2"] {
            let request = Request::builder().method(method.clone()).uri(path);
            let request = request
                .header("content-type", "application/json")
                .header(header.0, header.1)
                .body(Full::from(body.to_string()))
                .unwrap();
            answer = self.send(protocol, request).await;
        }
        answer.expect("the server listens")
    }

    async fn admin(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        self.both(("authorization", &format!("Bearer {ADMIN}")), method, path, &body).await
    }

    async fn anyone(&self, header: &str, value: &str) -> StatusCode {
        self.both((header, value), Method::GET, "/api/v1/secrets", &Value::Null).await.0
    }
}

async fn ready(cluster: &Cluster) {
    eventually(PATIENCE, async || {
        let request = Request::get("/readyz").body(Full::default()).unwrap();
        let (status, _) = cluster.send("http/1.1", request).await.ok_or("no answer")?;
        (status == StatusCode::OK).then_some(()).ok_or("the server is not ready")
    })
    .await;
    eventually(PATIENCE, async || {
        let path = "/api/v1/namespaces/default/serviceaccounts/default";
        let (status, _) = cluster.admin(Method::GET, path, Value::Null).await;
        (status == StatusCode::OK).then_some(()).ok_or("the account is not there")
    })
    .await;
}

/// Secrets of all kinds, written in all ways, well and badly; and a pod that uses them.
async fn use_secrets(cluster: &Cluster) {
    let secrets = "/api/v1/namespaces/default/secrets";
    let pulls = json!({"auths": {"registry.example.com": {"username": "u", "password": PULL}}});
    let objects = [
        json!({"metadata": {"name": "plain"}, "stringData": {"k": DATA}}),
        json!({"metadata": {"name": "pull"}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": pulls.to_string()}}),
    ];
    for object in objects {
        assert!(cluster.admin(Method::POST, secrets, object).await.0 != StatusCode::UNAUTHORIZED);
    }
    for wrong in
        [json!(DATA), json!({"metadata": {"name": "x"}, "data": {"k": format!("{DATA}!")}})]
    {
        let (status, _) = cluster.admin(Method::POST, secrets, wrong).await;
        assert!(status.is_client_error(), "{status}");
    }
    let token = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": BOOTSTRAP, "usage-bootstrap-authentication": "true"}});
    cluster.admin(Method::POST, "/api/v1/namespaces/kube-system/secrets", token).await;
    let update =
        json!({"metadata": {"name": "plain"}, "stringData": {"k": format!("{DATA}-again")}});
    assert_eq!(cluster.admin(Method::PUT, &format!("{secrets}/plain"), update).await.0, 200);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"imagePullSecrets": [{"name": "pull"}],
        "volumes": [{"name": "v", "secret": {"secretName": "plain"}}],
        "containers": [{"name": "c", "image": "registry.example.com/i", "envFrom": [{"secretRef": {"name": "plain"}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}});
    let pods = "/api/v1/namespaces/default/pods";
    cluster.admin(Method::POST, pods, pod).await;
    eventually(PATIENCE, async || {
        let (_, pod) = cluster.admin(Method::GET, &format!("{pods}/p"), Value::Null).await;
        if pod["status"]["phase"] == "Running" { Ok(()) } else { Err(pod) }
    })
    .await;
}

/// Shows right and wrong credentials in all ways; answers a token that the server made.
async fn show_credentials(cluster: &Cluster) -> String {
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (status, made) = cluster.admin(Method::POST, path, json!({"spec": {}})).await;
    assert_eq!(status, 201, "{made}");
    let token = made["status"]["token"].as_str().unwrap().to_owned();
    let bearer = |token: &str| format!("Bearer {token}");
    assert_eq!(cluster.anyone("authorization", &bearer(&token)).await, 403);
    let bootstrap = format!("abcdef.{BOOTSTRAP}");
    assert_eq!(cluster.anyone("authorization", &bearer(&bootstrap)).await, 403);
    let basic = format!("Basic {}", STANDARD.encode(format!("admin:{PASSWORD}")));
    let truncated = token.rsplit_once('.').unwrap().0.to_owned() + "." + WRONG;
    for refused in [&bearer(WRONG), &bearer(&truncated), &bearer("abcdef.fedcba9876543210")] {
        assert_eq!(cluster.anyone("authorization", refused).await, 401);
    }
    assert_ne!(cluster.anyone("authorization", &basic).await, 200);
    let protocol =
        format!("base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode(SOCKET));
    assert_ne!(cluster.anyone("sec-websocket-protocol", &protocol).await, 200);
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = json!({"spec": {"token": JUDGED}});
    assert_eq!(cluster.admin(Method::POST, reviews, review).await.0, 201);
    token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_and_no_token_is_logged() {
    let cluster = Cluster::start().await;
    ready(&cluster).await;
    use_secrets(&cluster).await;
    let token = show_credentials(&cluster).await;
    let log = cluster.log();
    // The log is one that tells much, of all parts.
    for part in ["TRACE", "DEBUG", "hyper", "rustls", "apiserver", "nodeagent"] {
        assert!(log.contains(part), "{part} logs nothing");
    }
    let mut hidden: Vec<String> =
        [ADMIN, WRONG, JUDGED, PASSWORD, SOCKET, DATA, PULL, BOOTSTRAP, WEBHOOK]
            .map(str::to_owned)
            .into();
    hidden.push(token.rsplit('.').next().unwrap().to_owned());
    hidden.push("PRIVATE KEY".to_owned());
    let encoded: Vec<String> = hidden.iter().map(|text| STANDARD.encode(text)).collect();
    hidden.extend(encoded.iter().map(|text| text.trim_end_matches('=').to_owned()));
    hidden.push(STANDARD.encode(DISK_KEY));
    hidden.push(STANDARD.encode(format!("admin:{PASSWORD}")));
    hidden.push(format!("{:?}", DATA.as_bytes()).trim_matches(['[', ']']).to_owned());
    let seen: Vec<(&String, &str)> = hidden
        .iter()
        .filter_map(|text| Some((text, log.lines().find(|line| line.contains(text.as_str()))?)))
        .collect();
    assert!(seen.is_empty(), "{seen:#?}");
}
