//! Streams through the server to a node agent, which is a small one made here.

use std::net::SocketAddr;
use std::sync::Arc;

use apiserver::identity::{pki, tls};
use apiserver::testing::TestServer;
use futures::{AsyncBufReadExt as _, SinkExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, AttachParams, LogParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// A node agent that answers logs with its request line and speaks the exec protocol.
async fn agent(server: &TestServer) -> SocketAddr {
    let pki = &server.server().core().pki;
    let authority = tls::ClientAuthority::new(pki).unwrap();
    let hosts = ["127.0.0.1".to_owned()];
    let (chain, key) = pki::to_der(&pki.server_cert("agent", &[], &hosts).unwrap()).unwrap();
    let mut config = (tls::server_config(pki, &authority)).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(
        rustls::sign::CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
            .unwrap(),
    ));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, authority) = (acceptor.clone(), authority.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let user = authority.user(stream.get_ref().1.peer_certificates().unwrap()).unwrap();
                assert_eq!(user.name, "kube-apiserver-kubelet-client");
                serve(stream).await;
            });
        }
    });
    address
}

async fn serve(mut stream: TlsStream<TcpStream>) {
    let mut head = vec![0; 4096];
    let n = stream.read(&mut head).await.unwrap();
    let text = String::from_utf8_lossy(&head[..n]).into_owned();
    assert!(!text.to_lowercase().contains("authorization:"), "credentials were passed on: {text}");
    if let Some(answer) = canned(&text) {
        stream.write_all(answer.as_bytes()).await.unwrap();
        // Whatever came behind the answer would have been smuggled.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "smuggled: {}", String::from_utf8_lossy(&rest));
        return;
    }
    if text.starts_with("GET /containerLogs/") {
        let line = text.lines().next().unwrap();
        let body = format!("{line}\n");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        return;
    }
    let stream = Replay { head: head[..n].to_vec(), at: 0, stream };
    #[expect(clippy::result_large_err, reason = "the callback's type is given")]
    let pick = |request: &Request, mut response: Response| {
        assert_eq!(request.uri().path(), "/exec/default/p/c");
        response
            .headers_mut()
            .insert("sec-websocket-protocol", "v4.channel.k8s.io".parse().unwrap());
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, pick).await.unwrap();
    socket.send(Message::binary([b"\x01".as_slice(), b"hello\n"].concat())).await.unwrap();
    let status = [b"\x03".as_slice(), br#"{"metadata":{},"status":"Success"}"#].concat();
    socket.send(Message::binary(status)).await.unwrap();
    socket.close(None).await.unwrap();
}

/// Answers that an honest agent would not give; all of them leave the connection open.
fn canned(head: &str) -> Option<String> {
    let path = head.split(' ').nth(1)?;
    const PAGE: &str = "<a href=\"/x\">";
    let html = format!("content-type: text/html\r\ncontent-length: {}\r\n", PAGE.len());
    if path == "/page" {
        let body = if head.starts_with("HEAD ") { "" } else { PAGE };
        return Some(format!("HTTP/1.1 200 OK\r\n{html}\r\n{body}"));
    }
    let (status, headers) = match path {
        "/containerLogs/default/moved/c" => ("302 Found", "location: http://169.254.169.254/\r\n"),
        "/containerLogs/default/early/c" => ("400 Bad Request", ""),
        "/elsewhere" => ("302 Found", "location: http://169.254.169.254/\r\n"),
        "/here" => ("302 Found", "location: /login?a=b\r\naccess-control-allow-origin: *\r\n"),
        "/refused" => ("403 Forbidden", ""),
        "/unmoved" => ("302 Found", "location: https://127.0.0.1/\r\n"),
        _ => return None,
    };
    Some(format!("HTTP/1.1 {status}\r\n{headers}content-length: 3\r\n\r\nno\n"))
}

/// A stream whose first bytes were read already.
struct Replay {
    head: Vec<u8>,
    at: usize,
    stream: TlsStream<TcpStream>,
}

impl tokio::io::AsyncRead for Replay {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.at < self.head.len() {
            let n = buf.remaining().min(self.head.len() - self.at);
            buf.put_slice(&self.head[self.at..self.at + n]);
            self.at += n;
            return std::task::Poll::Ready(Ok(()));
        }
        std::pin::Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Replay {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn pod_on_agent(server: &TestServer) -> Api<Pod> {
    let address = agent(server).await;
    let nodes: Api<Node> = Api::all(server.client());
    let node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}}}});
    nodes.patch_status("n", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(server.client(), "default");
    let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(server.client(), "default");
    for name in ["p", "moved", "early"] {
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }
    pods
}

/// A server that is told that its nodes are on this machine, which they are here.
async fn start() -> TestServer {
    let here = TestServer::builder().with_socket();
    here.configure(|config| config.proxy.allow_loopback_nodes = true).start().await.unwrap()
}

/// An answer's status, its `Location`, and its text.
async fn get(server: &TestServer, path: &str) -> (u16, Option<String>, String) {
    let request = http::Request::get(path).body(Vec::new().into()).unwrap();
    let response = server.client().send(request).await.unwrap();
    let location = response.headers().get("location").map(|l| l.to_str().unwrap().to_owned());
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    let status = response.status().as_u16();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    (status, location, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn logs_come_from_the_agent() {
    let server = start().await;
    let pods = pod_on_agent(&server).await;
    let params = LogParams { follow: true, tail_lines: Some(7), ..LogParams::default() };
    let mut lines = pods.log_stream("p", &params).await.unwrap().lines();
    let line = lines.try_next().await.unwrap().unwrap();
    assert_eq!(line, "GET /containerLogs/default/p/c?follow=true&tailLines=7 HTTP/1.1");
}

#[tokio::test]
async fn exec_is_passed_through() {
    let server = start().await;
    let pods = pod_on_agent(&server).await;
    let params = AttachParams::default().stdout(true).stderr(false);
    let mut process = pods.exec("p", ["true"], &params).await.unwrap();
    let mut out = String::new();
    process.stdout().unwrap().read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "hello\n");
    let status = process.take_status().unwrap().await.unwrap();
    assert_eq!(status.status.as_deref(), Some("Success"));
}

/// What the server sends over a WebSocket until it has nothing more, or `enough` messages.
async fn received(
    server: &TestServer,
    path: &str,
    protocol: Option<&str>,
    enough: usize,
) -> Vec<Message> {
    use futures::StreamExt as _;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    let stream = server.dial("admin", &["system:masters"], "http/1.1").await.unwrap();
    let mut request = format!("wss://a{path}").into_client_request().unwrap();
    if let Some(protocol) = protocol {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let data = socket.filter_map(|message| {
        std::future::ready(message.ok().filter(|one: &Message| !one.is_close()))
    });
    let messages = data.take(enough).collect::<Vec<_>>();
    tokio::time::timeout(std::time::Duration::from_secs(20), messages).await.unwrap()
}

/// Browsers read streams over WebSockets.
#[tokio::test]
async fn logs_and_watches_are_sent_over_websockets() {
    let server = start().await;
    pod_on_agent(&server).await;
    let log = "/api/v1/namespaces/default/pods/p/log";
    let line = "GET /containerLogs/default/p/c HTTP/1.1\n";
    let sent = received(&server, log, Some("binary.k8s.io"), 9).await;
    assert_eq!(sent, [Message::binary(""), Message::binary(line)]);
    let sent = received(&server, log, Some("base64.binary.k8s.io"), 9).await;
    let line = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, line);
    assert_eq!(sent, [Message::text(""), Message::text(line)]);
    let sent = received(&server, "/api/v1/pods?watch=true", None, 2).await;
    for message in sent {
        let event: serde_json::Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("ADDED"), &json!("Pod")));
    }
}

#[tokio::test]
async fn an_absent_agent_is_told() {
    let server = start().await;
    let pods = pod_on_agent(&server).await;
    let nodes: Api<Node> = Api::all(server.client());
    let nowhere = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}});
    nodes.patch_status("n", &PatchParams::default(), &Patch::Merge(nowhere)).await.unwrap();
    let error = pods.logs("p", &LogParams::default()).await.unwrap_err();
    assert!(
        matches!(error, kube::Error::Api(s) if s.code == 503 && s.message.contains("127.0.0.1:1"))
    );
}

#[tokio::test]
async fn redirects_are_shown_and_never_followed() {
    let server = start().await;
    pod_on_agent(&server).await;
    let proxy = "/api/v1/nodes/n/proxy";
    let at = |location: &str| Some(location.to_owned());
    let (status, location, _) = get(&server, &format!("{proxy}/elsewhere")).await;
    assert_eq!((status, location), (302, at("http://169.254.169.254/")));
    let (status, location, _) = get(&server, &format!("{proxy}/here")).await;
    assert_eq!((status, location), (302, at("/api/v1/nodes/n/proxy/login?a=b")));
    let (status, location, _) = get(&server, &format!("{proxy}?a=b")).await;
    assert_eq!((status, location), (301, at("/api/v1/nodes/n/proxy/?a=b")));
    let (status, location, text) = get(&server, "/api/v1/namespaces/default/pods/moved/log").await;
    assert_eq!((status, location), (500, None), "{text}");
    assert!(text.contains("redirects forbidden"), "{text}");
}

#[tokio::test]
async fn a_proxy_passes_on_what_no_object_takes() {
    let server = start().await;
    pod_on_agent(&server).await;
    for method in ["HEAD", "OPTIONS"] {
        let request = http::Request::builder().method(method).uri("/api/v1/nodes/n/proxy/page");
        let response =
            server.client().send(request.body(Vec::new().into()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200, "{method}");
        let request = http::Request::builder().method(method).uri("/api/v1/nodes/n");
        let response =
            server.client().send(request.body(Vec::new().into()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 405, "{method}");
    }
}

#[tokio::test]
async fn links_of_pages_lead_below_the_proxy() {
    let server = start().await;
    pod_on_agent(&server).await;
    let (status, _, text) = get(&server, "/api/v1/nodes/n/proxy/page").await;
    assert_eq!((status, text.as_str()), (200, "<a href=\"/api/v1/nodes/n/proxy/x\">"));
}

#[tokio::test]
async fn an_agent_s_refusal_of_a_log_is_a_status() {
    let server = start().await;
    let pods = pod_on_agent(&server).await;
    let error = pods.logs("early", &LogParams::default()).await.unwrap_err();
    assert!(
        matches!(&error, kube::Error::Api(s) if s.code == 400 && s.reason == "BadRequest" && s.message == "no\n"),
        "{error}"
    );
}

/// A client whose upgrade failed cannot speak to the agent behind the server's back (CVE-2018-1002105): what
/// it sends next is a request to the server. The agent asserts that nothing comes behind its answer.
#[tokio::test]
async fn a_failed_upgrade_leaves_no_road_to_the_agent() {
    let server = start().await;
    pod_on_agent(&server).await;
    for (path, expected) in [("refused", "403 Forbidden"), ("unmoved", "500 Internal Server Error")]
    {
        let stream = server.dial("admin", &["system:masters"], "http/1.1").await;
        let mut stream = stream.unwrap();
        let upgrade = format!(
            "GET /api/v1/nodes/n/proxy/{path} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
        );
        let smuggled = "GET /exec/default/p/c HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(upgrade.as_bytes()).await.unwrap();
        stream.write_all(smuggled.as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        let read = stream.read_to_end(&mut answers);
        let read = tokio::time::timeout(std::time::Duration::from_secs(10), read).await;
        let _ = read.expect("the server ends the connection");
        let answers = String::from_utf8_lossy(&answers);
        let mut lines = answers.lines().filter(|line| line.contains("HTTP/1.1 "));
        assert!(lines.next().unwrap().ends_with(expected), "{answers}");
        assert!(lines.all(|line| line.ends_with("404 Not Found")), "{answers}");
    }
}

/// Neither a node's address nor an endpoint's can turn the server's rights against its own machine.
#[tokio::test]
async fn addresses_of_this_machine_are_refused() {
    let server = TestServer::start().await.unwrap();
    pod_on_agent(&server).await;
    let paths = [
        "/api/v1/nodes/n/proxy/healthz",
        "/api/v1/nodes/n:1/proxy/healthz",
        "/api/v1/namespaces/default/pods/p/log",
    ];
    for path in paths {
        let (status, _, text) = get(&server, path).await;
        assert_eq!(status, 400, "{path}: {text}");
        assert!(text.contains("address not allowed"), "{path}: {text}");
    }
    let (status, _, text) = get(&server, "/api/v1/nodes/ftp:n:1/proxy/").await;
    assert!(status == 400 && text.contains("invalid node request"), "{text}");
}

/// Who may write Endpoints does not choose where the server connects to: an endpoint is a pod, or none.
#[tokio::test]
async fn endpoints_that_are_no_pods_are_not_dialled() {
    use k8s_openapi::api::core::v1::{Endpoints, Service};
    let server = start().await;
    pod_on_agent(&server).await;
    let client = server.client();
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    services
        .create(&PostParams::default(), &serde_json::from_value(service).unwrap())
        .await
        .unwrap();
    let foreign = json!({"metadata": {"name": "s"}, "subsets": [{"ports": [{"port": 80}], "addresses": [
        {"ip": "192.0.2.7"},
        {"ip": "192.0.2.7", "targetRef": {"kind": "Pod", "name": "p", "namespace": "default"}},
        {"ip": "192.0.2.7", "targetRef": {"kind": "Pod", "name": "p", "namespace": "other"}}]}]});
    let endpoints: Api<Endpoints> = Api::namespaced(client, "default");
    endpoints
        .create(&PostParams::default(), &serde_json::from_value(foreign).unwrap())
        .await
        .unwrap();
    let (status, _, text) = get(&server, "/api/v1/namespaces/default/services/s:80/proxy/").await;
    assert!(status == 503 && text.contains("no endpoints available for service"), "{text}");
}
