//! port-forward: connections into a pod's network, many on one client connection.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::routes::Query;
use super::spdy::{self, Incoming};
use super::websocket::{self, Inbound};
use super::{Request, Response, Shared, session, text};
use crate::pods::worker::Handle;
use crate::runtime::Runtime;

/// SPDY inside a WebSocket, which kubectl uses from 1.31 on.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Protocol of the streams on SPDY.
const STREAMS: &str = "portforward.k8s.io";

pub(super) fn serve(shared: &Shared, request: Request, query: &Query, handle: &Handle) -> Response {
    let uid = handle.view().wanted.as_ref().map(|w| w.uid.clone()).unwrap_or_default();
    let runtime = shared.ctx.runtime.clone();
    if !websocket::is_asked_for(&request) {
        return session::accept_spdy(request, &[STREAMS], move |io| over_spdy(io, runtime, uid));
    }
    let known = [TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
    match websocket::choose(&request, &known) {
        None => text(StatusCode::BAD_REQUEST, "no known WebSocket protocol was offered"),
        Some(TUNNEL) => websocket::accept(request, TUNNEL, move |socket| {
            over_spdy(websocket::tunnel(socket), runtime, uid)
        }),
        Some(protocol) => {
            let ports: Vec<String> = [query.all("ports"), query.all("port")].concat();
            let ports: Result<Vec<u16>, _> =
                ports.iter().flat_map(|p| p.split(',')).map(str::parse).collect();
            let Ok(ports) = ports else {
                return text(StatusCode::BAD_REQUEST, "ports must be numbers");
            };
            if ports.is_empty() {
                return text(StatusCode::BAD_REQUEST, "at least one port is required");
            }
            let base64 = protocol.contains("base64");
            websocket::accept(request, protocol, move |socket| {
                over_channels(socket, base64, ports, runtime, uid)
            })
        }
    }
}

async fn over_spdy<S>(io: S, runtime: Arc<dyn Runtime>, uid: String)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, mut incoming) = mpsc::channel(8);
    let serving = tokio::spawn(spdy::serve(io, sender));
    // Each connection is a pair: `error` comes first, then `data`, with one request id.
    let mut halves: HashMap<String, Incoming> = HashMap::new();
    while let Some(stream) = incoming.recv().await {
        let request = stream.header("requestid").unwrap_or_default().to_owned();
        let Some(other) = halves.remove(&request) else {
            halves.insert(request, stream);
            continue;
        };
        let (data, error) = if stream.header("streamtype") == Some("data") {
            (stream, other)
        } else {
            (other, stream)
        };
        let port = data.header("port").and_then(|p| p.parse().ok()).unwrap_or(0);
        tokio::spawn(connect(runtime.clone(), uid.clone(), port, data.io, error.io));
    }
    let _ = serving.await;
}

/// One connection into the pod. What goes wrong is told on `error`.
async fn connect(
    runtime: Arc<dyn Runtime>,
    uid: String,
    port: u16,
    mut data: DuplexStream,
    mut error: DuplexStream,
) {
    match runtime.dial(&uid, port).await {
        Ok(mut pod) => {
            tokio::io::copy_bidirectional(&mut data, &mut pod).await.ok();
        }
        Err(why) => {
            let text = format!(
                "an error occurred forwarding {port} -> {port}: error forwarding port {port} to pod {uid}: {why}"
            );
            error.write_all(text.as_bytes()).await.ok();
        }
    }
    error.shutdown().await.ok();
    data.shutdown().await.ok();
}

/// Two channels a port: `2n` carries data, `2n + 1` errors; each begins with its port number.
async fn over_channels(
    socket: websocket::Socket,
    base64: bool,
    ports: Vec<u16>,
    runtime: Arc<dyn Runtime>,
    uid: String,
) {
    let (outbound, outbox) = websocket::outbox();
    let (inbound, mut inbox) = mpsc::channel(8);
    let mut pods: HashMap<u8, DuplexStream> = HashMap::new();
    for (index, port) in ports.into_iter().enumerate() {
        let Ok(channel) = u8::try_from(index * 2) else { break };
        let number = Bytes::copy_from_slice(&port.to_le_bytes());
        for channel in [channel, channel + 1] {
            let _ = outbound.send((channel, number.clone())).await;
        }
        let (near, far) = tokio::io::duplex(64 << 10);
        pods.insert(channel, near);
        let (data, errors) = (outbound.clone(), websocket::writer(channel + 1, outbound.clone()));
        let (runtime, uid) = (runtime.clone(), uid.clone());
        tokio::spawn(async move {
            let client = Client { read: far, write: websocket::writer(channel, data) };
            forward(runtime, uid, port, client, errors).await;
        });
    }
    drop(outbound);
    let feeding = tokio::spawn(async move {
        while let Some(message) = inbox.recv().await {
            match message {
                Inbound::Data(channel, data) => {
                    if let Some(pod) = pods.get_mut(&channel) {
                        pod.write_all(&data).await.ok();
                    }
                }
                Inbound::Closed(channel) => drop(pods.remove(&channel)),
            }
        }
    });
    websocket::channels(socket, inbound, outbox, base64).await;
    feeding.abort();
}

/// What the client sends, and where its answers go.
struct Client {
    read: DuplexStream,
    write: DuplexStream,
}

async fn forward(
    runtime: Arc<dyn Runtime>,
    uid: String,
    port: u16,
    client: Client,
    mut error: DuplexStream,
) {
    match runtime.dial(&uid, port).await {
        Ok(pod) => {
            let (mut from_pod, mut to_pod) = tokio::io::split(pod);
            let Client { mut read, mut write } = client;
            let there = async {
                tokio::io::copy(&mut read, &mut to_pod).await.ok();
                to_pod.shutdown().await.ok();
            };
            let back = async {
                tokio::io::copy(&mut from_pod, &mut write).await.ok();
                write.shutdown().await.ok();
            };
            tokio::join!(there, back);
        }
        Err(why) => {
            let text = format!("error forwarding port {port} to pod {uid}: {why}");
            error.write_all(text.as_bytes()).await.ok();
        }
    }
    error.shutdown().await.ok();
}
