//! One exec or attach as streams, whichever protocol the client speaks.

use std::time::Duration;

use http::StatusCode;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::spdy::{self, Incoming};
use super::websocket::{self, Inbound};
use super::{Request, Response, text};
use crate::runtime::TerminalSize;

/// Longest wait for a client to open its streams.
const OPENING: Duration = Duration::from_secs(30);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// Which streams the client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// The open streams.
pub(super) struct Session {
    pub(super) stdin: Option<DuplexStream>,
    pub(super) stdout: Option<DuplexStream>,
    pub(super) stderr: Option<DuplexStream>,
    /// Takes how it ended.
    pub(super) error: Ending,
    pub(super) resize: mpsc::Receiver<TerminalSize>,
    /// Ends when the client is gone.
    pub(super) gone: futures::future::BoxFuture<'static, ()>,
}

/// The stream that tells how a command or an attachment ended.
pub(super) struct Ending {
    stream: DuplexStream,
    /// Protocols before v4 say in words what failed, and nothing of a success; later ones send a Status.
    in_words: bool,
}

impl Ending {
    /// Tells it, and closes the stream.
    pub(super) async fn tell(mut self, outcome: &Outcome) {
        let said = match self.in_words {
            true => outcome.message().unwrap_or_default(),
            false => outcome.status(),
        };
        self.stream.write_all(said.as_bytes()).await.ok();
        self.stream.shutdown().await.ok();
    }
}

/// How a command or an attachment ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With exit code 0, or because nobody listens any more.
    Success,
    /// With another exit code.
    Exit(i32),
    /// It did not begin, or was lost.
    Internal(String),
}

impl Outcome {
    /// What failed, for people.
    fn message(&self) -> Option<String> {
        match self {
            Self::Success => None,
            Self::Exit(code) => {
                Some(format!("command terminated with non-zero exit code: exit status {code}"))
            }
            Self::Internal(why) => Some(format!("Internal error occurred: {why}")),
        }
    }

    /// A Status as JSON.
    fn status(&self) -> String {
        let message = self.message();
        let status = match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Exit(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Internal(why) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "InternalError",
                "details": {"causes": [{"message": why}]},
                "code": 500,
            }),
        };
        status.to_string()
    }
}

/// Answers the upgrade, and runs `task` once all streams are open.
pub(super) fn accept<F, Fut>(request: Request, wish: Wish, task: F) -> Response
where
    F: FnOnce(Session) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    if websocket::is_asked_for(&request) {
        let known = [
            "v5.channel.k8s.io",
            "v4.channel.k8s.io",
            "v4.base64.channel.k8s.io",
            "channel.k8s.io",
            "base64.channel.k8s.io",
        ];
        let Some(protocol) = websocket::choose(&request, &known) else {
            return text(StatusCode::BAD_REQUEST, "no known WebSocket protocol was offered");
        };
        let (base64, in_words) = (protocol.contains("base64"), !protocol.starts_with('v'));
        return websocket::accept(request, protocol, move |socket| {
            over_websocket(socket, base64, in_words, wish, task)
        });
    }
    accept_spdy(request, &["v4.channel.k8s.io"], move |io| over_spdy(io, wish, task))
}

async fn over_websocket<F, Fut>(
    socket: websocket::Socket,
    base64: bool,
    in_words: bool,
    wish: Wish,
    task: F,
) where
    F: FnOnce(Session) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (outbound, outbox) = websocket::outbox();
    let (inbound, mut inbox) = mpsc::channel(8);
    let (stdin, mut stdin_far) = tokio::io::duplex(64 << 10);
    let (sizes, resize) = mpsc::channel(8);
    let feeding = tokio::spawn(async move {
        while let Some(message) = inbox.recv().await {
            match message {
                Inbound::Data(STDIN, data) => {
                    stdin_far.write_all(&data).await.ok();
                }
                Inbound::Data(RESIZE, data) => {
                    if let Ok(size) = serde_json::from_slice(&data) {
                        let _ = sizes.try_send(size);
                    }
                }
                Inbound::Closed(STDIN) => {
                    stdin_far.shutdown().await.ok();
                }
                Inbound::Data(..) | Inbound::Closed(_) => (),
            }
        }
    });
    let session = Session {
        stdin: wish.stdin.then_some(stdin),
        stdout: wish.stdout.then(|| websocket::writer(STDOUT, outbound.clone())),
        stderr: (wish.stderr && !wish.tty).then(|| websocket::writer(STDERR, outbound.clone())),
        error: Ending { stream: websocket::writer(ERROR, outbound), in_words },
        resize,
        gone: Box::pin(std::future::pending()),
    };
    let running = tokio::spawn(task(session));
    websocket::channels(socket, inbound, outbox, base64).await;
    running.abort();
    feeding.abort();
}

/// Upgrades to SPDY, with one of `known` as the protocol of the streams.
pub(super) fn accept_spdy<F, Fut>(mut request: Request, known: &[&'static str], task: F) -> Response
where
    F: FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let upgrade = request.headers().get(http::header::UPGRADE).and_then(|v| v.to_str().ok());
    if !upgrade.is_some_and(|v| v.eq_ignore_ascii_case("SPDY/3.1")) {
        return text(
            StatusCode::BAD_REQUEST,
            "you must specify at least one of stdin, stdout, stderr, and upgrade the connection",
        );
    }
    let offered: Vec<String> = request
        .headers()
        .get_all("x-stream-protocol-version")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(',').map(|p| p.trim().to_owned()))
        .collect();
    let Some(protocol) = known.iter().find(|k| offered.iter().any(|o| o == *k)) else {
        return text(StatusCode::FORBIDDEN, "unable to upgrade: unable to negotiate protocol");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(io) => task(TokioIo::new(io)).await,
            Err(error) => tracing::debug!(error = %error, "upgrade failed"),
        }
    });
    let mut response = websocket::switching("SPDY/3.1");
    let protocol = http::HeaderValue::from_static(protocol);
    response.headers_mut().insert("x-stream-protocol-version", protocol);
    response
}

async fn over_spdy<F, Fut>(io: TokioIo<hyper::upgrade::Upgraded>, wish: Wish, task: F)
where
    F: FnOnce(Session) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (sender, mut incoming) = mpsc::channel(8);
    let serving = tokio::spawn(spdy::serve(io, sender));
    let opened = tokio::time::timeout(OPENING, open_streams(&mut incoming, wish)).await;
    let Ok(Some((mut streams, error))) = opened else {
        serving.abort();
        return;
    };
    let (sizes, resize) = mpsc::channel(8);
    if let Some(stream) = streams.resize.take() {
        tokio::spawn(read_sizes(stream, sizes));
    }
    let (alive, gone) = tokio::sync::oneshot::channel::<()>();
    let session = Session {
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        error: Ending { stream: error, in_words: false },
        resize,
        gone: Box::pin(async move {
            let _ = gone.await;
        }),
    };
    let running = tokio::spawn(task(session));
    tokio::spawn(async move {
        let _ = running.await;
        drop(incoming); // All is said: the connection ends once it is sent.
    });
    let _ = serving.await;
    drop(alive);
}

#[derive(Default)]
struct Streams {
    stdin: Option<DuplexStream>,
    stdout: Option<DuplexStream>,
    stderr: Option<DuplexStream>,
    resize: Option<DuplexStream>,
}

async fn open_streams(
    incoming: &mut mpsc::Receiver<Incoming>,
    wish: Wish,
) -> Option<(Streams, DuplexStream)> {
    let mut streams = Streams::default();
    let mut error = None;
    let wanted = 1
        + usize::from(wish.stdin)
        + usize::from(wish.stdout)
        + usize::from(wish.stderr && !wish.tty)
        + usize::from(wish.tty);
    for _ in 0..wanted {
        let stream = incoming.recv().await?;
        match stream.header("streamtype") {
            Some("stdin") => streams.stdin = Some(stream.io),
            Some("stdout") => streams.stdout = Some(stream.io),
            Some("stderr") => streams.stderr = Some(stream.io),
            Some("resize") => streams.resize = Some(stream.io),
            Some("error") => error = Some(stream.io),
            other => tracing::debug!(?other, "unknown stream type"),
        }
    }
    Some((streams, error?))
}

/// Sizes come as JSON objects one after the other.
async fn read_sizes(mut stream: DuplexStream, sizes: mpsc::Sender<TerminalSize>) {
    let mut buffer = Vec::new();
    let mut chunk = vec![0; 512];
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        buffer.extend_from_slice(&chunk[..n]);
        let mut values = serde_json::Deserializer::from_slice(&buffer).into_iter::<TerminalSize>();
        while let Some(Ok(size)) = values.next() {
            let _ = sizes.try_send(size);
        }
        let used = values.byte_offset();
        buffer.drain(..used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn old_protocols_are_told_in_words() {
        let told = async |in_words, outcome: Outcome| {
            let (stream, mut far) = tokio::io::duplex(1024);
            Ending { stream, in_words }.tell(&outcome).await;
            let mut text = String::new();
            far.read_to_string(&mut text).await.unwrap();
            text
        };
        assert_eq!(told(true, Outcome::Success).await, "");
        assert!(told(true, Outcome::Exit(3)).await.ends_with("exit status 3"));
        assert_eq!(told(false, Outcome::Success).await, r#"{"metadata":{},"status":"Success"}"#);
        assert!(told(false, Outcome::Exit(3)).await.contains("NonZeroExitCode"));
    }
}
