//! What the API wants of a pod, with its defaults made explicit.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod};

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
