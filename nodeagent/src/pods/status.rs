//! The pod's status as the node sees it. Pure.
//!
//! Only what the node owns is computed; conditions and fields of others are left out and so stay as they are in a strategic merge patch.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus, ResourceRequirements,
    VolumeMount, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::allotment::overlay;
use super::observed::{
    Asked, Attempt, AttemptState, Exit, Observed, Refusal, Role, Sandbox, Seen, WantedContainer,
};
use super::plan::{conclusion, crash_backoff, initialized, is_resizing, restart_at};

/// Prefix of container ids in the API.
pub const ID_SCHEME: &str = "containerd://";

/// Condition of a pod whose resize is not allotted.
pub const RESIZE_PENDING: &str = "PodResizePending";
/// Condition of a pod whose resize is allotted, but not all done.
pub const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";

/// The status to report; `previous` is the last one, for transition times.
pub fn status(o: &Observed, previous: &PodStatus) -> PodStatus {
    let phase = phase(o);
    let end = conclusion(o).filter(|_| phase == "Succeeded" || phase == "Failed");
    let ips = &o.pod_ips;
    PodStatus {
        observed_generation: o.wanted.pod.metadata.generation,
        conditions: Some(conditions(o, phase, previous)),
        reason: end.as_ref().and_then(|e| e.reason.clone()),
        message: end.as_ref().and_then(|e| e.message.clone()),
        host_ip: o.host_ips.first().cloned(),
        host_ips: Some(o.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        start_time: Some(Time(o.start_time)),
        qos_class: Some(qos_class(&o.wanted.pod).to_owned()),
        init_container_statuses: statuses(o, |r| r == Role::Init || r == Role::Sidecar, previous),
        container_statuses: statuses(o, |r| r == Role::Main, previous),
        ephemeral_container_statuses: statuses(o, |r| r == Role::Ephemeral, previous),
        phase: Some(phase.to_owned()),
        ..PodStatus::default()
    }
}

/// Where the pod is in its life.
///
/// Source: kubernetes.io, "Pod Lifecycle", "Pod phase".
fn phase(o: &Observed) -> &'static str {
    let running = o.containers.values().any(Seen::is_engaged);
    if let Some(end) = conclusion(o)
        && !running
    {
        return if end.succeeded { "Succeeded" } else { "Failed" };
    }
    let mut mains = o.of_role(Role::Main);
    let begun = mains.any(|(_, seen)| seen.attempts > 0);
    if (o.wanted.deletion.is_some() || o.orphaned) && !running {
        let clean = o.of_role(Role::Main).all(|(_, s)| s.exit().is_some_and(|e| e.code == 0));
        return if clean { "Succeeded" } else { "Failed" };
    }
    let all_begun = o.of_role(Role::Main).all(|(_, seen)| seen.current.is_some());
    if begun && all_begun { "Running" } else { "Pending" }
}

fn conditions(o: &Observed, phase: &str, previous: &PodStatus) -> Vec<PodCondition> {
    let done = phase == "Succeeded";
    let failed = phase == "Failed";
    let not_ready: Vec<_> = o
        .wanted
        .containers
        .iter()
        .filter(|c| matches!(c.role, Role::Main | Role::Sidecar) && !o.is_ready(c))
        .map(|c| c.name.clone())
        .collect();
    let not_done: Vec<_> = o
        .wanted
        .containers
        .iter()
        .filter(|c| match c.role {
            Role::Init => o.seen(&c.name).exit().is_none_or(|e| e.code != 0),
            Role::Sidecar => !o.is_started(c),
            Role::Main | Role::Ephemeral => false,
        })
        .map(|c| c.name.clone())
        .collect();
    let initialized = done || initialized(o);
    let containers_ready = if done {
        Err(("PodCompleted", None))
    } else if failed {
        Err(("PodFailed", None))
    } else if not_ready.is_empty() {
        Ok(())
    } else {
        let text = format!("containers with unready status: [{}]", not_ready.join(" "));
        Err(("ContainersNotReady", Some(text)))
    };
    let ready = containers_ready.clone().and_then(|()| readiness_gates(o));
    let has_ground = matches!(o.sandbox, Sandbox::Ready { .. });
    let initialized = match (initialized, done) {
        (true, true) => Ok(Some("PodCompleted")),
        (true, false) => Ok(None),
        (false, _) => {
            let text = format!("containers with incomplete status: [{}]", not_done.join(" "));
            Err(("ContainersNotInitialized", Some(text)))
        }
    };
    let plain = |r: Result<(), (&'static str, Option<String>)>| r.map(|()| None);
    let ground = if has_ground { Ok(None) } else { Err(("", None)) };
    [
        ("PodReadyToStartContainers", ground),
        ("Initialized", initialized),
        ("Ready", plain(ready)),
        ("ContainersReady", plain(containers_ready)),
        ("PodScheduled", Ok(None)),
    ]
    .into_iter()
    .map(|(type_, outcome)| condition(o, previous, type_, outcome))
    .chain(resize_conditions(o, previous).filter(|_| !done && !failed))
    .collect()
}

/// What is to be said of a resize; nothing, when there is none.
///
/// Source: KEP-1287.
fn resize_conditions(o: &Observed, previous: &PodStatus) -> impl Iterator<Item = PodCondition> {
    let old = |type_: &str| previous.conditions.iter().flatten().find(|c| c.type_ == type_);
    let condition = |type_: &str, reason: Option<&str>, message: Option<&str>, generation| {
        let same = old(type_).filter(|c| c.reason.as_deref() == reason);
        PodCondition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            reason: reason.map(str::to_owned),
            message: message.map(str::to_owned),
            observed_generation: generation,
            last_transition_time: same
                .and_then(|c| c.last_transition_time.clone())
                .or(Some(Time(o.now))),
            last_probe_time: None,
        }
    };
    let pending = match &o.asked {
        Some(Asked { answer: Some(Refusal::Deferred { message, generation }), .. }) => {
            Some(condition(RESIZE_PENDING, Some("Deferred"), Some(message), *generation))
        }
        Some(_) => old(RESIZE_PENDING).cloned(), // The judgement from before stands until the next one.
        None => None,
    };
    let failure = o.resizing.failure.as_ref();
    let generation = o.resizing.generation.or(o.wanted.pod.metadata.generation);
    let progress = is_resizing(o).then(|| {
        let message = failure.map(|f| f.message.as_str());
        condition(RESIZE_IN_PROGRESS, failure.map(|_| "Error"), message, generation)
    });
    pending.into_iter().chain(progress)
}

type Outcome = Result<Option<&'static str>, (&'static str, Option<String>)>;

fn condition(o: &Observed, previous: &PodStatus, type_: &str, outcome: Outcome) -> PodCondition {
    let (status, reason, message) = match outcome {
        Ok(reason) => ("True", reason.map(str::to_owned), None),
        Err((reason, message)) => {
            ("False", (!reason.is_empty()).then(|| reason.to_owned()), message)
        }
    };
    let old = previous.conditions.iter().flatten().find(|c| c.type_ == type_);
    let since = match old {
        Some(old) if old.status == status => old.last_transition_time.clone(),
        _ => None,
    };
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason,
        message,
        observed_generation: o.wanted.pod.metadata.generation,
        last_transition_time: Some(since.unwrap_or(Time(o.now))),
        last_probe_time: None,
    }
}

/// Conditions that others must set before the pod is ready.
fn readiness_gates(o: &Observed) -> Result<(), (&'static str, Option<String>)> {
    let gates = o.wanted.pod.spec.as_ref().and_then(|s| s.readiness_gates.as_ref());
    let present = o.wanted.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut complaints = Vec::new();
    for gate in gates.into_iter().flatten() {
        let type_ = &gate.condition_type;
        match present.into_iter().flatten().find(|c| c.type_ == *type_) {
            Some(c) if c.status == "True" => (),
            Some(c) => complaints.push(format!(
                "the status of pod readiness gate \"{type_}\" is not \"True\", but {}",
                c.status
            )),
            None => complaints.push(format!(
                "corresponding condition of pod readiness gate \"{type_}\" does not exist."
            )),
        }
    }
    if complaints.is_empty() {
        return Ok(());
    }
    Err(("ReadinessGatesNotReady", Some(complaints.join(", "))))
}

fn statuses(
    o: &Observed,
    wanted: impl Fn(Role) -> bool,
    previous: &PodStatus,
) -> Option<Vec<ContainerStatus>> {
    let list: Vec<_> = o
        .wanted
        .containers
        .iter()
        .filter(|c| wanted(c.role))
        .map(|c| container_status(o, c, previous))
        .collect();
    (!list.is_empty()).then_some(list)
}

fn container_status(
    o: &Observed,
    container: &WantedContainer,
    previous: &PodStatus,
) -> ContainerStatus {
    let seen = o.seen(&container.name);
    if seen.attempts == 0
        && let Some(old) = remembered(o, container, previous)
    {
        return old;
    }
    let waiting = waiting(o, container, seen);
    // A container that waits for its next start shows its last end under `lastState`.
    let last = if waiting.is_some() && seen.current.is_some() { &seen.current } else { &seen.last };
    let state = match (&waiting, &seen.current) {
        (Some((reason, message)), _) => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message: message.clone(),
            }),
            ..ContainerState::default()
        },
        (None, Some(attempt)) => attempt_state(attempt),
        (None, None) => ContainerState::default(),
    };
    let shown = seen.current.as_ref();
    let done = container.role == Role::Init
        && seen.exit().is_some_and(|e| e.code == 0)
        && waiting.is_none();
    ContainerStatus {
        name: container.name.clone(),
        image: container.spec.image.clone().unwrap_or_default(),
        image_id: shown.map(|a| a.image_id.clone()).unwrap_or_default(),
        container_id: shown.map(|a| format!("{ID_SCHEME}{}", a.id)),
        ready: done || o.is_ready(container),
        started: Some(o.is_started(container)),
        restart_count: i32::try_from(seen.attempts.saturating_sub(1)).unwrap_or(i32::MAX),
        state: Some(state),
        last_state: Some(
            last.as_ref().filter(|a| a.exit().is_some()).map(attempt_state).unwrap_or_default(),
        ),
        resources: resources(container, seen),
        allocated_resources: shown
            .and(container.spec.resources.as_ref())
            .and_then(|r| r.requests.clone()),
        volume_mounts: shown.and(container.spec.volume_mounts.as_ref()).map(|m| mounts(m)),
        ..ContainerStatus::default()
    }
}

/// What a running container has; what another one will have.
fn resources(container: &WantedContainer, seen: &Seen) -> Option<ResourceRequirements> {
    let attempt = seen.current.as_ref()?;
    let allotted = container.spec.resources.as_ref()?;
    Some(if seen.is_running() { overlay(allotted, &attempt.resources) } else { allotted.clone() })
}

fn mounts(list: &[VolumeMount]) -> Vec<VolumeMountStatus> {
    let status = |mount: &VolumeMount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only,
        recursive_read_only: mount.read_only.filter(|r| *r).map(|_| "Disabled".to_owned()),
        ..VolumeMountStatus::default()
    };
    list.iter().map(status).collect()
}

/// What the API knows of a container whose record is gone because the pod ended before the agent was started anew.
fn remembered(
    o: &Observed,
    container: &WantedContainer,
    previous: &PodStatus,
) -> Option<ContainerStatus> {
    if !o.wanted.is_terminal() {
        return None;
    }
    let all = [
        &previous.container_statuses,
        &previous.init_container_statuses,
        &previous.ephemeral_container_statuses,
    ];
    all.into_iter().flatten().flatten().find(|s| s.name == container.name).cloned()
}

fn attempt_state(attempt: &Attempt) -> ContainerState {
    match &attempt.state {
        AttemptState::Running { started_at, .. } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*started_at)) }),
            ..ContainerState::default()
        },
        AttemptState::Exited(exit) => ContainerState {
            terminated: Some(terminated(attempt, exit)),
            ..ContainerState::default()
        },
    }
}

fn terminated(attempt: &Attempt, exit: &Exit) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: Some(format!("{ID_SCHEME}{}", attempt.id)),
        exit_code: exit.code,
        reason: Some(exit.reason.clone()),
        message: exit.message.clone(),
        started_at: Some(Time(exit.started_at.unwrap_or(Timestamp::UNIX_EPOCH))),
        finished_at: Some(Time(exit.finished_at)),
        signal: None,
    }
}

/// Why a container does not run though it will, and what to tell people.
fn waiting(
    o: &Observed,
    container: &WantedContainer,
    seen: &Seen,
) -> Option<(String, Option<String>)> {
    if seen.is_running() {
        return None;
    }
    if seen.exit().is_some() {
        // Ended for good, or about to be replaced at once: the end itself is the state.
        let restart = restart_at(container, seen)?;
        if conclusion(o).is_some() || o.wanted.deletion.is_some() {
            return None;
        }
        if let Some(failure) = seen.start_failure.as_ref().or(seen.pull_failure.as_ref()) {
            return Some((failure.reason.clone(), Some(failure.message.clone())));
        }
        if restart <= o.now {
            return None;
        }
        let wait = go_duration(crash_backoff(seen.crashes).as_secs());
        let message = format!(
            "back-off {wait} restarting failed container={} pod={}",
            container.name,
            o.wanted.display()
        );
        return Some(("CrashLoopBackOff".to_owned(), Some(message)));
    }
    if let Some(failure) = seen.start_failure.as_ref().or(seen.pull_failure.as_ref()) {
        return Some((failure.reason.clone(), Some(failure.message.clone())));
    }
    let held_back = container.role == Role::Main && !initialized(o);
    let has_init = o.wanted.containers.iter().any(|c| matches!(c.role, Role::Init | Role::Sidecar));
    let in_turn = matches!(container.role, Role::Init | Role::Sidecar) || held_back;
    let reason = if has_init && in_turn { "PodInitializing" } else { "ContainerCreating" };
    Some((reason.to_owned(), None))
}

/// Seconds as Go prints a duration: `10s`, `2m40s`, `5m0s`.
pub fn go_duration(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) if m < 60 => format!("{m}m{s}s"),
        (m, s) => format!("{}h{}m{s}s", m / 60, m % 60),
    }
}

/// The class by which the node ranks a pod when resources run short.
///
/// Source: kubernetes.io, "Pod Quality of Service Classes".
pub fn qos_class(pod: &Pod) -> &'static str {
    if let Some(kept) = pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        match kept {
            "Guaranteed" => return "Guaranteed",
            "Burstable" => return "Burstable",
            "BestEffort" => return "BestEffort",
            _ => (),
        }
    }
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let counted = |m: Option<&BTreeMap<String, Quantity>>| -> BTreeMap<String, String> {
        m.into_iter()
            .flatten()
            .filter(|(name, _)| *name == "cpu" || *name == "memory")
            .map(|(name, q)| (name.clone(), q.0.clone()))
            .collect()
    };
    let mut any = false;
    let mut guaranteed = true;
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let resources = container.resources.as_ref();
        let limits = counted(resources.and_then(|r| r.limits.as_ref()));
        let mut requests = limits.clone();
        let asked = counted(resources.and_then(|r| r.requests.as_ref()));
        any |= !limits.is_empty() || !asked.is_empty();
        requests.extend(asked);
        guaranteed &= limits.len() == 2 && requests == limits;
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests;
