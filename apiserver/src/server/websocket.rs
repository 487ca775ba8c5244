//! Watches and logs over WebSocket, which is how browsers read streams.
//!
//! The answer is made as for any other client, with all that counts and bounds it; here, outside of that, it only gets
//! another envelope. Source: upstream's `wsstream`, and `HandleWS` of its watch server.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Core;
use crate::protobuf;
use crate::request::RequestInfo;
use crate::status::ApiError;

/// Protocols in which a log is sent: as it is, or in base64. Without any, as it is.
const LOG_PROTOCOLS: [&str; 2] = ["binary.k8s.io", "base64.binary.k8s.io"];

/// Most bytes of a message of a client, which has nothing to say.
const MAX_HEARD: usize = 4096;

/// Answers over a WebSocket where a client asks for that.
pub(super) async fn layer(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match Handshake::take(&mut parts) {
        Ok(None) => next.run(Request::from_parts(parts, body)).await,
        Ok(Some(handshake)) => {
            let answer = next.run(Request::from_parts(parts, body)).await;
            handshake.carry(answer, core.stop().clone())
        }
        Err(error) => error.into_response(),
    }
}

/// A client's wish to get the answer over a WebSocket.
struct Handshake {
    upgrade: OnUpgrade,
    accept: HeaderValue,
    protocol: Option<HeaderValue>,
    envelope: Envelope,
}

/// What becomes one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Envelope {
    /// Bytes as they come.
    Binary,
    /// Bytes as they come, in base64.
    Base64,
    /// An event of a watch.
    Event,
}

impl Handshake {
    /// Takes the handshake off a request for a stream, so that whoever answers it sees a plain one.
    ///
    /// # Errors
    /// The client speaks none of the protocols, or it is no handshake.
    fn take(parts: &mut Parts) -> Result<Option<Self>, ApiError> {
        let Some(info) = parts.extensions.get::<RequestInfo>() else { return Ok(None) };
        let is_log = info.resource == "pods" && info.subresource == "log";
        if !(is_log || info.verb == "watch") || !is_asked_for(&parts.headers) {
            return Ok(None);
        }
        let refused = |why: &str| ApiError::BadRequest(format!("WebSocket handshake: {why}"));
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY);
        let accept = key.and_then(|key| derive_accept_key(key.as_bytes()).parse().ok());
        let accept = accept.ok_or_else(|| refused("Sec-WebSocket-Key is missing"))?;
        let offered = parts.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
        let offered = offered.iter().filter_map(|value| value.to_str().ok());
        let offered: Vec<&str> = offered.flat_map(|list| list.split(',')).map(str::trim).collect();
        let (protocol, envelope) = if is_log { log(&offered) } else { watch(&offered) }
            .ok_or_else(|| refused("none of the offered protocols is known"))?;
        let protocol = protocol.map(HeaderValue::from_str).transpose().ok().flatten();
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        let upgrade = upgrade.ok_or_else(|| refused("the connection cannot be upgraded"))?;
        parts.headers.remove(header::UPGRADE);
        parts.headers.remove(header::CONNECTION);
        Ok(Some(Self { upgrade, accept, protocol, envelope }))
    }

    /// Switches protocols, and sends the body of an answer; refusals stay what they are.
    fn carry(self, answer: Response, stop: CancellationToken) -> Response {
        if answer.status() != StatusCode::OK {
            return answer;
        }
        let kind = answer.headers().get(header::CONTENT_TYPE);
        let cut = match self.envelope {
            Envelope::Binary | Envelope::Base64 => Cut::None,
            Envelope::Event if kind.is_some_and(|kind| kind == protobuf::STREAM_MEDIA_TYPE) => {
                Cut::Lengths
            }
            Envelope::Event => Cut::Lines,
        };
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        if let Some(protocol) = self.protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let (upgrade, envelope) = (self.upgrade, self.envelope);
        let sent = async move {
            match upgrade.await {
                Ok(io) => {
                    let limits = WebSocketConfig::default()
                        .max_message_size(Some(MAX_HEARD))
                        .max_frame_size(Some(MAX_HEARD));
                    let io = TokioIo::new(io);
                    let socket =
                        WebSocketStream::from_raw_socket(io, Role::Server, Some(limits)).await;
                    if let Err(error) = send(socket, answer.into_body(), envelope, cut).await {
                        debug!(%error, "a client of a WebSocket has gone");
                    }
                }
                Err(error) => debug!(%error, "upgrade failed"),
            }
        };
        tokio::spawn(async move { stop.run_until_cancelled(sent).await });
        response
    }
}

/// Whether the request asks for a WebSocket.
fn is_asked_for(headers: &HeaderMap) -> bool {
    let has = |name, word: &str| {
        let text = headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        text.is_some_and(|list| list.split(',').any(|one| one.trim().eq_ignore_ascii_case(word)))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

fn log<'a>(offered: &[&'a str]) -> Option<(Option<&'a str>, Envelope)> {
    if offered.is_empty() {
        return Some((None, Envelope::Binary));
    }
    let chosen = offered.iter().copied().find(|one| LOG_PROTOCOLS.contains(one))?;
    let envelope = match chosen.starts_with("base64.") {
        true => Envelope::Base64,
        false => Envelope::Binary,
    };
    Some((Some(chosen), envelope))
}

/// Whatever single protocol the client names is taken.
fn watch<'a>(offered: &[&'a str]) -> Option<(Option<&'a str>, Envelope)> {
    match offered {
        [] => Some((None, Envelope::Event)),
        [one] => Some((Some(one), Envelope::Event)),
        _ => None,
    }
}

/// Sends a body until it ends or the client goes.
async fn send<S>(
    socket: WebSocketStream<S>,
    body: Body,
    envelope: Envelope,
    mut cut: Cut,
) -> Result<(), Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut sink, mut heard) = socket.split();
    let sending = async {
        // Clients of logs wait for a first, empty message.
        if envelope != Envelope::Event {
            sink.send(message(Bytes::new(), envelope, false)).await?;
        }
        let (mut chunks, mut rest) = (body.into_data_stream(), BytesMut::new());
        while let Some(Ok(chunk)) = chunks.next().await {
            rest.extend_from_slice(&chunk);
            while let Some(piece) = cut.next(&mut rest) {
                sink.feed(message(piece, envelope, cut == Cut::Lines)).await?;
            }
            sink.flush().await?;
        }
        sink.close().await
    };
    let leaving = async {
        while let Some(Ok(message)) = heard.next().await {
            if message.is_close() {
                break;
            }
        }
    };
    tokio::select! {
        sent = sending => sent,
        () = leaving => Ok(()),
    }
}

fn message(bytes: Bytes, envelope: Envelope, is_text: bool) -> Message {
    match envelope {
        Envelope::Base64 => Message::Text(STANDARD.encode(bytes).into()),
        _ if is_text => Message::Text(String::from_utf8_lossy(&bytes).into_owned().into()),
        _ => Message::Binary(bytes),
    }
}

/// How a body is cut into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Not at all: what there is.
    None,
    /// Behind each newline.
    Lines,
    /// Each piece has its length before it, which is left out.
    Lengths,
}

impl Cut {
    /// The next whole piece.
    fn next(&mut self, rest: &mut BytesMut) -> Option<Bytes> {
        let piece = match self {
            Self::None => rest.split(),
            Self::Lines => {
                let end = rest.iter().position(|byte| *byte == b'\n')?;
                rest.split_to(end + 1)
            }
            Self::Lengths => {
                let length = rest.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))?;
                let end = usize::try_from(length).ok()?.checked_add(4)?;
                if rest.len() < end {
                    return None;
                }
                let mut piece = rest.split_to(end);
                piece.advance(4);
                piece
            }
        };
        (!piece.is_empty()).then(|| piece.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(mut how: Cut, chunks: &[&[u8]]) -> Vec<Bytes> {
        let (mut rest, mut pieces) = (BytesMut::new(), Vec::new());
        for chunk in chunks {
            rest.extend_from_slice(chunk);
            pieces.extend(std::iter::from_fn(|| how.next(&mut rest)));
        }
        pieces
    }

    #[test]
    fn events_are_messages_however_they_come() {
        assert_eq!(cut(Cut::Lines, &[b"a\nb", b"b\n\n", b"c"]), [&b"a\n"[..], b"bb\n", b"\n"]);
        let lengths: [&[u8]; 3] = [&[0, 0, 0, 1, 7, 0, 0], &[0, 2, 8], &[9, 0, 0, 0, 0]];
        assert_eq!(cut(Cut::Lengths, &lengths), [&[7][..], &[8, 9]]);
        assert_eq!(cut(Cut::None, &[b"a", b"", b"b"]), [&b"a"[..], b"b"]);
    }

    #[test]
    fn protocols_are_agreed_on() {
        assert_eq!(log(&[]), Some((None, Envelope::Binary)));
        let base64 = log(&["x", "base64.binary.k8s.io"]);
        assert_eq!(base64, Some((Some("base64.binary.k8s.io"), Envelope::Base64)));
        assert_eq!(log(&["x"]), None);
        assert_eq!(watch(&["x"]), Some((Some("x"), Envelope::Event)));
    }
}
