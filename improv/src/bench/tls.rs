//! One TLS connection that copies what comes as seldom as it can.
//!
//! The load generator shares the processors with the server. Through the usual chain of readers each byte of a watch
//! is copied five times, into buffers of a thousand connections that no cache holds; here all connections of a thread
//! read into one buffer, and what is decrypted there is looked at while it is in the cache.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};

use anyhow::{Context, anyhow, ensure};
use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::target::Target;

/// Bytes that are taken from a socket at once; more than the longest record (RFC 8446, 5.2) has.
const READ: usize = 64 * 1024;
/// What a record may take beside its content (RFC 8446, 5.2), and the longest content.
const RECORD: usize = 5 + 256;
const FRAGMENT: usize = 16 * 1024;

thread_local! {
    static INCOMING: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// A connection that is ready for requests.
pub(crate) struct Tls {
    socket: TcpStream,
    session: UnbufferedClientConnection,
    /// The beginning of a record whose end has not come.
    rest: Vec<u8>,
}

impl Tls {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// If the server does not listen, or one side does not trust the other.
    pub(crate) async fn open(target: &Target) -> anyhow::Result<Self> {
        let cannot = || format!("cannot connect to {}", target.address);
        let socket = TcpStream::connect(target.address).await.with_context(cannot)?;
        socket.set_nodelay(true)?;
        let session = UnbufferedClientConnection::new(target.tls.clone(), target.name.clone())?;
        let mut tls = Self { socket, session, rest: Vec::new() };
        tls.shake_hands().await.with_context(cannot)?;
        Ok(tls)
    }

    async fn shake_hands(&mut self) -> anyhow::Result<()> {
        let mut outgoing = Vec::new();
        loop {
            let UnbufferedStatus { discard, state } =
                self.session.process_tls_records(&mut self.rest);
            let mut is_blocked = false;
            match state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    append(&mut outgoing, |to| data.encode(to))?;
                }
                ConnectionState::TransmitTlsData(data) => {
                    self.socket.write_all(&outgoing).await?;
                    outgoing.clear();
                    data.done();
                }
                ConnectionState::BlockedHandshake => is_blocked = true,
                ConnectionState::WriteTraffic(_) => {
                    self.rest.drain(..discard);
                    return Ok(());
                }
                other => return Err(anyhow!("{other:?} while shaking hands")),
            }
            self.rest.drain(..discard);
            if is_blocked {
                let read = self.socket.read_buf(&mut self.rest).await?;
                ensure!(read > 0, "the server closed the connection while shaking hands");
            }
        }
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// If the connection ended.
    pub(crate) async fn send(&mut self, plain: &[u8]) -> anyhow::Result<()> {
        let UnbufferedStatus { state, .. } = self.session.process_tls_records(&mut []);
        let ConnectionState::WriteTraffic(mut session) = state? else {
            return Err(anyhow!("the server closed the connection"));
        };
        let mut outgoing = vec![0; plain.len() + RECORD * (1 + plain.len() / FRAGMENT)];
        let length = session.encrypt(plain, &mut outgoing)?;
        Ok(self.socket.write_all(&outgoing[..length]).await?)
    }

    /// Waits for bytes and hands over those that are there, in one piece or several, perhaps none.
    ///
    /// # Errors
    /// If the connection ended, or `take` does not like them.
    pub(crate) async fn receive(
        &mut self,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut outgoing = Vec::new();
        poll_fn(|context| {
            INCOMING.with_borrow_mut(|incoming| {
                let kept = self.rest.len();
                let mut into = ReadBuf::new(&mut incoming[kept..]);
                ready!(Pin::new(&mut self.socket).poll_read(context, &mut into))?;
                let read = into.filled().len();
                if read == 0 {
                    return Poll::Ready(Err(anyhow!("the server closed the connection")));
                }
                incoming[..kept].copy_from_slice(&self.rest);
                let incoming = &mut incoming[..kept + read];
                let used = decrypt(&mut self.session, incoming, &mut outgoing, &mut take)?;
                self.rest.clear();
                self.rest.extend_from_slice(&incoming[used..]);
                Poll::Ready(Ok(()))
            })
        })
        .await?;
        if !outgoing.is_empty() {
            self.socket.write_all(&outgoing).await?;
        }
        Ok(())
    }
}

/// Hands over the content of all whole records; answers how many bytes they are. What the protocol itself has to say
/// to them (new keys) is put into `outgoing`.
fn decrypt(
    session: &mut UnbufferedClientConnection,
    incoming: &mut [u8],
    outgoing: &mut Vec<u8>,
    take: &mut impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    let mut used = 0;
    loop {
        let UnbufferedStatus { mut discard, state } =
            session.process_tls_records(&mut incoming[used..]);
        match state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    take(record.payload)?;
                }
            }
            ConnectionState::EncodeTlsData(mut data) => append(outgoing, |to| data.encode(to))?,
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(_) => return Ok(used + discard),
            other => return Err(anyhow!("the server closed the connection ({other:?})")),
        }
        used += discard;
    }
}

/// Appends what is encoded, however long it is.
fn append(
    out: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> anyhow::Result<()> {
    let start = out.len();
    if let Err(EncodeError::InsufficientSize(error)) = encode(&mut []) {
        out.resize(start + error.required_size, 0);
    }
    let length = encode(&mut out[start..])?;
    out.truncate(start + length);
    Ok(())
}
