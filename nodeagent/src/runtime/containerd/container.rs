//! The life of a container: record, snapshot, task, in this order, so that the garbage collector never takes a
//! snapshot that nothing refers to yet; and back.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use containerd_client::services::v1::container::Runtime as WireRuntime;
use containerd_client::services::v1::snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest};
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest,
    DeleteTaskRequest, GetContainerRequest, GetRequest, KillRequest, ListContainersRequest,
    ListTasksRequest, StartRequest, UpdateContainerRequest, UpdateTaskRequest,
};
use containerd_client::types::Mount;
use containerd_client::types::v1::{Process, Status as TaskStatus};
use k8s_openapi::jiff::Timestamp;
use prost_types::{Any, FieldMask};
use serde_json::Value;
use tonic::{Code, Status};

use super::client::{SNAPSHOTTER, done, failed, is_away, optional};
use super::labels::{self, Record, time};
use super::oci::{self, Inputs};
use super::sandbox::Record as SandboxRecord;
use super::{Inner, users};
use crate::logger;
use crate::runtime::{
    ContainerId, ContainerSpec, ContainerState, ContainerStatus, Error, Exit, Resources, Seccomp,
};

/// The runtime that containerd starts shims for.
const RUNTIME: &str = "io.containerd.runc.v2";

/// Types of JSON payloads.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// What a container whose shim was lost ended with: nobody knows more.
const LOST: i32 = 137;

/// A container about to be made.
struct Draft {
    id: String,
    image: String,
    labels: HashMap<String, String>,
    spec: Value,
    /// The image's root snapshot; `None` for a container whose root is a folder.
    chain: Option<String>,
    io: Io,
}

/// Where the streams of a container go.
#[derive(Default)]
struct Io {
    stdin: String,
    stdout: String,
    stderr: String,
    terminal: bool,
}

impl Inner {
    pub(super) async fn create_container(
        &self,
        spec: &ContainerSpec,
    ) -> Result<ContainerId, Error> {
        let not_found = || Error::NotFound { what: "sandbox", name: spec.pod_uid.clone() };
        let sandbox = self
            .sandbox_record(&spec.pod_uid)?
            .filter(|record| record.complete)
            .ok_or_else(not_found)?;
        let image_name = spec.image.to_string();
        let image = self
            .images
            .load(&image_name)
            .await?
            .ok_or_else(|| Error::ImageNotPresent(image_name.clone()))?;
        let user = users::resolve(
            &image.config.config.user,
            &spec.security,
            &*self.images.users(&image.chain).await?,
        )?;
        let place = self.place(&sandbox).await?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let cgroup = format!("{}/{id}", self.cgroups.pod_path(sandbox.spec.qos, &spec.pod_uid));
        let json = oci::build(&Inputs {
            spec,
            image: &image.config.config,
            user: &user,
            sandbox: &place,
            node: &self.node,
            cgroup: &cgroup,
            seccomp_profile: read_profile(&spec.security.seccomp)?,
            devices: if spec.security.privileged { oci::host_devices() } else { Vec::new() },
        })?;
        let io = self.prepare_io(&id, spec)?;
        let labels = labels::of(spec, sandbox.pod(), &image.id, &cgroup);
        let draft = Draft {
            id,
            image: image_name,
            labels,
            spec: json,
            chain: Some(image.chain.clone()),
            io,
        };
        let refused = |reason| Error::CreateContainer { name: spec.name.clone(), reason };
        self.make(draft).await.map_err(|status| refused_or_away(status, refused))
    }

    /// Starts the process that holds a shared process namespace.
    pub(super) async fn start_pause(&self, sandbox: &SandboxRecord) -> Result<String, Error> {
        let step =
            |reason: String| Error::CreateSandbox { step: "start the pause process", reason };
        let uid = &sandbox.pod().uid;
        let root = self.sandbox_folder(uid).join("pause-root");
        for folder in ["proc", "dev", "sys"] {
            fs::create_dir_all(root.join(folder)).map_err(|error| step(error.to_string()))?;
        }
        fs::write(root.join("pause"), "").map_err(|error| step(error.to_string()))?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let cgroup = format!("{}/{id}", self.cgroups.pod_path(sandbox.spec.qos, uid));
        let mut spec =
            oci::build_pause(&root, &self.place(sandbox).await?, &cgroup, self.node.cgroup_v2);
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            let (source, options) = (&self.options.agent_binary, ["bind", "ro"]);
            mounts.push(serde_json::json!({"destination": "/pause", "type": "bind", "source": source, "options": options}));
        }
        let pause = ContainerSpec { name: labels::PAUSE.to_owned(), ..ContainerSpec::default() };
        let labels = labels::of(&pause, sandbox.pod(), "", &cgroup);
        let draft =
            Draft { id, image: String::new(), labels, spec, chain: None, io: Io::default() };
        let id = self.make(draft).await.map_err(|status| refused_or_away(status, step))?;
        self.start_task(&id).await.map_err(|status| refused_or_away(status, step))?;
        Ok(id.0)
    }

    /// Makes record, snapshot and task; on failure none of them remains.
    async fn make(&self, draft: Draft) -> Result<ContainerId, Status> {
        let id = draft.id.clone();
        self.creating.lock().insert(id.clone());
        let result = self.make_steps(draft).await;
        self.creating.lock().remove(&id);
        if let Err(status) = result {
            if let Err(error) = self.forget(&id).await {
                tracing::warn!(
                    container = id,
                    error = &error as &dyn std::error::Error,
                    "half made container remains"
                );
            }
            return Err(status);
        }
        self.track(&id);
        Ok(ContainerId(id))
    }

    async fn make_steps(&self, draft: Draft) -> Result<(), Status> {
        let Draft { id, image, labels, spec, chain, io } = draft;
        let spec =
            serde_json::to_vec(&spec).map_err(|error| Status::internal(error.to_string()))?;
        let container = Container {
            id: id.clone(),
            labels,
            image,
            runtime: Some(WireRuntime { name: RUNTIME.to_owned(), options: None }),
            spec: Some(Any { type_url: SPEC_TYPE.to_owned(), value: spec }),
            snapshotter: if chain.is_some() { SNAPSHOTTER.to_owned() } else { String::new() },
            snapshot_key: if chain.is_some() { id.clone() } else { String::new() },
            ..Default::default()
        };
        let request = CreateContainerRequest { container: Some(container) };
        self.client.containers().create(self.client.request(request)).await?;
        let rootfs = match chain {
            Some(chain) => self.prepare_root(&id, chain).await?,
            None => Vec::new(),
        };
        let task = CreateTaskRequest {
            container_id: id,
            rootfs,
            stdin: io.stdin,
            stdout: io.stdout,
            stderr: io.stderr,
            terminal: io.terminal,
            ..Default::default()
        };
        self.client.tasks().create(self.client.request(task)).await?;
        Ok(())
    }

    async fn prepare_root(&self, id: &str, chain: String) -> Result<Vec<Mount>, Status> {
        let request = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: id.to_owned(),
            parent: chain,
            ..Default::default()
        };
        Ok(self.client.snapshots().prepare(self.client.request(request)).await?.into_inner().mounts)
    }

    /// Log and standard input. Without a terminal the shim's logger mode has no standard input, so there the
    /// streams are fifos, and the logger is started by the agent.
    fn prepare_io(&self, id: &str, spec: &ContainerSpec) -> Result<Io, Error> {
        let failed = |error: std::io::Error| Error::CreateContainer {
            name: spec.name.clone(),
            reason: error.to_string(),
        };
        let folder = self.io_folder(id);
        fs::create_dir_all(&folder).map_err(failed)?;
        if let Some(parent) = spec.log_path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let task = logger::Task {
            log_path: spec.log_path.clone(),
            socket: folder.join("attach"),
            tty: spec.tty,
            max_size: self.options.log_max_size,
            max_files: self.options.log_max_files,
        };
        let fifo = |name: &str| {
            let path = folder.join(name);
            nix::unistd::mkfifo(
                &path,
                nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR,
            )
            .map_err(|errno| failed(errno.into()))?;
            Ok::<String, Error>(path.display().to_string())
        };
        let stdin = if spec.stdin { fifo("stdin")? } else { String::new() };
        if spec.stdin && !spec.tty {
            let (stdout, stderr) = (fifo("stdout")?, fifo("stderr")?);
            self.start_fifo_logger(&task, &stdout, &stderr).map_err(failed)?;
            return Ok(Io { stdin, stdout, stderr, terminal: false });
        }
        let uri = log_uri(&self.options.agent_binary, &task);
        let stderr = if spec.tty { String::new() } else { uri.clone() };
        Ok(Io { stdin, stdout: uri, stderr, terminal: spec.tty })
    }

    fn start_fifo_logger(
        &self,
        task: &logger::Task,
        stdout: &str,
        stderr: &str,
    ) -> std::io::Result<()> {
        let mut command = tokio::process::Command::new(&self.options.agent_binary);
        command.args([logger::FIFO_SUBCOMMAND, &task.encode(), stdout, stderr]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        tokio::spawn(async move { child.wait().await });
        Ok(())
    }

    pub(super) fn io_folder(&self, id: &str) -> PathBuf {
        self.options.state_dir.join("io").join(id)
    }

    pub(super) async fn start_container(&self, id: &ContainerId) -> Result<(), Error> {
        let refused = |reason| Error::StartContainer { id: id.0.clone(), reason };
        self.start_task(id).await.map_err(|status| refused_or_away(status, refused))
    }

    /// Starts the task and remembers when, side by side.
    async fn start_task(&self, id: &ContainerId) -> Result<(), Status> {
        let labels = HashMap::from([(labels::STARTED_AT.to_owned(), Timestamp::now().to_string())]);
        let container = Some(Container { id: id.0.clone(), labels, ..Default::default() });
        let paths = vec![format!("labels.{}", labels::STARTED_AT)];
        let update = UpdateContainerRequest { container, update_mask: Some(FieldMask { paths }) };
        let start = StartRequest { container_id: id.0.clone(), exec_id: String::new() };
        let (mut containers, mut tasks) = (self.client.containers(), self.client.tasks());
        let (updated, started) = tokio::join!(
            containers.update(self.client.request(update)),
            tasks.start(self.client.request(start))
        );
        started?;
        updated?;
        Ok(())
    }

    pub(super) async fn kill_container(&self, id: &ContainerId, signal: i32) -> Result<(), Error> {
        let request = KillRequest {
            container_id: id.0.clone(),
            signal: u32::try_from(signal).unwrap_or_default(),
            all: signal == libc::SIGKILL,
            ..Default::default()
        };
        done(self.client.tasks().kill(self.client.request(request)).await)
            .or_else(|status| {
                if status.message().contains("already finished") { Ok(()) } else { Err(status) }
            })
            .map_err(failed("send a signal"))
    }

    pub(super) async fn remove_container(&self, id: &ContainerId) -> Result<(), Error> {
        if self
            .task(&id.0)
            .await
            .map_err(failed("look up a task"))?
            .is_some_and(|task| !has_ended(&task))
        {
            self.kill_container(id, libc::SIGKILL).await?;
            let exited = self.wait_container(id);
            match tokio::time::timeout(super::KILL_TIMEOUT, exited).await {
                Ok(_) => (),
                Err(_) => {
                    return Err(Error::runtime(
                        "kill a container",
                        "it does not end after SIGKILL",
                    ));
                }
            }
        }
        self.forget(&id.0).await.map_err(failed("remove a container"))
    }

    /// Deletes task, record, snapshot and streams, whatever there is of them.
    async fn forget(&self, id: &str) -> Result<(), Status> {
        self.delete_task(id).await?;
        let request = DeleteContainerRequest { id: id.to_owned() };
        done(self.client.containers().delete(self.client.request(request)).await)?;
        let request =
            RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: id.to_owned() };
        done(self.client.snapshots().remove(self.client.request(request)).await)?;
        let _ = fs::remove_dir_all(self.io_folder(id));
        self.untrack(id);
        Ok(())
    }

    /// Deletes a task. One whose shim was lost is deleted by containerd itself, some moments later.
    async fn delete_task(&self, id: &str) -> Result<(), Status> {
        let deadline = tokio::time::Instant::now() + super::KILL_TIMEOUT;
        loop {
            let request = DeleteTaskRequest { container_id: id.to_owned() };
            match done(self.client.tasks().delete(self.client.request(request)).await) {
                Err(status) if is_shim_lost(&status) && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
                result => return result,
            }
        }
    }

    pub(super) async fn task(&self, id: &str) -> Result<Option<Process>, Status> {
        let request = GetRequest { container_id: id.to_owned(), ..Default::default() };
        let answer = optional(self.client.tasks().get(self.client.request(request)).await)?;
        Ok(answer.and_then(|answer| answer.into_inner().process))
    }

    pub(super) async fn pid(&self, id: &str) -> Result<u32, Error> {
        let task = self.task(id).await.map_err(failed("look up a task"))?;
        let running = task.filter(|task| !has_ended(task));
        running
            .map(|task| task.pid)
            .ok_or_else(|| Error::NotFound { what: "process of container", name: id.to_owned() })
    }

    pub(super) async fn record(&self, id: &str) -> Result<Option<(Record, Container)>, Error> {
        let request = self.client.request(GetContainerRequest { id: id.to_owned() });
        let answer = optional(self.client.containers().get(request).await)
            .map_err(failed("look up a container"))?;
        let container = answer.and_then(|answer| answer.into_inner().container);
        Ok(container.and_then(|container| Some((Record::read(&container)?, container))))
    }

    pub(super) async fn container(
        &self,
        id: &ContainerId,
    ) -> Result<Option<ContainerStatus>, Error> {
        let Some((record, _)) = self.record(&id.0).await? else { return Ok(None) };
        let task = self.task(&id.0).await.map_err(failed("look up a task"))?;
        Ok(Some(self.status(record, task.as_ref())))
    }

    /// Ids of all containers of a pod, the pause container included.
    pub(super) async fn containers_of(&self, uid: &str) -> Result<Vec<ContainerId>, Error> {
        let filter = format!("labels.\"{}\"==\"{uid}\"", labels::POD_UID);
        let records = self.records(vec![filter]).await?;
        // The pause process goes last: it takes the others with it, and their exit codes.
        let (pause, others): (Vec<_>, Vec<_>) = records.into_iter().partition(Record::is_pause);
        Ok(others.into_iter().chain(pause).map(|record| ContainerId(record.id)).collect())
    }

    pub(super) async fn containers(&self) -> Result<Vec<ContainerStatus>, Error> {
        let (records, tasks) = (self.records(Vec::new()).await?, self.tasks().await?);
        let listed = records
            .into_iter()
            .filter(|record| !record.is_pause() && !self.creating.lock().contains(&record.id));
        Ok(listed
            .map(|record| {
                let task = tasks.get(&record.id);
                self.status(record, task)
            })
            .collect())
    }

    pub(super) async fn records(&self, filters: Vec<String>) -> Result<Vec<Record>, Error> {
        let request = self.client.request(ListContainersRequest { filters });
        let answer = self
            .client
            .containers()
            .list(request)
            .await
            .map_err(failed("list containers"))?
            .into_inner();
        Ok(answer.containers.iter().filter_map(Record::read).collect())
    }

    pub(super) async fn tasks(&self) -> Result<HashMap<String, Process>, Error> {
        let request = self.client.request(ListTasksRequest::default());
        let answer =
            self.client.tasks().list(request).await.map_err(failed("list tasks"))?.into_inner();
        Ok(answer.tasks.into_iter().map(|task| (task.id.clone(), task)).collect())
    }

    fn status(&self, record: Record, task: Option<&Process>) -> ContainerStatus {
        let started_at = record.started_at;
        let state = match task {
            Some(task) if has_ended(task) => {
                let exit = self.exit(&record.cgroup, task.exit_status, task.exited_at);
                ContainerState::Exited { started_at, exit }
            }
            Some(task) if task.status == i32::from(TaskStatus::Created as u8) => {
                ContainerState::Created
            }
            Some(_) => {
                ContainerState::Running { started_at: started_at.unwrap_or(record.created_at) }
            }
            None => ContainerState::Exited { started_at, exit: lost() },
        };
        record.status(state)
    }

    /// How a process ended; whether memory was the reason is written in its cgroup, which lasts as long as its task.
    pub(super) fn exit(
        &self,
        cgroup: &str,
        status: u32,
        at: Option<prost_types::Timestamp>,
    ) -> Exit {
        let code = i32::try_from(status).unwrap_or(LOST);
        Exit {
            code,
            finished_at: at.map(time).unwrap_or_default(),
            oom_killed: code == LOST && self.cgroups.n_oom_kills(cgroup) > 0,
            message: String::new(),
        }
    }

    pub(super) async fn update_container(
        &self,
        id: &ContainerId,
        resources: &Resources,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let value = oci::resources(resources, self.node.swap).to_string().into_bytes();
        let request = UpdateTaskRequest {
            container_id: id.0.clone(),
            resources: Some(Any { type_url: RESOURCES_TYPE.to_owned(), value }),
            ..Default::default()
        };
        match self.client.tasks().update(self.client.request(request)).await {
            Ok(_) => self.relabel(id, labels).await,
            Err(status) if status.code() == Code::NotFound => Err(not_found(id)),
            Err(status) => Err(failed("update a container")(status)),
        }
    }

    /// Sets labels that the pod side gave; the others stay.
    async fn relabel(
        &self,
        id: &ContainerId,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        if labels.is_empty() {
            return Ok(());
        }
        let labels = labels::of_user(labels);
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let container = Some(Container { id: id.0.clone(), labels, ..Default::default() });
        let update = UpdateContainerRequest { container, update_mask: Some(FieldMask { paths }) };
        match self.client.containers().update(self.client.request(update)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Err(not_found(id)),
            Err(status) => Err(failed("label a container")(status)),
        }
    }
}

pub(super) fn not_found(id: &ContainerId) -> Error {
    Error::NotFound { what: "container", name: id.0.clone() }
}

/// The exit of a container whose task has gone without us.
pub(super) fn lost() -> Exit {
    Exit {
        code: LOST,
        finished_at: Timestamp::now(),
        oom_killed: false,
        message: "the container's supervisor was lost, and its exit code with it".to_owned(),
    }
}

/// What calls to a shim that has gone end with.
fn is_shim_lost(status: &Status) -> bool {
    status.message().contains("ttrpc: closed")
}

fn has_ended(task: &Process) -> bool {
    task.status == TaskStatus::Stopped as i32
}

/// runc's reasons come as text only; a containerd that is away is another matter.
fn refused_or_away(status: Status, refused: impl Fn(String) -> Error) -> Error {
    match is_away(&status) {
        true => Error::Unavailable(status.message().to_owned()),
        false => refused(status.message().to_owned()),
    }
}

fn log_uri(agent: &std::path::Path, task: &logger::Task) -> String {
    let encode =
        |text: &str| -> String {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
            text.bytes()
                .map(|byte| {
                    if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
                })
                .collect()
        };
    format!(
        "binary://{}?{}={}",
        encode(&agent.display().to_string()),
        logger::SUBCOMMAND,
        encode(&task.encode())
    )
}

/// The filter in a profile's file. A file that holds no filter is as bad as none.
fn read_profile(seccomp: &Seccomp) -> Result<Option<Value>, Error> {
    let path = match seccomp {
        Seccomp::Localhost(path) => path,
        Seccomp::Unusable(why) => {
            return Err(Error::ContainerConfig(format!("cannot load seccomp profile: {why}")));
        }
        Seccomp::Unconfined | Seccomp::RuntimeDefault => return Ok(None),
    };
    let failed = |error: &dyn std::fmt::Display| {
        Error::ContainerConfig(format!("cannot load seccomp profile {}: {error}", path.display()))
    };
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    let profile: Value = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    match profile["defaultAction"].is_string() {
        true => Ok(Some(profile)),
        false => Err(failed(&"it has no defaultAction")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_that_filters_nothing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            let file = folder.path().join("profile.json");
            fs::write(&file, text).unwrap();
            read_profile(&Seccomp::Localhost(file))
        };
        for text in ["", "null", "{}", "[]", "{\"defaultAction\":null}"] {
            assert!(matches!(read(text), Err(Error::ContainerConfig(_))), "{text}");
        }
        assert!(read("{\"defaultAction\":\"SCMP_ACT_ERRNO\"}").unwrap().is_some());
        let absent = Seccomp::Localhost(folder.path().join("absent"));
        for profile in [absent, Seccomp::Unusable("why".to_owned())] {
            assert!(matches!(read_profile(&profile), Err(Error::ContainerConfig(_))));
        }
        assert!(read_profile(&Seccomp::RuntimeDefault).unwrap().is_none());
    }
}
