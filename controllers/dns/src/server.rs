//! The sockets: takes queries over UDP and TCP, and passes foreign ones on to upstream servers unchanged.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::answer::{Reply, Transport, reply, server_failure};
use crate::zone::Zone;

/// How long an upstream server may take; clients ask again after five seconds.
const UPSTREAM_PATIENCE: Duration = Duration::from_secs(2);
/// How long a TCP client may be silent.
///
/// Source: RFC 7766, section 6.2.3 leaves it to the server.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Queries and connections served at once; more wait, so that a flood costs bounded memory.
const MOST_AT_ONCE: usize = 1000;

/// What a query is answered from.
#[derive(Debug)]
pub struct Server {
    /// The cluster's names; swapped whole when they change.
    pub zone: ArcSwap<Zone>,
    /// Who answers for all other names, asked in this order.
    pub upstreams: Vec<SocketAddr>,
    seats: Arc<Semaphore>,
}

impl Server {
    /// A server for `zone` that asks `upstreams` for other names.
    #[must_use]
    pub fn new(zone: Zone, upstreams: Vec<SocketAddr>) -> Arc<Self> {
        let seats = Arc::new(Semaphore::new(MOST_AT_ONCE));
        Arc::new(Self { zone: ArcSwap::from_pointee(zone), upstreams, seats })
    }

    /// Serves datagrams until the socket fails.
    ///
    /// # Errors
    /// When the socket can no longer be read.
    pub async fn serve_udp(self: Arc<Self>, socket: UdpSocket) -> io::Result<()> {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await?;
            let query = &buffer[..length];
            match reply(&self.zone.load(), query, Transport::Udp) {
                Reply::Answer(bytes) => drop(socket.send_to(&bytes, client).await), // The client asks again.
                Reply::Drop => (),
                Reply::Forward => {
                    let Ok(seat) = self.seats.clone().acquire_owned().await else { return Ok(()) };
                    let (server, socket, query) = (self.clone(), socket.clone(), query.to_vec());
                    tokio::spawn(async move {
                        if let Some(bytes) = server.forward(&query, Transport::Udp).await {
                            drop(socket.send_to(&bytes, client).await); // As above.
                        }
                        drop(seat);
                    });
                }
            }
        }
    }

    /// Serves connections until the listener fails.
    ///
    /// # Errors
    /// When no more connections can be taken.
    pub async fn serve_tcp(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        loop {
            let (stream, client) = listener.accept().await?;
            let Ok(seat) = self.seats.clone().acquire_owned().await else { return Ok(()) };
            let server = self.clone();
            tokio::spawn(async move {
                if let Err(error) = server.serve_connection(stream).await {
                    tracing::debug!(%client, error = &error as &dyn std::error::Error, "connection ended");
                }
                drop(seat);
            });
        }
    }

    async fn serve_connection(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let query = match timeout(TCP_IDLE, read_framed(&mut stream)).await {
                Ok(query) => query?,
                Err(_idle) => return Ok(()),
            };
            let zone = self.zone.load_full();
            let answer = match reply(&zone, &query, Transport::Tcp) {
                Reply::Answer(bytes) => Some(bytes),
                Reply::Forward => self.forward(&query, Transport::Tcp).await,
                Reply::Drop => None,
            };
            let Some(answer) = answer else { return Ok(()) };
            write_framed(&mut stream, &answer).await?;
        }
    }

    /// The first upstream answer, else a server failure.
    async fn forward(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        for upstream in &self.upstreams {
            let asked = timeout(UPSTREAM_PATIENCE, ask(*upstream, query, transport)).await;
            match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(answer) => return Some(answer),
                Err(error) => {
                    tracing::debug!(%upstream, error = &error as &dyn std::error::Error, "upstream did not answer");
                }
            }
        }
        server_failure(query)
    }
}

async fn ask(upstream: SocketAddr, query: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
    if transport == Transport::Tcp {
        let mut stream = TcpStream::connect(upstream).await?;
        write_framed(&mut stream, query).await?;
        return read_framed(&mut stream).await;
    }
    // A new socket a query: its random port is what makes forged answers miss.
    let any: SocketAddr =
        if upstream.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut answer).await?;
        if answer.get(..2) == query.get(..2) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

/// Over TCP each message has its length, two bytes, before it.
async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let framed = [&length.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await
}

/// The name servers that `/etc/resolv.conf` text names; those on loopback are left out where `listen` is one of
/// them, since asking ourselves would go on for ever.
#[must_use]
pub fn upstreams(resolv_conf: &str, own: &[SocketAddr]) -> Vec<SocketAddr> {
    let servers = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = servers.filter_map(|server| server.trim().parse().ok());
    addresses.map(|ip| SocketAddr::new(ip, 53)).filter(|address| !own.contains(address)).collect()
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::op::{Message, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};

    use super::*;

    fn query(name: &str) -> Vec<u8> {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_str(name).unwrap(), RecordType::TXT));
        message.to_vec().unwrap()
    }

    /// Starts a server on loopback; gives its address for both transports.
    async fn start(upstreams: Vec<SocketAddr>) -> SocketAddr {
        let zone = Zone::new(&Name::from_str("cluster.local.").unwrap(), &[], &[]);
        let server = Server::new(zone, upstreams);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(address).await.unwrap();
        tokio::spawn(server.clone().serve_udp(socket));
        tokio::spawn(server.serve_tcp(listener));
        address
    }

    async fn asked(server: SocketAddr, name: &str, transport: Transport) -> Message {
        let answer = timeout(Duration::from_secs(10), ask(server, &query(name), transport)).await;
        Message::from_vec(&answer.unwrap().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn both_transports_answer() {
        let server = start(Vec::new()).await;
        for transport in [Transport::Udp, Transport::Tcp] {
            let answer = asked(server, "dns-version.cluster.local.", transport).await;
            assert_eq!(answer.answers.len(), 1, "{transport:?}");
        }
    }

    #[tokio::test]
    async fn foreign_names_go_upstream_past_a_dead_server() {
        let upstream = start(Vec::new()).await;
        let dead: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let zone = Zone::new(&Name::from_str("other.local.").unwrap(), &[], &[]);
        let server = Server::new(zone, vec![dead, upstream]);
        for transport in [Transport::Udp, Transport::Tcp] {
            let answer =
                server.forward(&query("dns-version.cluster.local."), transport).await.unwrap();
            assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1, "{transport:?}");
        }
    }

    #[tokio::test]
    async fn no_upstream_is_a_server_failure() {
        let server = start(Vec::new()).await;
        let answer = asked(server, "example.com.", Transport::Udp).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn resolv_conf_names_the_upstreams() {
        let text =
            "# made by hand\nsearch example.com\nnameserver 192.0.2.1\nnameserver 127.0.0.1\n";
        let own = ["127.0.0.1:53".parse().unwrap()];
        assert_eq!(upstreams(text, &own), ["192.0.2.1:53".parse().unwrap()]);
    }
}
