//! Streams through the server to a node agent, which is a small one made here.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

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
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    pods
}

#[tokio::test]
async fn logs_come_from_the_agent() {
    let server = TestServer::start().await.unwrap();
    let pods = pod_on_agent(&server).await;
    let params = LogParams { follow: true, tail_lines: Some(7), ..LogParams::default() };
    let mut lines = pods.log_stream("p", &params).await.unwrap().lines();
    let line = lines.try_next().await.unwrap().unwrap();
    assert_eq!(line, "GET /containerLogs/default/p/c?follow=true&tailLines=7 HTTP/1.1");
}

#[tokio::test]
async fn exec_is_passed_through() {
    let server = TestServer::start().await.unwrap();
    let pods = pod_on_agent(&server).await;
    let params = AttachParams::default().stdout(true).stderr(false);
    let mut process = pods.exec("p", ["true"], &params).await.unwrap();
    let mut out = String::new();
    process.stdout().unwrap().read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "hello\n");
    let status = process.take_status().unwrap().await.unwrap();
    assert_eq!(status.status.as_deref(), Some("Success"));
}

#[tokio::test]
async fn an_absent_agent_is_told() {
    let server = TestServer::start().await.unwrap();
    let pods = pod_on_agent(&server).await;
    let nodes: Api<Node> = Api::all(server.client());
    let nowhere = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}});
    nodes.patch_status("n", &PatchParams::default(), &Patch::Merge(nowhere)).await.unwrap();
    let error = pods.logs("p", &LogParams::default()).await.unwrap_err();
    assert!(
        matches!(error, kube::Error::Api(s) if s.code == 503 && s.message.contains("127.0.0.1:1"))
    );
}
