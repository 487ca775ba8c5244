//! WebSocket, in the two ways that Kubernetes uses it: numbered channels, and a tunnel for SPDY.

use base64::Engine;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::StatusCode;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http_body_util::BodyExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{Request, Response, text};

/// Bytes of one message.
const CHUNK: usize = 16 << 10;
/// Messages waiting to be written.
const OUTBOX: usize = 32;
/// Longest wait for the client's answer to a close frame.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(1);
/// First byte of a message that closes a channel (v5).
pub(super) const CLOSE: u8 = 255;

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Whether the request asks for a WebSocket.
pub(super) fn is_asked_for(request: &Request) -> bool {
    let upgrade = request.headers().get(UPGRADE).and_then(|v| v.to_str().ok());
    upgrade.is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}

/// The first protocol of `known` that the client offers; `None` if it offers others only.
pub(super) fn choose<'a>(request: &Request, known: &[&'a str]) -> Option<&'a str> {
    let headers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let offered: Vec<String> = headers
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(',').map(|p| p.trim().to_owned()))
        .collect();
    known.iter().find(|k| offered.iter().any(|o| o == *k)).copied()
}

/// Answers the handshake and runs `task` on the open socket.
pub(super) fn accept<F, Fut>(mut request: Request, protocol: &str, task: F) -> Response
where
    F: FnOnce(Socket) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let key = request.headers().get("sec-websocket-key").map(|k| derive_accept_key(k.as_bytes()));
    let Some(key) = key.and_then(|k| k.parse::<http::HeaderValue>().ok()) else {
        return text(StatusCode::BAD_REQUEST, "not a WebSocket handshake");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(io) => {
                let io = TokioIo::new(io);
                task(WebSocketStream::from_raw_socket(io, Role::Server, None).await).await;
            }
            Err(error) => tracing::debug!(error = %error, "upgrade failed"),
        }
    });
    let mut response = switching("websocket");
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, key);
    if let Ok(protocol) = protocol.parse() {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

/// `101 Switching Protocols`.
pub(super) fn switching(to: &'static str) -> Response {
    let empty = http_body_util::Empty::<Bytes>::new().map_err(|never| match never {});
    let mut response = http::Response::new(empty.boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, http::HeaderValue::from_static(to));
    response
}

/// A message of a channel that the client has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inbound {
    /// Bytes of a channel.
    Data(u8, Bytes),
    /// The client closes a channel.
    Closed(u8),
}

/// Pumps numbered messages until either side goes. The socket is closed when all senders are gone.
pub(super) async fn channels(
    socket: Socket,
    inbound: mpsc::Sender<Inbound>,
    mut outbound: mpsc::Receiver<(u8, Bytes)>,
    base64: bool,
) {
    let (mut sink, mut stream) = socket.split();
    let reading = async {
        while let Some(message) = stream.next().await {
            let message = match message {
                Ok(Message::Binary(bytes)) => parse(&bytes),
                Ok(Message::Text(text)) if base64 => parse_base64(text.as_bytes()),
                Ok(Message::Text(text)) => parse(text.as_bytes()),
                Ok(Message::Close(_)) | Err(_) => break,
                Ok(_) => None,
            };
            if let Some(message) = message {
                // A process that takes no more input may still have output.
                let _ = inbound.send(message).await;
            }
        }
    };
    let writing = async {
        while let Some((channel, data)) = outbound.recv().await {
            let message = if base64 {
                let digit = char::from(b'0' + channel % 10);
                let data = base64::engine::general_purpose::STANDARD.encode(&data);
                Message::Text(format!("{digit}{data}").into())
            } else {
                let mut message = BytesMut::with_capacity(data.len() + 1);
                message.put_u8(channel);
                message.extend_from_slice(&data);
                Message::Binary(message.freeze())
            };
            sink.send(message).await?;
        }
        sink.send(normal_close()).await
    };
    tokio::pin!(reading);
    tokio::select! {
        () = &mut reading => (),
        ended = writing => {
            let ended: Result<(), Error> = ended;
            if ended.is_ok() {
                // The client's own close frame says that it has read everything.
                let _ = tokio::time::timeout(GOODBYE, reading).await;
            }
        }
    }
}

/// kubectl takes any other code, and none at all, for a broken connection.
fn normal_close() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

fn parse(bytes: &[u8]) -> Option<Inbound> {
    match bytes {
        [CLOSE, channel, ..] => Some(Inbound::Closed(*channel)),
        [channel, data @ ..] => Some(Inbound::Data(*channel, Bytes::copy_from_slice(data))),
        [] => None,
    }
}

fn parse_base64(text: &[u8]) -> Option<Inbound> {
    let (digit, data) = text.split_first()?;
    let data = base64::engine::general_purpose::STANDARD.decode(data).ok()?;
    Some(Inbound::Data(digit.checked_sub(b'0')?, Bytes::from(data)))
}

/// A writer whose bytes become messages of one channel.
pub(super) fn writer(channel: u8, outbound: mpsc::Sender<(u8, Bytes)>) -> DuplexStream {
    let (near, mut far) = tokio::io::duplex(CHUNK);
    tokio::spawn(async move {
        let mut buffer = vec![0; CHUNK];
        while let Ok(n @ 1..) = far.read(&mut buffer).await {
            let data = Bytes::copy_from_slice(&buffer[..n]);
            if outbound.send((channel, data)).await.is_err() {
                return;
            }
        }
    });
    near
}

/// A message to the client: channel and bytes.
type Outbound = (u8, Bytes);

/// Room for messages to be written.
pub(super) fn outbox() -> (mpsc::Sender<Outbound>, mpsc::Receiver<Outbound>) {
    mpsc::channel(OUTBOX)
}

/// The socket as a plain byte stream.
pub(super) fn tunnel(socket: Socket) -> DuplexStream {
    let (near, far) = tokio::io::duplex(4 * CHUNK);
    let (mut sink, mut stream) = socket.split();
    let (mut from_user, mut to_user) = tokio::io::split(far);
    tokio::spawn(async move {
        let reading = async {
            while let Some(Ok(message)) = stream.next().await {
                let open = match message {
                    Message::Binary(bytes) => to_user.write_all(&bytes).await.is_ok(),
                    Message::Close(_) => false,
                    _ => true,
                };
                if !open {
                    break;
                }
            }
            to_user.shutdown().await.ok();
        };
        let writing = async {
            let mut buffer = vec![0; 4 * CHUNK];
            while let Ok(n @ 1..) = from_user.read(&mut buffer).await {
                let data = Bytes::copy_from_slice(&buffer[..n]);
                if sink.send(Message::Binary(data)).await.is_err() {
                    break;
                }
            }
            sink.send(normal_close()).await.ok();
        };
        tokio::pin!(reading);
        tokio::select! {
            () = &mut reading => (),
            () = writing => drop(tokio::time::timeout(GOODBYE, reading).await),
        }
    });
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_begin_with_their_channel() {
        let data =
            |channel, bytes: &'static [u8]| Some(Inbound::Data(channel, Bytes::from_static(bytes)));
        assert_eq!(parse(&[0, b'h', b'i']), data(0, b"hi"));
        assert_eq!(parse(&[4]), data(4, b""));
        assert_eq!(parse(&[CLOSE, 0]), Some(Inbound::Closed(0)));
        assert_eq!(parse(&[]), None);
        assert_eq!(parse_base64(b"0aGk="), data(0, b"hi"));
    }
}
