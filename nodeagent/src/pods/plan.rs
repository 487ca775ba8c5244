//! What to do next for one pod. Pure: no client, clock or runtime is named here.
//!
//! The worker calls [`plan`] after every change, carries the steps out and comes back; what is under way is part of [`Observed`], so nothing is asked for twice.

mod resize;

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

pub use resize::{Bound, Change, Resize};

use super::observed::{
    AttemptState, Failure, Farewell, Image, Observed, Role, Sandbox, Seen, Volumes, WantedContainer,
};

/// First wait before a container that keeps ending is started again; it doubles.
///
/// Source: kubernetes.io, "Pod Lifecycle", "Container restarts".
const CRASH_BACKOFF_FIRST: Duration = Duration::from_secs(10);
/// Longest wait between starts, and between pulls.
pub const BACKOFF_CAP: Duration = Duration::from_secs(300);
/// A run of this length clears the back-off.
pub const STABLE_RUN: Duration = Duration::from_secs(600);

/// Reason of a sandbox or of volumes that could not be taken away.
pub const FAILED_REMOVAL: &str = "FailedRemoval";

/// One thing to do. A step leaves no choice to whoever carries it out.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Set up all volumes.
    MountVolumes,
    /// Make namespaces and network.
    CreateSandbox,
    /// See to it that a container's image is on the node.
    Pull {
        /// The container.
        container: String,
    },
    /// Create and start the next attempt of a container.
    Start {
        /// The container.
        container: String,
        /// Its number, 0 for the first.
        attempt: u32,
    },
    /// Run preStop, send the stop signal, and after `grace` SIGKILL.
    Kill {
        /// The container.
        container: String,
        /// The event's message.
        message: String,
        /// Time for preStop and the stop signal together.
        grace: Duration,
        /// Another attempt takes its place at once, whatever its policy.
        replaced: bool,
    },
    /// Ask the node for the resources that the API wants.
    Allot,
    /// Change limits of the pod and of running containers.
    Resize(Resize),
    /// Forget the ended containers in the runtime; logs stay.
    RemoveRecords,
    /// Take network and namespaces away.
    RemoveSandbox,
    /// Take volumes away.
    UnmountVolumes,
    /// Delete the pod in the API for good, by its UID.
    ConfirmDelete,
    /// Remove what is left on the node (logs, folders) and end the worker.
    Forget,
}

/// The final phase of a pod and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// `Succeeded`, else `Failed`.
    pub succeeded: bool,
    /// `status.reason`.
    pub reason: Option<String>,
    /// `status.message`.
    pub message: Option<String>,
}

/// The steps to begin now.
pub fn plan(o: &Observed) -> Vec<Step> {
    if o.orphaned || o.wanted.deletion.is_some() || conclusion(o).is_some() {
        return wind_down(o);
    }
    let mut steps = Vec::new();
    if o.asked.as_ref().is_some_and(|asked| asked.answer.is_none()) {
        steps.push(Step::Allot);
    }
    match &o.volumes {
        Volumes::Absent => steps.push(Step::MountVolumes),
        Volumes::Failed(f) if is_due(o, f) => steps.push(Step::MountVolumes),
        _ => (),
    }
    match &o.sandbox {
        Sandbox::Absent => steps.push(Step::CreateSandbox),
        Sandbox::Failed(f) if is_due(o, f) => steps.push(Step::CreateSandbox),
        _ => (),
    }
    for container in wanted_now(o) {
        steps.extend(bring_up(o, container));
    }
    for container in &o.wanted.containers {
        steps.extend(replace(o, container));
    }
    steps.extend(resize::resize(o).map(Step::Resize));
    steps
}

/// Whether a resize is not all done: a condition says so.
pub fn is_resizing(o: &Observed) -> bool {
    // A pod whose limits a new agent writes again is not resized.
    let busy = o.resizing.busy && o.resizing.generation.is_some();
    busy || o.resizing.failure.is_some() || resize::is_unfinished(o)
}

/// When [`plan`] has to be asked again though nothing reports: the end of a back-off or deadline.
pub fn recheck_at(o: &Observed) -> Option<Timestamp> {
    let mut times = Vec::new();
    if let Volumes::Failed(f) = &o.volumes {
        times.push(f.retry_at);
    }
    if let Sandbox::Failed(f) = &o.sandbox {
        times.push(f.retry_at);
    }
    for container in &o.wanted.containers {
        let seen = o.seen(&container.name);
        times.extend(seen.pull_failure.iter().chain(&seen.start_failure).map(|f| f.retry_at));
        times.extend(restart_at(container, seen));
    }
    times.extend(o.resizing.failure.as_ref().map(|f| f.retry_at));
    times.extend(o.wanted.active_deadline.map(|d| after(o.start_time, d)));
    times.into_iter().filter(|t| *t > o.now).min()
}

/// How the pod has ended, if it has: then nothing is started any more.
pub fn conclusion(o: &Observed) -> Option<Conclusion> {
    let failed = |reason: &str, message: &str| Conclusion {
        succeeded: false,
        reason: Some(reason.into()),
        message: Some(message.into()),
    };
    if let Some((reason, message)) = &o.verdict {
        return Some(failed(reason, message));
    }
    if o.wanted.is_terminal() {
        let status = o.wanted.pod.status.as_ref();
        return Some(Conclusion {
            succeeded: status.and_then(|s| s.phase.as_deref()) == Some("Succeeded"),
            reason: status.and_then(|s| s.reason.clone()),
            message: status.and_then(|s| s.message.clone()),
        });
    }
    if o.wanted.active_deadline.is_some_and(|d| after(o.start_time, d) <= o.now) {
        let message = "Pod was active on the node longer than the specified deadline";
        return Some(failed("DeadlineExceeded", message));
    }
    let init_failed = o
        .of_role(Role::Init)
        .any(|(c, seen)| seen.exit().is_some_and(|e| e.code != 0 && !restarts(c, seen, e.code)));
    let none = Conclusion { succeeded: false, reason: None, message: None };
    if init_failed && !mains_begun(o) {
        return Some(none);
    }
    let mut succeeded = true;
    let mut mains = o.of_role(Role::Main).peekable();
    mains.peek()?;
    for (container, seen) in mains {
        let exit = seen.exit()?;
        if restarts(container, seen, exit.code) {
            return None;
        }
        succeeded &= exit.code == 0;
    }
    Some(Conclusion { succeeded, ..none })
}

/// The wait between the `crashes`-th end in a row and the next start.
///
/// Nothing after the first, then 10 s, 20 s … 5 min.
pub fn crash_backoff(crashes: u32) -> Duration {
    match crashes {
        0 | 1 => Duration::ZERO,
        n => CRASH_BACKOFF_FIRST.saturating_mul(1 << (n - 2).min(10)).min(BACKOFF_CAP),
    }
}

/// The wait after the `tries`-th failed pull in a row: 10 s, 20 s … 5 min.
///
/// An image that is never pulled is looked for every 10 s, since somebody may bring it in.
pub fn pull_backoff(reason: &str, tries: u32) -> Duration {
    match reason {
        "ErrImageNeverPull" => CRASH_BACKOFF_FIRST,
        _ => crash_backoff(tries.saturating_add(1)),
    }
}

/// When an ended container is started again; `None` if it runs, or stays ended.
pub fn restart_at(container: &WantedContainer, seen: &Seen) -> Option<Timestamp> {
    let exit = seen.exit()?;
    let wait = if seen.replaced { Duration::ZERO } else { crash_backoff(seen.crashes) };
    restarts(container, seen, exit.code).then(|| after(exit.finished_at, wait))
}

fn restarts(container: &WantedContainer, seen: &Seen, exit_code: i32) -> bool {
    seen.replaced || container.restarts_after(exit_code)
}

/// `time` + `wait`.
pub fn after(time: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// Whether any main container was started in this sandbox: from then on init containers are history.
pub fn mains_begun(o: &Observed) -> bool {
    o.of_role(Role::Main).any(|(_, seen)| seen.current.is_some())
}

/// Whether every init container has done its part.
pub fn initialized(o: &Observed) -> bool {
    mains_begun(o)
        || (o.of_role(Role::Init).all(|(_, seen)| seen.exit().is_some_and(|e| e.code == 0))
            && o.of_role(Role::Sidecar).all(|(c, _)| o.is_started(c)))
}

/// Containers that ought to run at this moment, whether they do or not.
fn wanted_now(o: &Observed) -> Vec<&WantedContainer> {
    let begun = mains_begun(o);
    let mut now = Vec::new();
    let mut open = true;
    for container in &o.wanted.containers {
        let seen = o.seen(&container.name);
        match container.role {
            Role::Init if begun || !open => (),
            Role::Init => {
                if seen.exit().is_none_or(|e| e.code != 0) {
                    now.push(container);
                    open = false;
                }
            }
            Role::Sidecar if !begun && !open => (),
            Role::Sidecar => {
                now.push(container);
                open &= o.is_started(container);
            }
            Role::Main if !begun && !open => (),
            Role::Main => {
                now.push(container);
                if holds_back_others(container, seen) {
                    break;
                }
            }
            Role::Ephemeral => now.push(container),
        }
    }
    now
}

/// Main containers start together, but a postStart hook holds back those behind it, which some sidecar-like containers rely on.
fn holds_back_others(container: &WantedContainer, seen: &Seen) -> bool {
    if !container.has_post_start() || seen.attempts > 1 || seen.start_failure.is_some() {
        return false;
    }
    match seen.current.as_ref().map(|a| &a.state) {
        None => seen.pull_failure.is_none(),
        Some(AttemptState::Running { hooked, .. }) => !hooked,
        Some(AttemptState::Exited(_)) => false,
    }
}

fn bring_up(o: &Observed, container: &WantedContainer) -> Option<Step> {
    let seen = o.seen(&container.name);
    if seen.busy.is_some() || seen.is_running() {
        return None;
    }
    if seen.exit().is_some() && restart_at(container, seen).is_none_or(|at| at > o.now) {
        return None;
    }
    if seen.image == Image::Unknown {
        let due = seen.pull_failure.as_ref().is_none_or(|f| is_due(o, f));
        return due.then(|| Step::Pull { container: container.name.clone() });
    }
    let ground = matches!(o.sandbox, Sandbox::Ready { .. })
        && o.volumes == Volumes::Ready
        && resize::has_room(o);
    let due = seen.start_failure.as_ref().is_none_or(|f| is_due(o, f));
    (ground && due)
        .then(|| Step::Start { container: container.name.clone(), attempt: seen.attempts })
}

/// Ends an attempt that a probe has given up, whose image the pod no longer wants, or that cannot be resized.
///
/// Source of the messages: upstream `pkg/kubelet/kuberuntime/kuberuntime_manager.go`.
fn replace(o: &Observed, container: &WantedContainer) -> Option<Step> {
    let seen = o.seen(&container.name);
    if seen.busy.is_some() || !seen.is_running() {
        return None;
    }
    let name = &container.name;
    if let Some(doom) = &seen.verdicts.doomed {
        return Some(Step::Kill {
            container: name.clone(),
            message: doom.message.clone(),
            grace: doom.grace.unwrap_or(o.wanted.grace),
            replaced: false,
        });
    }
    let attempt = seen.current.as_ref()?;
    let message = if container.spec.image.as_ref().is_some_and(|wanted| *wanted != attempt.image) {
        format!("Container {name} definition changed, will be restarted")
    } else if resize::needs_restart(container, attempt) {
        format!("Container {name} resize requires restart")
    } else {
        return None;
    };
    Some(Step::Kill { container: name.clone(), message, grace: o.wanted.grace, replaced: true })
}

/// The way out: containers (sidecars last, in reverse), the final status, then all the rest.
fn wind_down(o: &Observed) -> Vec<Step> {
    let kills = kills(o);
    if !kills.is_empty() {
        return kills;
    }
    let engaged = o.containers.values().any(Seen::is_engaged);
    if engaged || (!o.orphaned && !o.reported_terminal) {
        return Vec::new(); // The worker reports, then asks again.
    }
    match o.farewell {
        Farewell::NotYet => return vec![Step::RemoveRecords],
        Farewell::RemovingRecords | Farewell::Confirming | Farewell::Done => return Vec::new(),
        Farewell::RecordsGone => (),
    }
    // What failed to be removed is tried again after a while; what failed to be made, at once.
    let waits = |f: &Failure| f.reason == FAILED_REMOVAL && !is_due(o, f);
    let mut steps = Vec::new();
    match &o.sandbox {
        Sandbox::Ready { .. } => steps.push(Step::RemoveSandbox),
        Sandbox::Failed(f) if !waits(f) => steps.push(Step::RemoveSandbox),
        Sandbox::Absent | Sandbox::Removed => (),
        Sandbox::Failed(_) | Sandbox::Creating | Sandbox::Removing => return steps,
    }
    match &o.volumes {
        Volumes::Absent | Volumes::Ready => steps.push(Step::UnmountVolumes),
        Volumes::Failed(f) if !waits(f) => steps.push(Step::UnmountVolumes),
        Volumes::Removed => (),
        Volumes::Failed(_) | Volumes::Mounting | Volumes::Removing => return steps,
    }
    if !steps.is_empty() {
        return steps;
    }
    if o.orphaned {
        return vec![Step::Forget];
    }
    if o.wanted.deletion.is_some() {
        return vec![Step::ConfirmDelete];
    }
    Vec::new()
}

fn kills(o: &Observed) -> Vec<Step> {
    // Nobody waits for an orphan; it gets no more than its own grace period all the same.
    let grace = o.wanted.deletion.unwrap_or(o.wanted.grace);
    let kill = |container: &WantedContainer| Step::Kill {
        container: container.name.clone(),
        message: format!("Stopping container {}", container.name),
        grace,
        replaced: false,
    };
    let first: Vec<_> = o
        .wanted
        .containers
        .iter()
        .filter(|c| c.role != Role::Sidecar)
        .filter(|c| o.seen(&c.name).is_engaged())
        .collect();
    if !first.is_empty() {
        let idle = first.into_iter().filter(|c| o.seen(&c.name).is_idle());
        return idle.map(kill).collect();
    }
    match o.of_role(Role::Sidecar).rev().find(|(_, s)| s.is_engaged()) {
        Some((container, seen)) if seen.is_idle() => vec![kill(container)],
        _ => Vec::new(),
    }
}

fn is_due(o: &Observed, failure: &Failure) -> bool {
    failure.retry_at <= o.now
}

#[cfg(test)]
mod tests;
