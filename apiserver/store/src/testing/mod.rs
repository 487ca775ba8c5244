//! What tests of stores need: a real etcd (its own processes, on free ports, in a folder of its own, gone when it is
//! dropped), and faults: connections that are cut, disks that are slow.

mod disk;
mod relay;

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

pub use disk::BadDisk;
pub use relay::Relay;

/// How long a member may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// An etcd cluster of one member or more. It needs `etcd` and `setpriv` (util-linux) on the path.
pub struct Etcd {
    dir: PathBuf,
    members: Vec<Member>,
    tls: Option<ServerTls>,
}

/// Files for an etcd that serves over TLS, to clients whose certificate it trusts alone.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// The authority of the clients.
    pub ca: PathBuf,
    /// The certificate that it shows.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

struct Member {
    client: u16,
    peer: u16,
    /// For its health and metrics, without TLS.
    metrics: u16,
    process: Option<Child>,
}

impl Etcd {
    /// Starts members that keep their data in `dir`, and waits until they answer.
    ///
    /// # Errors
    /// The program is missing, or does not come up.
    pub fn start(dir: &Path, n_members: usize) -> io::Result<Etcd> {
        Self::start_with(dir, n_members, None)
    }

    /// As [`Etcd::start`], with TLS towards clients.
    ///
    /// # Errors
    /// The program is missing, or does not come up.
    pub fn start_with_tls(dir: &Path, n_members: usize, tls: ServerTls) -> io::Result<Etcd> {
        Self::start_with(dir, n_members, Some(tls))
    }

    fn start_with(dir: &Path, n_members: usize, tls: Option<ServerTls>) -> io::Result<Etcd> {
        let member = |_| {
            let (client, peer, metrics) = (free_port()?, free_port()?, free_port()?);
            Ok(Member { client, peer, metrics, process: None })
        };
        let members = (0..n_members).map(member).collect::<io::Result<_>>()?;
        let mut etcd = Etcd { dir: dir.into(), members, tls };
        for member in 0..n_members {
            etcd.spawn(member)?;
        }
        (0..n_members).try_for_each(|member| etcd.wait(member))?;
        Ok(etcd)
    }

    /// URLs for clients, one a member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|m| self.client_url(m)).collect()
    }

    /// Ports for clients, one a member.
    pub fn ports(&self) -> Vec<u16> {
        self.members.iter().map(|m| m.client).collect()
    }

    /// The process of a member, if it runs.
    pub fn process(&self, member: usize) -> Option<u32> {
        self.members[member].process.as_ref().map(Child::id)
    }

    fn client_url(&self, member: &Member) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", member.client)
    }

    /// Ends a member as a crash would.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn kill(&mut self, member: usize) -> io::Result<()> {
        if let Some(mut process) = self.members[member].process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Starts a killed member again, on its data, and waits until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart(&mut self, member: usize) -> io::Result<()> {
        self.spawn(member)?;
        self.wait(member)
    }

    /// Whether a member says that it leads.
    pub fn leads(&self, member: usize) -> bool {
        let metrics = get(self.members[member].metrics, "/metrics").unwrap_or_default();
        metrics.lines().any(|line| line == "etcd_server_is_leader 1")
    }

    fn spawn(&mut self, member: usize) -> io::Result<()> {
        let name = |member| format!("m{member}");
        let peers: Vec<String> = self
            .members
            .iter()
            .enumerate()
            .map(|(n, m)| format!("{}={}", name(n), url(m.peer)))
            .collect();
        let Member { peer, metrics, .. } = self.members[member];
        let client = self.client_url(&self.members[member]);
        // A killed test takes its members along.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "etcd", "--logger=zap", "--log-level=error"])
            .arg(format!("--name={}", name(member)))
            .arg(format!("--data-dir={}", self.dir.join(name(member)).display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-metrics-urls={}", url(metrics)))
            .arg(format!("--listen-peer-urls={}", url(peer)))
            .arg(format!("--initial-advertise-peer-urls={}", url(peer)))
            .arg(format!("--initial-cluster={}", peers.join(",")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(tls) = &self.tls {
            command
                .arg("--client-cert-auth")
                .arg(format!("--trusted-ca-file={}", tls.ca.display()))
                .arg(format!("--cert-file={}", tls.certificate.display()))
                .arg(format!("--key-file={}", tls.key.display()));
        }
        self.members[member].process = Some(command.spawn()?);
        Ok(())
    }

    fn wait(&self, member: usize) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match get(self.members[member].metrics, "/health") {
                Ok(answer) if answer.contains(r#""health":"true""#) => return Ok(()),
                _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Ok(answer) => {
                    return Err(io::Error::other(format!("etcd is not healthy: {answer}")));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in 0..self.members.len() {
            let _ = self.kill(member); // It may have ended by itself.
        }
    }
}

/// A port that nobody listens on at the moment, nor gets as the near end of a connection: Linux takes those from 32768
/// on. No two calls of a process answer the same.
///
/// # Errors
/// There is none.
pub fn free_port() -> io::Result<u16> {
    const FIRST: u32 = 20_000;
    const N_PORTS: u32 = 12_000;
    static N_CALLS: AtomicU32 = AtomicU32::new(0);
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let begin = std::process::id().wrapping_mul(101);
    (0..N_PORTS)
        .map(|_| begin.wrapping_add(N_CALLS.fetch_add(1, Ordering::Relaxed)) % N_PORTS + FIRST)
        .filter_map(|port| u16::try_from(port).ok())
        .find(is_free)
        .ok_or_else(|| io::ErrorKind::AddrInUse.into())
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn get(port: u16, path: &str) -> io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
