//! A real etcd for tests: its own processes, on free ports, in a folder of its own, gone when it is dropped.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a member may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// An etcd cluster of one member or more. It needs `etcd` and `setpriv` (util-linux) on the path.
pub struct Etcd {
    dir: PathBuf,
    members: Vec<Member>,
}

struct Member {
    client: u16,
    peer: u16,
    process: Option<Child>,
}

impl Etcd {
    /// Starts members that keep their data in `dir`, and waits until they answer.
    ///
    /// # Errors
    /// The program is missing, or does not come up.
    pub fn start(dir: &Path, n_members: usize) -> io::Result<Etcd> {
        let member = |_| Ok(Member { client: free_port()?, peer: free_port()?, process: None });
        let members = (0..n_members).map(member).collect::<io::Result<_>>()?;
        let mut etcd = Etcd { dir: dir.into(), members };
        for member in 0..n_members {
            etcd.spawn(member)?;
        }
        (0..n_members).try_for_each(|member| etcd.wait(member))?;
        Ok(etcd)
    }

    /// URLs for clients, one a member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|m| url(m.client)).collect()
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
        let metrics = get(self.members[member].client, "/metrics").unwrap_or_default();
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
        let Member { client, peer, .. } = self.members[member];
        // A killed test takes its members along.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--logger=zap", "--log-level=error"])
            .arg(format!("--name={}", name(member)))
            .arg(format!("--data-dir={}", self.dir.join(name(member)).display()))
            .arg(format!("--listen-client-urls={}", url(client)))
            .arg(format!("--advertise-client-urls={}", url(client)))
            .arg(format!("--listen-peer-urls={}", url(peer)))
            .arg(format!("--initial-advertise-peer-urls={}", url(peer)))
            .arg(format!("--initial-cluster={}", peers.join(",")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.members[member].process = Some(process);
        Ok(())
    }

    fn wait(&self, member: usize) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match get(self.members[member].client, "/health") {
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

/// A port that nobody listens on at the moment.
///
/// # Errors
/// There is none.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
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
