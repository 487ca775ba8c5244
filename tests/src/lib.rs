//! What the tests on a real cluster share: a cluster of the test's own, kubectl on it, and waiting with a deadline.
//!
//! These tests need root and the packages that `make test` installs.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::fmt::Display;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

/// A cluster that a test started, in a folder, on a port and with networks of its own. Gone when dropped.
pub struct Cluster {
    folder: TempDir,
    arguments: Vec<String>,
    /// Port of the API server.
    pub port: u16,
}

impl Cluster {
    /// Starts `improv up` with further `arguments`, and returns once it is ready.
    ///
    /// # Panics
    /// If it does not start; the panic carries the log.
    #[must_use]
    pub fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("improv-test-").tempdir().unwrap();
        let port = free_port();
        let node_port = free_port();
        let mut all: Vec<String> = vec![
            format!("--port={port}"),
            format!("--node-port={node_port}"),
            // Not the default networks, so that a cluster of the machine's own may run meanwhile.
            "--pod-cidr=10.245.0.0/16".into(),
            "--service-cidr=10.97.0.0/16".into(),
        ];
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let cluster = Self { folder, arguments: all, port };
        cluster.up();
        cluster
    }

    /// `improv up --detach` once more: after a crash, or a stop.
    ///
    /// # Panics
    /// If it does not start; the panic carries the log.
    pub fn up(&self) {
        let output = self.improv("up").args(&self.arguments).arg("--detach").output().unwrap();
        assert!(output.status.success(), "{}\n{}", text(&output), self.log());
    }

    /// `improv <command>` on this cluster.
    #[must_use]
    pub fn improv(&self, command: &str) -> Command {
        let mut improv = Command::new(program("improv"));
        improv.args(command.split(' ')).arg("--data-dir").arg(self.data_dir());
        improv
    }

    /// The cluster's data folder.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// The log of the cluster's process.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data_dir().join("improv.log")).unwrap_or_default()
    }

    /// The cluster's process.
    ///
    /// # Panics
    /// If it has never run.
    #[must_use]
    pub fn pid(&self) -> i32 {
        std::fs::read_to_string(self.data_dir().join("improv.pid")).unwrap().trim().parse().unwrap()
    }

    /// Ends the cluster's process as a power cut would, and waits until it is gone.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill(&self) {
        let pid = self.pid();
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        assert!(killed.success());
        eventually("the process is gone", Duration::from_secs(10), || {
            (!Path::new(&format!("/proc/{pid}/stat")).exists() || is_zombie(pid))
                .then_some(())
                .ok_or("it runs")
        });
    }

    /// What `kubectl <arguments>` prints; words are split at spaces.
    ///
    /// # Panics
    /// If kubectl fails; the panic carries what it said.
    pub fn kubectl(&self, arguments: &str) -> String {
        match self.try_kubectl(arguments) {
            Ok(printed) => printed,
            Err(said) => panic!("kubectl {arguments}\n{said}"),
        }
    }

    /// What `kubectl <arguments>` prints.
    ///
    /// # Errors
    /// What it said, if it fails.
    pub fn try_kubectl(&self, arguments: &str) -> Result<String, String> {
        let output = self.tool("kubectl").args(arguments.split(' ')).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(text(&output)),
        }
    }

    /// kubectl or helm, on this cluster.
    #[must_use]
    pub fn tool(&self, name: &str) -> Command {
        let ours = repository().join("target/tools").join(name);
        let mut tool = Command::new(if ours.exists() { ours } else { PathBuf::from(name) });
        tool.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.folder.path());
        tool
    }

    /// Creates what `manifest` says.
    ///
    /// # Panics
    /// If kubectl refuses it.
    pub fn apply(&self, manifest: &str) {
        let file = self.folder.path().join("manifest.yaml");
        std::fs::write(&file, manifest).unwrap();
        self.kubectl(&format!("apply -f {}", file.display()));
    }

    /// Builds the image of a program of this workspace and brings it in, under the name `improv.dev/<program>:<tag>`.
    ///
    /// # Panics
    /// If it cannot be built or imported.
    pub fn import_image(&self, program_name: &str, image: &str) {
        let archive = self.folder.path().join("image.tar");
        let mut build = Command::new(program("improv"));
        build.args(["image", "build", "--name", image, "--binary"]).arg(program(program_name));
        run(build.arg("--output").arg(&archive));
        run(self.improv("image import").arg(&archive));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let last: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!(
                "the cluster's log ends so:\n{}",
                last.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        drop(self.improv("down").output());
    }
}

fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

/// Runs `command` and gives what it prints.
///
/// # Panics
/// If it fails; the panic carries what it said.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Looks until `condition` holds, and gives what it yields.
///
/// # Panics
/// After `deadline`, with what the condition last complained about.
pub fn eventually<T, E: Display>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<T, E>,
) -> T {
    let began = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(complaint) if began.elapsed() > deadline => {
                panic!("after {deadline:?} not so: {what}: {complaint}")
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// A port that nobody listens on now.
///
/// # Panics
/// If the machine has none.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A program of this workspace, built beside this test.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join(name);
    assert!(
        program.exists(),
        "{} is missing: run `make test`, or cargo build --workspace",
        program.display()
    );
    program
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(output: &Output) -> String {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{err}")
}
