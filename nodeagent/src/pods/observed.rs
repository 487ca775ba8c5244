//! What the plan and the status of one pod may depend on, as plain values.
//!
//! Nothing here talks to anything. `Wanted` makes the pod's defaults explicit once, so that no rule needs an `unwrap`; `Observed` is what the worker knows about it now.

mod resizing;
mod seen;
mod wanted;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

pub use resizing::{Asked, Refusal, Resizing};
pub use seen::{Attempt, AttemptState, Busy, Doom, Exit, Failure, Image, Seen, Verdicts};
pub use wanted::{PullPolicy, RestartPolicy, Role, Wanted, WantedContainer};

use super::quantity::pod_resources;
use crate::runtime::Resources;

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
