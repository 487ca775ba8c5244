//! What is known of one container.

use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::jiff::Timestamp;

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
