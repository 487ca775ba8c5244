//! Namespaces without a process: made on a thread that ends, kept alive by bind mounts.
//!
//! Every function here that enters a namespace does so on a thread of its own, never on one of a pool.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;

use super::mounts;

/// Longest wait for a connection to a port of a pod. The address is a loopback one, so this is only ever reached
/// when the listener's queue is full.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Which namespaces a pod has of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    /// Network and host name.
    pub(crate) network: bool,
    /// System V IPC.
    pub(crate) ipc: bool,
}

/// Makes the namespaces and pins them as `net`, `uts` and `ipc` in `folder`.
///
/// `sysctls` are written inside, as those below `net.` and `kernel.shm` belong to the namespaces.
pub(crate) fn pin(
    folder: &Path,
    own: Own,
    hostname: &str,
    sysctls: &[(String, String)],
) -> io::Result<()> {
    let mut flags = CloneFlags::empty();
    let mut names = Vec::new();
    if own.network {
        flags |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
        names.extend(["net", "uts"]);
    }
    if own.ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
        names.push("ipc");
    }
    on_own_thread(|| {
        unshare(flags)?;
        if own.network {
            sethostname(hostname)?;
            // The node may tell pods of shorter ways to their neighbours. They are not to take them: connections
            // that the node translates must pass it.
            for scope in ["all", "default"] {
                fs::write(format!("/proc/sys/net/ipv4/conf/{scope}/accept_redirects"), "0")?;
            }
            distrust_routers("default")?;
        }
        for (key, value) in sysctls {
            let path = Path::new("/proc/sys").join(key.replace('.', "/"));
            fs::write(&path, value).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot set sysctl {key}: {error}"))
            })?;
        }
        names.iter().try_for_each(|name| pin_one(folder, name))
    })
}

/// Makes an interface, or those to come (`default`), deaf to router advertisements, which any pod can send to
/// draw its neighbours' traffic to itself (CVE-2020-10749).
pub(crate) fn distrust_routers(interface: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra");
    match fs::write(&path, "0") {
        // The kernel may do without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(io::Error::new(error.kind(), format!("cannot write 0 to {path}: {error}")))
        }
        Ok(()) => Ok(()),
    }
}

fn pin_one(folder: &Path, name: &str) -> io::Result<()> {
    let pin = folder.join(name);
    unpin(&pin)?;
    File::create(&pin)?;
    let source = format!("/proc/thread-self/ns/{name}");
    mount(Some(source.as_str()), &pin, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Lets go of a pin; the namespace ends with its last process.
fn unpin(pin: &Path) -> io::Result<()> {
    mounts::detach(pin)?;
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether the file is a living pin; after a reboot it is an empty file.
pub(crate) fn is_pinned(pin: &Path) -> bool {
    nix::sys::statfs::statfs(pin)
        .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// Runs `work` inside a network namespace.
pub(crate) fn in_network<T: Send>(
    pin: &Path,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let namespace = File::open(pin)?;
    on_own_thread(|| {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// Connects to a port on the loopback address of a network namespace (`None` is the node's).
pub(crate) fn dial(pin: Option<&Path>, port: u16) -> io::Result<TcpStream> {
    let connect = || {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&v4, DIAL_TIMEOUT)
            .or_else(|first| TcpStream::connect_timeout(&v6, DIAL_TIMEOUT).map_err(|_| first))?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    match pin {
        Some(pin) => in_network(pin, connect),
        None => connect(),
    }
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let handle = thread::Builder::new().name("namespace".into()).spawn_scoped(scope, work)?;
        handle.join().unwrap_or_else(|_| Err(io::Error::other("the namespace thread panicked")))
    })
}
