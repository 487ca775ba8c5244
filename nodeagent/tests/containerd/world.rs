//! A private containerd with a node's worth of state, in folders of its own, and what tests need around it.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kit::testing::eventually;
use nodeagent::network;
use nodeagent::runtime::containerd::{self, Child, ChildOptions, Containerd, Options};
use nodeagent::runtime::{
    ContainerId, ContainerSpec, ContainerState, ExecOutput, ImageRef, PodIdentity, Runtime,
    Sandbox, SandboxSpec,
};
use sha2::{Digest, Sha256};

/// Name of the image that [`World::start`] imports.
pub(crate) const IMAGE: &str = "test.local/busybox:1";

/// Tells the worlds of one run apart.
static WORLDS: AtomicU32 = AtomicU32::new(0);

/// A containerd and the agent's runtime on it. [`World::end`] checks that nothing is left.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) child: Option<Child>,
    pub(crate) runtime: Option<Containerd>,
    pub(crate) options: Options,
    pub(crate) child_options: ChildOptions,
}

impl World {
    /// Starts containerd and imports the test image.
    pub(crate) async fn start() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make namespaces, mounts and containers: run them as root"
        );
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let cluster = format!("t{:04x}{:02}", std::process::id() & 0xffff, number % 100);
        // Sockets need short paths, so not below a deep TMPDIR.
        let folder = tempfile::Builder::new().prefix("improv-").tempdir_in("/tmp").unwrap();
        let state_dir = folder.path().join("agent");
        // 172.20.0.0/14 to 172.27: a /24 of its own for each world.
        let net = (std::process::id() * 7 + number) % 2048;
        let pod_cidr: network::Cidr =
            format!("172.{}.{}.0/24", 20 + net / 256, net % 256).parse().unwrap();
        let network = network::Config {
            mode: network::Mode::Bridge,
            cluster: cluster.clone(),
            pod_cidr,
            cluster_cidr: pod_cidr,
            mtu: None,
            state_dir: state_dir.join("network"),
        };
        let child_options = ChildOptions {
            binary: "containerd".into(),
            root: folder.path().join("root"),
            state: folder.path().join("run"),
        };
        let agent = PathBuf::from(env!("CARGO_BIN_EXE_kubelet"));
        let mut options = Options::new(child_options.socket(), state_dir, agent, network);
        options.cgroup_base = format!("/improv-{cluster}/kubepods");
        let child = containerd::spawn(child_options.clone()).await.unwrap();
        let runtime = Containerd::start(options.clone()).await.unwrap();
        let world =
            Self { folder, child: Some(child), runtime: Some(runtime), options, child_options };
        let archive = world.folder.path().join("busybox.tar");
        fs::write(&archive, busybox_archive(IMAGE)).unwrap();
        let names = world.runtime().import_archive(&archive).await.unwrap();
        assert_eq!(names, [IMAGE.parse::<ImageRef>().unwrap()]);
        world
    }

    /// Drops the agent's side and starts it again, with the options as they are now.
    pub(crate) async fn restart_client(&mut self) {
        drop(self.runtime.take());
        self.runtime = Some(Containerd::start(self.options.clone()).await.unwrap());
    }

    pub(crate) fn runtime(&self) -> &Containerd {
        self.runtime.as_ref().unwrap()
    }

    /// A sandbox for a pod of that name, made.
    pub(crate) async fn sandbox(&self, name: &str) -> Sandbox {
        self.runtime().create_sandbox(&sandbox_spec(name)).await.unwrap()
    }

    /// A running container with a shell script.
    pub(crate) async fn run(&self, pod: &str, script: &str) -> ContainerId {
        self.run_spec(&self.container(pod, script)).await
    }

    pub(crate) async fn run_spec(&self, spec: &ContainerSpec) -> ContainerId {
        let id = self.runtime().create_container(spec).await.unwrap();
        self.runtime().start_container(&id).await.unwrap();
        id
    }

    pub(crate) fn container(&self, pod: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            pod_uid: uid(pod),
            name: "main".into(),
            image: IMAGE.parse().unwrap(),
            command: ["/bin/sh", "-c", script].map(String::from).to_vec(),
            log_path: self.log_path(pod),
            ..ContainerSpec::default()
        }
    }

    pub(crate) fn log_path(&self, pod: &str) -> PathBuf {
        self.folder.path().join("logs").join(pod).join("0.log")
    }

    /// The text of the log without times, once it has `n` lines.
    pub(crate) async fn log(&self, pod: &str, n: usize) -> String {
        let path = self.log_path(pod);
        until("the log is written", || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            (text.lines().count() >= n).then(|| {
                text.lines()
                    .map(|line| line.split_once(' ').unwrap().1.to_owned() + "\n")
                    .collect::<String>()
            })
        })
        .await
    }

    pub(crate) async fn exec(&self, id: &ContainerId, script: &str) -> ExecOutput {
        let command = ["/bin/sh", "-c", script].map(String::from);
        self.runtime().exec_sync(id, &command, Some(Duration::from_secs(20))).await.unwrap()
    }

    pub(crate) async fn is_running(&self, id: &ContainerId) -> bool {
        let status = self.runtime().container(id).await.unwrap();
        status.is_some_and(|status| matches!(status.state, ContainerState::Running { .. }))
    }

    /// Removes everything and checks that nothing remains on the machine.
    pub(crate) async fn end(mut self) {
        drop(self.runtime.take());
        self.child.take().unwrap().leave();
        containerd::clean_up(self.child_options.clone(), self.options.clone()).await.unwrap();
        self.assert_nothing_is_left();
    }

    fn assert_nothing_is_left(&self) {
        let folder = self.folder.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&folder), "mounts are left:\n{mounts}");
        let cluster = &self.options.network.cluster;
        let links = output("ip", &["-o", "link"]);
        assert!(!links.contains(&self.options.network.bridge()), "links are left:\n{links}");
        let tables = output("nft", &["list", "tables"]);
        assert!(!tables.contains(&self.options.network.table()), "tables are left:\n{tables}");
        for entry in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let group = entry.path().join(format!("improv-{cluster}/kubepods"));
            assert!(!group.exists(), "{} is left", group.display());
            let _ = fs::remove_dir(entry.path().join(format!("improv-{cluster}")));
        }
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            assert!(!command.contains(&folder), "a process is left: {command}");
        }
        for path in [&self.child_options.root, &self.child_options.state, &self.options.state_dir] {
            assert!(!path.exists(), "{} is left", path.display());
        }
    }
}

impl Drop for World {
    /// After a failed test the machine is cleaned too.
    fn drop(&mut self) {
        // Its supervisor would start it again behind the back of the cleaning.
        let Some(child) = self.child.take() else { return };
        child.leave();
        let (child, options) = (self.child_options.clone(), self.options.clone());
        let work = move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let _ = runtime.block_on(containerd::clean_up(child, options));
        };
        let _ = std::thread::spawn(work).join();
    }
}

pub(crate) fn uid(pod: &str) -> String {
    format!("uid-{pod}")
}

pub(crate) fn sandbox_spec(pod: &str) -> SandboxSpec {
    SandboxSpec {
        pod: PodIdentity { namespace: "default".into(), name: pod.into(), uid: uid(pod) },
        hostname: pod.into(),
        ..SandboxSpec::default()
    }
}

/// Longest wait for any state.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a condition, with a deadline.
pub(crate) async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    eventually(PATIENCE, async || condition().ok_or(what)).await
}

/// Waits until no process has this text in its command line.
pub(crate) async fn ended(command: &str) {
    until(&format!("{command:?} ends"), || {
        let all = output("ps", &["-eo", "args"]);
        (!all.lines().any(|line| line.contains(command))).then_some(())
    })
    .await;
}

pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An image in pieces: what registries and archives are made of.
pub(crate) struct TestImage {
    pub(crate) layer: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

/// Busybox with its applets, a user database, and nothing else.
pub(crate) fn busybox_image() -> TestImage {
    let mut layer = tar::Builder::new(Vec::new());
    let mut busybox = Vec::new();
    fs::File::open("/bin/busybox")
        .expect("busybox-static is installed")
        .read_to_end(&mut busybox)
        .unwrap();
    append(&mut layer, "bin/busybox", 0o755, &busybox);
    let applets = [
        "sh", "cat", "echo", "sleep", "id", "ls", "nc", "httpd", "wget", "hostname", "ip", "stty",
        "touch", "head", "dd", "yes", "seq", "kill", "ps", "grep", "true", "mount", "tail", "tr",
        "wc", "stat",
    ];
    for applet in applets {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    append(
        &mut layer,
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/:/bin/sh\n",
    );
    append(
        &mut layer,
        "etc/group",
        0o644,
        b"root:x:0:\nwheel:x:10:root\nweb:x:34:\nlogs:x:50:web\n",
    );
    let layer = layer.into_inner().unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh", "-c", "echo from the image"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&layer), "size": layer.len()}],
    });
    TestImage { manifest: serde_json::to_vec(&manifest).unwrap(), layer, config }
}

/// The image as an OCI layout archive.
fn busybox_archive(name: &str) -> Vec<u8> {
    layout(name, &busybox_image())
}

/// An archive with the image's configuration, but without the layer that its manifest names.
pub(crate) fn archive_without_layer(name: &str) -> Vec<u8> {
    let image = busybox_image();
    let manifest = String::from_utf8(image.manifest).unwrap();
    let manifest = manifest.replace(&digest(&image.layer), &digest(b"elsewhere")).into_bytes();
    layout(name, &TestImage { manifest, ..image })
}

fn layout(name: &str, image: &TestImage) -> Vec<u8> {
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&image.manifest), "size": image.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": name},
        }],
    });
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion": "1.0.0"}"#);
    for blob in [&image.layer, &image.config, &image.manifest] {
        append(&mut archive, &format!("blobs/{}", digest(blob).replace(':', "/")), 0o644, blob);
    }
    append(&mut archive, "index.json", 0o644, &serde_json::to_vec(&index).unwrap());
    archive.into_inner().unwrap()
}

/// The image as an old `docker save` writes it.
pub(crate) fn docker_archive(name: &str) -> Vec<u8> {
    let image = busybox_image();
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["one/layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "one/layer.tar", 0o644, &image.layer);
    append(&mut archive, "config.json", 0o644, &image.config);
    append(&mut archive, "manifest.json", 0o644, &serde_json::to_vec(&manifest).unwrap());
    archive.into_inner().unwrap()
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, path, bytes).unwrap();
}

/// A process that is killed with its owner.
pub(crate) struct Killed(pub Process);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that nobody uses now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a registry, with users if `htpasswd` is given, and waits until it serves.
pub(crate) async fn registry(folder: &Path, htpasswd: Option<&str>) -> (Killed, u16) {
    let port = free_port();
    fs::create_dir_all(folder).unwrap();
    let mut config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
        folder.join("data").display()
    );
    if let Some(users) = htpasswd {
        fs::write(folder.join("htpasswd"), users).unwrap();
        config += &format!(
            "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            folder.join("htpasswd").display()
        );
    }
    fs::write(folder.join("config.yml"), config).unwrap();
    let process = Command::new("docker-registry")
        .arg("serve")
        .arg(folder.join("config.yml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry is installed");
    let process = Killed(process);
    until("the registry serves", || std::net::TcpStream::connect(("127.0.0.1", port)).ok()).await;
    (process, port)
}
