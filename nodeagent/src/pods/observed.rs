//! What the plan and the status of one pod may depend on, as plain values.
//!
//! Nothing here talks to anything. `Wanted` makes the pod's defaults explicit once, so that no rule needs an `unwrap`; `Observed` is what the worker knows about it now.

mod resizing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, EphemeralContainer, Pod, ResourceRequirements,
};
use k8s_openapi::jiff::Timestamp;

pub use resizing::{Asked, Refusal, Resizing};

use super::quantity::pod_resources;
use crate::runtime::Resources;

/// `terminationGracePeriodSeconds` when a pod has none.
///
/// Source: the API's default of `PodSpec.terminationGracePeriodSeconds`.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// When a container that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// After every end.
    Always,
    /// After an end with another code than 0.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            Some("Always") => Some(Self::Always),
            Some("OnFailure") => Some(Self::OnFailure),
            Some("Never") => Some(Self::Never),
            _ => None,
        }
    }
}

/// When an image is asked for at its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before every start.
    Always,
    /// Only if the node does not have it.
    IfNotPresent,
    /// Never: a missing image is an error.
    Never,
}

/// The part that a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: starts in turn, then stays.
    Sidecar,
    /// One of `spec.containers`.
    Main,
    /// Added for debugging; never restarted, and not part of the pod's phase.
    Ephemeral,
}

/// One container as the pod wants it.
#[derive(Clone, Debug)]
pub struct WantedContainer {
    /// Unique in the pod.
    pub name: String,
    /// Its part in the pod.
    pub role: Role,
    /// The specification; an ephemeral container is turned into one.
    pub spec: Arc<Container>,
    /// Its own policy, else the pod's.
    pub restart: RestartPolicy,
    /// Exceptions from `restart` by exit code.
    pub rules: Vec<ContainerRestartRule>,
    /// When to ask the registry.
    pub pull: PullPolicy,
    /// Whose process namespace an ephemeral container joins.
    pub target: Option<String>,
}

impl WantedContainer {
    /// Whether an end with `exit_code` is followed by another start.
    ///
    /// Source: kubernetes.io, "Pod Lifecycle", "Container restarts".
    pub fn restarts_after(&self, exit_code: i32) -> bool {
        let matches_rule = |rule: &ContainerRestartRule| {
            let Some(on) = &rule.exit_codes else { return false };
            let listed = on.values.iter().flatten().any(|code| *code == exit_code);
            if on.operator == "NotIn" { !listed } else { listed }
        };
        if self.rules.iter().any(|rule| rule.action == "Restart" && matches_rule(rule)) {
            return true;
        }
        match self.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != 0,
            RestartPolicy::Never => false,
        }
    }

    /// Whether a hook runs right after the start.
    pub fn has_post_start(&self) -> bool {
        self.spec.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some())
    }
}

/// One pod as the API wants it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The object itself.
    pub pod: Arc<Pod>,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; of a mirror pod's source, the configuration's hash.
    pub uid: String,
    /// Init containers, then main ones, then ephemeral ones, each in the order of the specification.
    pub containers: Vec<WantedContainer>,
    /// `spec.restartPolicy`.
    pub restart: RestartPolicy,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace: Duration,
    /// Set once the pod is being deleted: how long its containers may take.
    pub deletion: Option<Duration>,
    /// `spec.activeDeadlineSeconds`.
    pub active_deadline: Option<Duration>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
}

impl Wanted {
    /// Reads a pod of the API.
    pub fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let restart =
            RestartPolicy::parse(spec.restart_policy.as_deref()).unwrap_or(RestartPolicy::Always);
        let mut containers = Vec::new();
        for c in spec.init_containers.into_iter().flatten() {
            let sidecar = c.restart_policy.as_deref() == Some("Always");
            let role = if sidecar { Role::Sidecar } else { Role::Init };
            // An init container of an `Always` pod is retried, but not once it succeeded.
            let inherited = match restart {
                RestartPolicy::Always => RestartPolicy::OnFailure,
                other @ (RestartPolicy::OnFailure | RestartPolicy::Never) => other,
            };
            containers.push(wanted_container(c, role, inherited, None));
        }
        for c in spec.containers {
            containers.push(wanted_container(c, Role::Main, restart, None));
        }
        for e in spec.ephemeral_containers.into_iter().flatten() {
            let target = e.target_container_name.clone();
            let c = container_of(e);
            containers.push(wanted_container(c, Role::Ephemeral, RestartPolicy::Never, target));
        }
        let seconds = |s: i64| Duration::from_secs(u64::try_from(s).unwrap_or(0));
        let grace = spec.termination_grace_period_seconds.map_or(DEFAULT_GRACE, seconds);
        let meta = &pod.metadata;
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            containers,
            restart,
            grace,
            deletion: meta
                .deletion_timestamp
                .as_ref()
                .map(|_| meta.deletion_grace_period_seconds.map_or(grace, seconds)),
            active_deadline: spec.active_deadline_seconds.map(seconds),
            host_network: spec.host_network.unwrap_or(false),
            pod,
        }
    }

    /// The container of that name.
    pub fn container(&self, name: &str) -> Option<&WantedContainer> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// `name_namespace(uid)`, as upstream's messages name a pod.
    pub fn display(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }

    /// Whether the API already holds a final phase, which is never left again.
    pub fn is_terminal(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }
}

fn wanted_container(
    spec: Container,
    role: Role,
    inherited: RestartPolicy,
    target: Option<String>,
) -> WantedContainer {
    let latest = spec.image.as_deref().is_none_or(is_latest);
    WantedContainer {
        name: spec.name.clone(),
        role,
        restart: RestartPolicy::parse(spec.restart_policy.as_deref()).unwrap_or(inherited),
        rules: spec.restart_policy_rules.clone().unwrap_or_default(),
        pull: match spec.image_pull_policy.as_deref() {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            Some("IfNotPresent") => PullPolicy::IfNotPresent,
            _ if latest => PullPolicy::Always,
            _ => PullPolicy::IfNotPresent,
        },
        spec: Arc::new(spec),
        target,
    }
}

/// Whether an image reference means the tag `latest`, by name or by leaving it out.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn container_of(e: EphemeralContainer) -> Container {
    Container {
        args: e.args,
        command: e.command,
        env: e.env,
        env_from: e.env_from,
        image: e.image,
        image_pull_policy: e.image_pull_policy,
        name: e.name,
        resources: e.resources,
        security_context: e.security_context,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        tty: e.tty,
        volume_mounts: e.volume_mounts,
        working_dir: e.working_dir,
        ..Container::default()
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The process's code, or 128 + signal.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun` …
    pub reason: String,
    /// The termination message.
    pub message: Option<String>,
    /// When the process began, if it did.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// One container in the runtime.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// The runtime's id, without scheme.
    pub id: String,
    /// The image as the pod named it when this attempt was made.
    pub image: String,
    /// The image's name and digest as the runtime resolved them.
    pub image_id: String,
    /// The resources that its cgroup has.
    pub resources: ResourceRequirements,
    /// Running, or ended.
    pub state: AttemptState,
}

impl Attempt {
    /// The end, if it has come.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            AttemptState::Exited(exit) => Some(exit),
            AttemptState::Running { .. } => None,
        }
    }
}

/// Where an attempt stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// Its process runs.
    Running {
        /// Since when.
        started_at: Timestamp,
        /// Whether the postStart hook is over (or there is none).
        hooked: bool,
    },
    /// Its process has ended.
    Exited(Exit),
}

/// What is being done to a container right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Its image is being fetched.
    Pulling,
    /// It is being created and started.
    Starting,
    /// It is being stopped.
    Killing,
}

/// Why a container cannot be started just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The waiting reason, such as `ErrImagePull` or `CreateContainerConfigError`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Failures in a row, 1 after the first.
    pub tries: u32,
    /// When it is tried again.
    pub retry_at: Timestamp,
    /// Whether the back-off has been announced (`ImagePullBackOff`).
    pub announced: bool,
}

/// The image of a container that is to be started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Image {
    /// Not looked at since the last start.
    #[default]
    Unknown,
    /// Present.
    Present {
        /// The runtime's id of it, by digest.
        id: String,
    },
}

/// What probes have said about the running attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// The startup probe has succeeded.
    pub started: bool,
    /// The last verdict of the readiness probe.
    pub ready: bool,
    /// A startup or liveness probe has failed: the attempt must end. Holds the event's message.
    pub doomed: Option<Doom>,
}

/// A probe's sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doom {
    /// The event's message.
    pub message: String,
    /// The probe's own grace period.
    pub grace: Option<Duration>,
}

/// What the worker knows about one container.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The newest attempt.
    pub current: Option<Attempt>,
    /// The one before it.
    pub last: Option<Attempt>,
    /// Attempts so far, the current one included; `restartCount` is one less.
    pub attempts: u32,
    /// Ends in a row without a long run; decides the back-off.
    pub crashes: u32,
    /// The image for the next start.
    pub image: Image,
    /// Why the last pull failed.
    pub pull_failure: Option<Failure>,
    /// Why the last start failed.
    pub start_failure: Option<Failure>,
    /// Probe results of the current attempt.
    pub verdicts: Verdicts,
    /// What is being done.
    pub busy: Option<Busy>,
    /// The current attempt ends, or has ended, to make room for one as the pod wants it: that is no crash, and no
    /// policy holds the next one back.
    pub replaced: bool,
}

impl Seen {
    /// Whether the current attempt's process runs.
    pub fn is_running(&self) -> bool {
        matches!(&self.current, Some(a) if a.exit().is_none())
    }

    /// Whether it runs, or is on the way to or from it. A pull alone holds nothing up.
    pub fn is_engaged(&self) -> bool {
        self.is_running() || matches!(self.busy, Some(Busy::Starting | Busy::Killing))
    }

    /// Whether it can be killed: nothing but a pull is being done to it.
    pub fn is_idle(&self) -> bool {
        matches!(self.busy, None | Some(Busy::Pulling))
    }

    /// Since when the current attempt runs, if it does.
    pub fn running_since(&self) -> Option<Timestamp> {
        match self.current.as_ref()?.state {
            AttemptState::Running { started_at, .. } => Some(started_at),
            AttemptState::Exited(_) => None,
        }
    }

    /// How the current attempt ended, if it did.
    pub fn exit(&self) -> Option<&Exit> {
        self.current.as_ref()?.exit()
    }
}

/// The pod's namespaces and network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// There is none.
    #[default]
    Absent,
    /// Being made.
    Creating,
    /// Made.
    Ready {
        /// The runtime's id.
        id: String,
        /// Addresses, the first one is `podIP`.
        ips: Vec<String>,
    },
    /// Could not be made.
    Failed(Failure),
    /// Being removed.
    Removing,
    /// Removed for good.
    Removed,
}

/// The pod's volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Volumes {
    /// Not set up.
    #[default]
    Absent,
    /// Being set up.
    Mounting,
    /// All there.
    Ready,
    /// One could not be set up.
    Failed(Failure),
    /// Being removed.
    Removing,
    /// Removed for good.
    Removed,
}

/// Where the pod's end stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Farewell {
    /// Not begun.
    #[default]
    NotYet,
    /// The containers' records are being removed.
    RemovingRecords,
    /// Records are gone.
    RecordsGone,
    /// The last delete is on its way to the API.
    Confirming,
    /// Nothing is left to do.
    Done,
}

/// All that a decision about one pod may depend on, time included.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The clock at this decision.
    pub now: Timestamp,
    /// What the API wants, with the resources that the node has allotted.
    pub wanted: Arc<Wanted>,
    /// Other resources that the API asks for.
    pub asked: Option<Asked>,
    /// How far the last resize is.
    pub resizing: Resizing,
    /// The limits of the pod's cgroup; `None` if nobody knows.
    pub limits: Option<Resources>,
    /// The API no longer has the pod (or has another one of that name).
    pub orphaned: bool,
    /// When the node first saw the pod: `status.startTime`.
    pub start_time: Timestamp,
    /// Namespaces and network.
    pub sandbox: Sandbox,
    /// Addresses that the pod has or had, kept for the status of an ended pod.
    pub pod_ips: Vec<String>,
    /// Volumes.
    pub volumes: Volumes,
    /// Each container, by name.
    pub containers: BTreeMap<String, Seen>,
    /// The node refused or ended the pod: reason and message of a failed phase.
    pub verdict: Option<(String, String)>,
    /// The final phase that the API was sent.
    pub reported_terminal: bool,
    /// Where the pod's end stands.
    pub farewell: Farewell,
    /// The node's addresses.
    pub host_ips: Vec<String>,
}

impl Observed {
    /// A pod that nothing has been done for.
    pub fn new(wanted: Arc<Wanted>, now: Timestamp, host_ips: Vec<String>) -> Self {
        let known = wanted.pod.status.as_ref();
        let start_time = known.and_then(|s| s.start_time.as_ref()).map_or(now, |t| t.0);
        let ips = known.and_then(|s| s.pod_ips.clone()).unwrap_or_default();
        let names = wanted.containers.iter().map(|c| (c.name.clone(), Seen::default()));
        Self {
            now,
            asked: None,
            resizing: Resizing::default(),
            limits: Some(pod_resources(&wanted.pod)),
            orphaned: false,
            start_time,
            sandbox: Sandbox::Absent,
            pod_ips: ips.into_iter().map(|ip| ip.ip).collect(),
            volumes: Volumes::Absent,
            containers: names.collect(),
            verdict: None,
            reported_terminal: wanted.is_terminal(),
            farewell: Farewell::NotYet,
            host_ips,
            wanted,
        }
    }

    /// What is known of a container; nothing, if it is new.
    pub fn seen(&self, name: &str) -> &Seen {
        static NOTHING: std::sync::LazyLock<Seen> = std::sync::LazyLock::new(Seen::default);
        self.containers.get(name).unwrap_or(&NOTHING)
    }

    /// Wanted containers of one role, with what is known of each.
    pub fn of_role(
        &self,
        role: Role,
    ) -> impl DoubleEndedIterator<Item = (&WantedContainer, &Seen)> {
        self.wanted
            .containers
            .iter()
            .filter(move |c| c.role == role)
            .map(|c| (c, self.seen(&c.name)))
    }

    /// Whether a container has passed its postStart hook and its startup probe.
    pub fn is_started(&self, container: &WantedContainer) -> bool {
        let seen = self.seen(&container.name);
        let hooked = matches!(
            seen.current.as_ref().map(|a| &a.state),
            Some(AttemptState::Running { hooked: true, .. })
        );
        hooked && (container.spec.startup_probe.is_none() || seen.verdicts.started)
    }

    /// Whether a container may be sent requests.
    pub fn is_ready(&self, container: &WantedContainer) -> bool {
        let seen = self.seen(&container.name);
        self.is_started(container)
            && (container.spec.readiness_probe.is_none() || seen.verdicts.ready)
    }
}
