//! SPDY/3.1 as far as Kubernetes speaks it: many byte streams with headers on one connection.
//!
//! kubectl forwards ports over it, inside a WebSocket or (older ones) by an upgrade of the connection itself; the upstream API server uses it for all streams to a node.

mod codec;

use std::collections::HashMap;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, WriteHalf};
use tokio::sync::mpsc;

pub(super) use codec::Headers;
use codec::{Decoder, Encoder, FLAG_FIN, Frame};

/// Bytes held for a stream whose reader is slow; then the whole connection waits.
const STREAM_BUFFER: usize = 256 << 10;
/// Bytes of one data frame.
const CHUNK: usize = 16 << 10;
/// Longest wait for the client to close after the last answer.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(1);
/// Frames waiting to be written.
const OUTBOX: usize = 32;

/// A stream that the client has opened.
pub(super) struct Incoming {
    /// What the client says about it.
    pub(super) headers: Headers,
    /// Its bytes. Shutting down the writing half tells the client that no more come.
    pub(super) io: DuplexStream,
}

impl Incoming {
    /// A header by its name in small letters.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// Serves one connection until the client goes or `incoming` is dropped; then what was written is still sent.
pub(super) async fn serve<S>(stream: S, incoming: mpsc::Sender<Incoming>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut reader, writer) = tokio::io::split(stream);
    let (outbox, frames) = mpsc::channel(OUTBOX);
    let writing = tokio::spawn(write_frames(writer, frames));
    let reading = read_frames(&mut reader, outbox, incoming);
    if let Err(error) = reading.await {
        tracing::debug!(error = %error, "SPDY connection ended");
    }
    // The outbox closes when the last stream has been drained.
    let _ = writing.await;
    // Closing while the client still sends would reset the connection under the last answers.
    let mut rest = vec![0; 4096];
    let drained = async { while let Ok(1..) = reader.read(&mut rest).await {} };
    let _ = tokio::time::timeout(GOODBYE, drained).await;
}

async fn write_frames<W: AsyncWrite + Unpin>(mut writer: W, mut frames: mpsc::Receiver<Frame>) {
    let mut encoder = Encoder::new();
    let mut buffer = Vec::new();
    while let Some(frame) = frames.recv().await {
        encoder.encode(&frame, &mut buffer);
        // What waits already goes out together.
        while let Ok(frame) = frames.try_recv() {
            encoder.encode(&frame, &mut buffer);
        }
        let sent = async {
            writer.write_all(&buffer).await?;
            writer.flush().await
        };
        if sent.await.is_err() {
            return;
        }
        buffer.clear();
    }
    writer.shutdown().await.ok();
}

async fn read_frames<R: AsyncRead + Unpin>(
    reader: &mut R,
    outbox: mpsc::Sender<Frame>,
    incoming: mpsc::Sender<Incoming>,
) -> std::io::Result<()> {
    let mut decoder = Decoder::new();
    let mut streams: HashMap<u32, WriteHalf<DuplexStream>> = HashMap::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = tokio::select! {
            () = incoming.closed() => return Ok(()),
            n = reader.read(&mut buffer) => n?,
        };
        if n == 0 {
            return Ok(());
        }
        decoder.feed(&buffer[..n]);
        while let Some(frame) = decoder.next()? {
            match frame {
                Frame::SynStream { id, headers, flags } => {
                    let (near, far) = tokio::io::duplex(STREAM_BUFFER);
                    let (from_user, mut to_user) = tokio::io::split(far);
                    tokio::spawn(drain(id, from_user, outbox.clone()));
                    if flags & FLAG_FIN != 0 {
                        to_user.shutdown().await.ok();
                    }
                    streams.insert(id, to_user);
                    let reply = Frame::SynReply { id, headers: Headers::new(), flags: 0 };
                    let _ = outbox.send(reply).await;
                    let _ = incoming.send(Incoming { headers, io: near }).await;
                }
                Frame::Data { id, data, flags } => {
                    let Some(to_user) = streams.get_mut(&id) else { continue };
                    // Whoever has gone does not care.
                    to_user.write_all(&data).await.ok();
                    if flags & FLAG_FIN != 0 {
                        to_user.shutdown().await.ok();
                        streams.remove(&id);
                    }
                }
                Frame::RstStream { id, .. } => {
                    if let Some(mut to_user) = streams.remove(&id) {
                        to_user.shutdown().await.ok();
                    }
                }
                Frame::Ping { id } if id % 2 == 1 => {
                    let _ = outbox.send(Frame::Ping { id }).await;
                }
                Frame::GoAway => return Ok(()),
                Frame::SynReply { .. } | Frame::Ping { .. } | Frame::Other => (),
            }
        }
    }
}

/// Sends what the user writes to a stream.
async fn drain(
    id: u32,
    mut from_user: tokio::io::ReadHalf<DuplexStream>,
    outbox: mpsc::Sender<Frame>,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = from_user.read(&mut buffer).await.unwrap_or(0);
        let flags = if n == 0 { FLAG_FIN } else { 0 };
        let data = Bytes::copy_from_slice(&buffer[..n]);
        if outbox.send(Frame::Data { id, data, flags }).await.is_err() || n == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_carry_bytes_both_ways() {
        let (client, server) = tokio::io::duplex(1 << 20);
        let (sender, mut incoming) = mpsc::channel(4);
        let serving = tokio::spawn(serve(server, sender));
        let (mut reader, mut writer) = tokio::io::split(client);
        let mut encoder = Encoder::new();
        let mut out = Vec::new();
        let headers = vec![("streamtype".to_owned(), "data".to_owned())];
        encoder.encode(&Frame::SynStream { id: 1, headers, flags: 0 }, &mut out);
        let data = Bytes::from_static(b"hello");
        encoder.encode(&Frame::Data { id: 1, data, flags: FLAG_FIN }, &mut out);
        encoder.encode(&Frame::Ping { id: 7 }, &mut out);
        writer.write_all(&out).await.unwrap();
        let mut stream = incoming.recv().await.unwrap();
        assert_eq!(stream.header("streamType"), Some("data"));
        let mut text = String::new();
        stream.io.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        stream.io.write_all(b"world").await.unwrap();
        drop(stream);
        drop(incoming);
        let mut raw = Vec::new();
        writer.shutdown().await.unwrap();
        reader.read_to_end(&mut raw).await.unwrap();
        let mut decoder = Decoder::new();
        decoder.feed(&raw);
        let mut seen = Vec::new();
        while let Some(frame) = decoder.next().unwrap() {
            seen.push(match frame {
                Frame::SynReply { id, .. } => format!("reply {id}"),
                Frame::Data { data, flags, .. } => {
                    format!("data {} {flags}", String::from_utf8_lossy(&data))
                }
                Frame::Ping { id } => format!("ping {id}"),
                other => format!("{other:?}"),
            });
        }
        seen.sort();
        assert_eq!(seen, ["data  1", "data world 0", "ping 7", "reply 1"]);
        serving.await.unwrap();
    }
}
