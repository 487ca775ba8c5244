//! A containerd of one's own: started in private folders, watched, restarted, stopped, and cleaned up after.
//!
//! Containers do not depend on it: their shims go on while it is away, and a containerd that outlived its agent is
//! taken over by the next one.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::{Containerd, Options};
use crate::cgroups::Cgroups;
use crate::network;
use crate::runtime::Error;
use crate::sys::mounts;

/// Longest wait for a new containerd to serve.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for one to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a process that is not a child is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Pause before an ended containerd is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// Longest path of a socket that containerd takes: the kernel's limit less `.ttrpc`.
const MAX_SOCKET_PATH: usize = 100;

/// Where a private containerd lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildOptions {
    /// The program, searched in PATH.
    pub binary: PathBuf,
    /// Images and snapshots; may be large, outlives a reboot.
    pub root: PathBuf,
    /// Socket, bundles, log; a short path, best below /run.
    pub state: PathBuf,
}

impl ChildOptions {
    /// The socket that it serves on.
    pub fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    fn pid_file(&self) -> PathBuf {
        self.state.join("containerd.pid")
    }

    fn log_file(&self) -> PathBuf {
        self.state.join("containerd.log")
    }
}

/// A containerd that is kept alive.
pub struct Child {
    options: ChildOptions,
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
}

/// Starts a containerd, or takes over the one that is still there, and waits until it serves.
///
/// # Errors
/// What is missing: the program, a short enough path; or the end of containerd's log if it does not come up.
pub async fn spawn(options: ChildOptions) -> Result<Child, Error> {
    let failed = |error: io::Error| Error::runtime("start containerd", error);
    if options.socket().as_os_str().len() > MAX_SOCKET_PATH {
        let text = format!("the path {} is too long for a socket", options.socket().display());
        return Err(failed(io::Error::other(text)));
    }
    for folder in [&options.root, &options.state] {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(folder).map_err(failed)?;
    }
    let process = match Process::find(&options) {
        Some(process) => process,
        None => Process::start(&options).map_err(failed)?,
    };
    let stop = CancellationToken::new();
    let supervisor = tokio::spawn(supervise(options.clone(), process, stop.clone()));
    let child = Child { options, stop, supervisor };
    match child.serves().await {
        Ok(()) => Ok(child),
        Err(error) => {
            child.stop().await;
            Err(error)
        }
    }
}

impl Child {
    /// The socket that it serves on.
    pub fn socket(&self) -> PathBuf {
        self.options.socket()
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        Process::find(&self.options).map(|process| process.pid().as_raw())
    }

    /// Ends containerd. Containers go on.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.supervisor.await;
    }

    /// Leaves containerd running, for the next one to take over.
    pub fn leave(self) {
        self.supervisor.abort();
    }

    async fn serves(&self) -> Result<(), Error> {
        let client = Client::new(&self.socket(), "default")?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match client.version().version(client.request(())).await {
                Ok(_) => return Ok(()),
                Err(status) if Instant::now() > deadline || self.supervisor.is_finished() => {
                    let log = fs::read_to_string(self.options.log_file()).unwrap_or_default();
                    let last: Vec<&str> = log.lines().rev().take(3).collect();
                    let text = format!(
                        "containerd does not serve: {}; its log ends: {}",
                        status.message(),
                        last.join(" | ")
                    );
                    return Err(Error::Unavailable(text));
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

/// Keeps containerd running until it is told to stop.
async fn supervise(options: ChildOptions, mut process: Process, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = process.ended() => (),
            () = stop.cancelled() => {
                process.end().await;
                let _ = fs::remove_file(options.pid_file());
                return;
            }
        }
        tracing::warn!("containerd ended, starting it again");
        loop {
            sleep(RESTART_PAUSE).await;
            if stop.is_cancelled() {
                return;
            }
            match Process::start(&options) {
                Ok(started) => break process = started,
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "containerd does not start"
                ),
            }
        }
    }
}

enum Process {
    /// Started by this process.
    Own(Box<tokio::process::Child>, Pid),
    /// Started by an earlier one.
    Adopted(Identity),
}

/// A process id alone may be used again; with its start time it is unique.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    pid: i32,
    started: u64,
}

impl Identity {
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Fields are counted after the name, which may have spaces in it; state is the third, start the 22nd.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let alive = !matches!(fields.first(), Some(&("Z" | "X")));
        alive.then_some(Self { pid, started: fields.get(19)?.parse().ok()? })
    }

    fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

impl Process {
    fn start(options: &ChildOptions) -> io::Result<Self> {
        let config = options.state.join("config.toml");
        fs::write(&config, configuration(options))?;
        let log = fs::OpenOptions::new().create(true).append(true).open(options.log_file())?;
        let child = Command::new(&options.binary)
            .arg("--config")
            .arg(&config)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0) // Ctrl-C at the terminal is for the agent.
            .spawn()
            .map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!(
                        "cannot run {} ({error}); is containerd installed?",
                        options.binary.display()
                    ),
                )
            })?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        if let Some(Identity { pid, started }) = Identity::of(pid) {
            fs::write(options.pid_file(), format!("{pid} {started}"))?;
        }
        Ok(Self::Own(Box::new(child), Pid::from_raw(pid)))
    }

    /// The process that an earlier agent left, if it lives.
    fn find(options: &ChildOptions) -> Option<Self> {
        let text = fs::read_to_string(options.pid_file()).ok()?;
        let (pid, started) = text.split_once(' ')?;
        let identity = Identity { pid: pid.parse().ok()?, started: started.trim().parse().ok()? };
        identity.is_alive().then_some(Self::Adopted(identity))
    }

    fn pid(&self) -> Pid {
        match self {
            Self::Own(_, pid) => *pid,
            Self::Adopted(identity) => Pid::from_raw(identity.pid),
        }
    }

    async fn ended(&mut self) {
        match self {
            Self::Own(child, _) => drop(child.wait().await),
            Self::Adopted(identity) => {
                while identity.is_alive() {
                    sleep(POLL).await;
                }
            }
        }
    }

    async fn end(mut self) {
        let pid = self.pid();
        let _ = kill(pid, Signal::SIGTERM);
        if tokio::time::timeout(STOP_TIMEOUT, self.ended()).await.is_err() {
            let _ = kill(pid, Signal::SIGKILL);
            self.ended().await;
        }
    }
}

/// containerd's own configuration: only what running containers needs.
fn configuration(options: &ChildOptions) -> String {
    let quoted = |path: &Path| serde_json::Value::from(path.display().to_string()).to_string();
    format!(
        "version = 2\n\
         root = {root}\n\
         state = {state}\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.aufs\", \
         \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.devmapper\", \
         \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.tracing.processor.v1.otlp\", \
         \"io.containerd.internal.v1.tracing\", \"io.containerd.internal.v1.opt\"]\n\
         [grpc]\n\
         address = {socket}\n\
         [debug]\n\
         level = \"warn\"\n",
        root = quoted(&options.root),
        state = quoted(&options.state.join("run")),
        socket = quoted(&options.socket()),
    )
}

/// Removes all containers, the pods' network and cgroups, containerd itself and its folders: what `improv down` does.
///
/// Works from any state, also after everything was killed.
///
/// # Errors
/// The first thing that could not be removed; calling it again goes on from there.
pub async fn clean_up(child: ChildOptions, options: Options) -> Result<(), Error> {
    if child.state.exists() {
        let running = spawn(child.clone()).await?;
        let removed = remove_containers(&options).await;
        running.stop().await;
        kill_shims(&child.socket());
        remove_shim_sockets(&child.state.join("run"));
        removed?;
    }
    remove_traces(options, vec![child.state, child.root]).await
}

/// As [`clean_up`], on a containerd that is not ours and stays.
///
/// # Errors
/// The first thing that could not be removed; calling it again goes on from there.
pub async fn clean_up_shared(options: Options) -> Result<(), Error> {
    remove_containers(&options).await?;
    remove_traces(options, Vec::new()).await
}

async fn remove_containers(options: &Options) -> Result<(), Error> {
    Containerd::start(options.clone()).await?.remove_all().await
}

/// Where the shims of all containerds have runc keep its records, in a folder for each namespace.
const RUNTIME_RECORDS: &str = "/run/containerd/runc";

/// Removes what the kernel and the disk know of an agent whose containers are gone.
async fn remove_traces(options: Options, folders: Vec<PathBuf>) -> Result<(), Error> {
    let failed = |operation| move |error: io::Error| Error::runtime(operation, error);
    network::teardown(&options.network).await.map_err(failed("remove the pods' network"))?;
    let cgroups = Cgroups::detect(&options.cgroup_base).map_err(failed("find cgroups"))?;
    let work = move || {
        cgroups.remove_all().map_err(failed("remove the pods' cgroups"))?;
        for folder in folders.iter().chain([&options.state_dir]) {
            mounts::remove_tree(folder).map_err(failed("remove a folder"))?;
        }
        // It stays when the last container is gone; another containerd may have a namespace of the same name.
        let _ = fs::remove_dir(Path::new(RUNTIME_RECORDS).join(&options.namespace));
        Ok(())
    };
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(Error::runtime("clean up", error)))
}

/// Kills the shims of a containerd that are left, by their command line, which names its socket.
fn kill_shims(socket: &Path) {
    let Ok(processes) = fs::read_dir("/proc") else { return };
    let socket = socket.display().to_string();
    for entry in processes.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(command) = fs::read(entry.path().join("cmdline")) else { continue };
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        let is_shim =
            words.first().is_some_and(|program| program.ends_with(b"containerd-shim-runc-v2"));
        if is_shim && words.contains(&socket.as_bytes()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The shims' sockets are in a folder that all containerds share; each bundle names its own.
fn remove_shim_sockets(state: &Path) {
    let Ok(namespaces) = fs::read_dir(state.join("io.containerd.runtime.v2.task")) else { return };
    for bundle in
        namespaces.flatten().filter_map(|entry| fs::read_dir(entry.path()).ok()).flatten().flatten()
    {
        let Ok(address) = fs::read_to_string(bundle.path().join("address")) else { continue };
        if let Some(path) = address.trim().strip_prefix("unix://") {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.is_alive());
        assert!(!Identity { started: own.started + 1, ..own }.is_alive());
        assert_eq!(Identity::of(0), None);
    }
}
