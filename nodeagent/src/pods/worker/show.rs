//! What others see of a pod: its status in the API, and a view for the node's server.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::PodStatus;
use tokio::sync::{mpsc, watch};

use super::{Message, Worker};
use crate::pods::observed::{Role, Wanted};
use crate::pods::report::Numbered;
use crate::pods::status::{RESIZE_IN_PROGRESS, RESIZE_PENDING, status};

/// How others reach a worker.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) mailbox: mpsc::UnboundedSender<Message>,
    pub(super) view: watch::Receiver<View>,
}

/// What the server may know of a pod.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The pod.
    pub wanted: Option<Arc<Wanted>>,
    /// Current container ids, by name, with whether they run.
    pub containers: BTreeMap<String, (String, bool)>,
    /// Number of the newest attempt, by container.
    pub attempts: BTreeMap<String, u32>,
    /// The last status.
    pub status: PodStatus,
}

impl Handle {
    /// Tells the worker about a new version of its pod.
    pub fn update(&self, wanted: Arc<Wanted>) {
        let _ = self.mailbox.send(Message::Wanted(wanted));
    }

    /// Tells the worker that the API has no such pod any more.
    pub fn orphan(&self) {
        let _ = self.mailbox.send(Message::Orphaned);
    }

    /// What the pod looks like now.
    pub fn view(&self) -> watch::Ref<'_, View> {
        self.view.borrow()
    }

    /// Follows what the pod looks like.
    pub fn follow(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Whether the worker has ended.
    pub fn is_over(&self) -> bool {
        self.mailbox.is_closed()
    }
}

impl Worker {
    /// Sends the status if it has changed, and shows the server how the pod is.
    pub(super) fn report(&mut self) {
        let next = status(&self.observed, &self.sent);
        let mains = || self.observed.of_role(Role::Main);
        if !self.up && mains().all(|(_, seen)| seen.is_running()) {
            self.up = true;
            self.ctx.metrics.pod_start.observe(self.born.elapsed());
        }
        let changed = !same(&next, &self.sent);
        if changed && !self.observed.orphaned {
            self.number += 1;
            self.statuses.send_replace(Numbered { number: self.number, status: next.clone() });
        }
        if changed {
            self.sent = next;
        }
        let wanted = &self.observed.wanted;
        let shown = self.view.borrow().wanted.as_ref().is_some_and(|w| Arc::ptr_eq(w, wanted));
        if changed || !shown {
            self.show();
        }
    }

    pub(super) fn show(&self) {
        let containers = self.observed.containers.iter().filter_map(|(name, seen)| {
            let current = seen.current.as_ref()?;
            Some((name.clone(), (current.id.clone(), current.exit().is_none())))
        });
        let attempts =
            self.observed.containers.iter().map(|(name, seen)| (name.clone(), seen.attempts));
        self.view.send_replace(View {
            wanted: Some(self.observed.wanted.clone()),
            containers: containers.collect(),
            attempts: attempts.collect(),
            status: self.sent.clone(),
        });
    }
}

/// Whether two statuses say the same; the API holds times in whole seconds, so a status read back differs in their fractions.
fn same(a: &PodStatus, b: &PodStatus) -> bool {
    serde_json::to_value(a).ok() == serde_json::to_value(trim(b)).ok()
}

/// Only what the node owns.
fn trim(status: &PodStatus) -> PodStatus {
    let own = [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
        RESIZE_PENDING,
        RESIZE_IN_PROGRESS,
    ];
    let mut conditions: Vec<_> = status
        .conditions
        .iter()
        .flatten()
        .filter(|c| own.contains(&c.type_.as_str()))
        .cloned()
        .collect();
    conditions.sort_by_key(|c| own.iter().position(|o| *o == c.type_));
    PodStatus { conditions: Some(conditions), ..status.clone() }
}
