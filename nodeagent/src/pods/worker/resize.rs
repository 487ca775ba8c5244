//! Resizes of a running pod: asking the node for room, applying what it allots, and telling people.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::Serialize;

use super::{Message, Worker};
use crate::events::Severity;
use crate::pods::allotment::Allotment;
use crate::pods::ledger::{Answer, Claim, Share, Shortage};
use crate::pods::observed::{Failure, Refusal, Seen, Volumes};
use crate::pods::plan::{self, Resize, after};
use crate::pods::quantity::pod_requests;
use crate::pods::status::qos_class;
use crate::pods::steps::{self, Resized};

/// First and longest wait before a resize that failed is tried again; it doubles between.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

impl Worker {
    /// Asks the node for the resources that the API wants.
    pub(super) fn begin_allot(&mut self) {
        let o = &mut self.observed;
        let Some(asked) = &mut o.asked else { return };
        let pod = asked.allotment.put_into(&o.wanted.pod);
        let claim = Claim {
            share: pod_requests(&pod),
            priority: pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0),
            guaranteed: qos_class(&pod) == "Guaranteed",
            since: o.now,
        };
        match self.ctx.shares.claim(&o.wanted.uid, claim, &self.mailbox) {
            Answer::TooEarly => asked.answer = Some(Refusal::TooEarly),
            Answer::Short(shortage) => {
                let generation = pod.metadata.generation;
                let message = shortage.to_string();
                asked.answer = Some(Refusal::Deferred { message, generation });
                self.tell_deferred(&pod, &shortage);
            }
            Answer::Granted => {
                o.allot();
                self.tell(Severity::Normal, "ResizeStarted", "Pod resize started", None);
                if self.observed.volumes == Volumes::Ready {
                    self.take_stale(); // Volumes may show limits of containers.
                }
            }
        }
    }

    pub(super) fn begin_resize(&mut self, order: Resize) {
        self.observed.resizing.busy = true;
        let (ctx, wanted) = (self.ctx.clone(), self.observed.wanted.clone());
        self.spawn(async move { Message::Resized(steps::resize(&ctx, &wanted, order).await) });
    }

    /// The node may have room now: it is asked again.
    pub(super) fn take_granted(&mut self) {
        if let Some(asked) = &mut self.observed.asked {
            asked.answer = None;
        }
    }

    pub(super) fn take_resized(&mut self, done: Resized) {
        self.observed.resizing.busy = false;
        self.observed.limits = done.limits.or(self.observed.limits);
        for (name, id, resources) in done.containers {
            let current = self.seen(&name).current.as_mut();
            if let Some(attempt) = current.filter(|a| a.id == id) {
                attempt.resources = resources;
            }
        }
        let before = self.observed.resizing.failure.take();
        let Some(message) = done.error else { return };
        if before.as_ref().is_none_or(|f| f.message != message) {
            self.tell(Severity::Warning, "ResizeError", "Pod resize error", Some(&message));
        }
        let tries = before.map_or(1, |f| f.tries + 1);
        let wait = RETRY.0.saturating_mul(1 << (tries - 1).min(8)).min(RETRY.1);
        self.observed.resizing.failure = Some(Failure {
            reason: "Error".to_owned(),
            message,
            tries,
            retry_at: after(self.observed.now, wait),
            announced: true,
        });
    }

    /// Notes what the pod holds of the node, and whether a resize has come to its end.
    pub(super) fn account(&mut self) {
        let share = self.share();
        if share != self.share {
            self.share = share;
            self.ctx.shares.hold(&self.observed.wanted.uid, share);
        }
        let asks = self.observed.asked.is_some();
        if std::mem::replace(&mut self.asks, asks) && !asks {
            self.ctx.shares.withdraw(&self.observed.wanted.uid);
        }
        let over = self.observed.resizing.generation.is_some()
            && !plan::is_resizing(&self.observed)
            && self.observed.limits.is_some();
        if over {
            self.tell(Severity::Normal, "ResizeCompleted", "Pod resize completed", None);
            self.observed.resizing.generation = None;
        }
    }

    /// The larger of what is allotted and what containers still have; nothing once all have ended for good.
    fn share(&self) -> Option<Share> {
        let o = &self.observed;
        let ends = o.orphaned || o.wanted.deletion.is_some() || plan::conclusion(o).is_some();
        if ends && !o.containers.values().any(Seen::is_engaged) {
            return None;
        }
        let allotted = pod_requests(&o.wanted.pod);
        if !plan::is_resizing(o) {
            return Some(allotted);
        }
        let mut set = Allotment::of(&o.wanted.pod);
        for (name, own) in &mut set.containers {
            let seen = o.seen(name);
            if let Some(attempt) = seen.current.as_ref().filter(|_| seen.is_running()) {
                own.clone_from(&attempt.resources);
            }
        }
        Some(allotted.at_least(pod_requests(&set.put_into(&o.wanted.pod))))
    }

    fn tell_deferred(&self, pod: &Pod, shortage: &Shortage) {
        let message = shortage.to_string();
        let title = format!("Pod resize OutOf{}", shortage.resource);
        let text = format!("{title}: {}", summary(pod, pod.metadata.generation, Some(&message)));
        let recorder = &self.ctx.recorder;
        recorder.pod(&self.observed.wanted, Severity::Warning, "ResizeDeferred", text);
    }

    fn tell(&self, severity: Severity, reason: &str, title: &str, error: Option<&str>) {
        let wanted = &self.observed.wanted;
        let generation = self.observed.resizing.generation.or(wanted.pod.metadata.generation);
        let text = format!("{title}: {}", summary(&wanted.pod, generation, error));
        self.ctx.recorder.pod(wanted, severity, reason, text);
    }
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Named<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Named<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// The resources of a pod as events show them.
///
/// Source: upstream `pkg/kubelet/events/resize.go`.
fn summary(pod: &Pod, generation: Option<i64>, error: Option<&str>) -> String {
    fn named(c: &Container) -> Named<'_> {
        Named { name: &c.name, resources: c.resources.clone().unwrap_or_default() }
    }
    let spec = pod.spec.as_ref();
    let summary = Summary {
        init_containers: spec
            .into_iter()
            .flat_map(|s| s.init_containers.iter().flatten())
            .map(named)
            .collect(),
        containers: spec.into_iter().flat_map(|s| &s.containers).map(named).collect(),
        generation: generation.unwrap_or(0),
        error,
    };
    serde_json::to_string(&summary).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_show_resources_and_generation() {
        let own = json!({"name": "c1", "resources": {"requests": {"cpu": "5"}}});
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [own]}});
        let pod = serde_json::from_value(pod).unwrap();
        assert_eq!(
            summary(&pod, Some(2), Some("why")),
            r#"{"containers":[{"name":"c1","resources":{"requests":{"cpu":"5"}}}],"generation":2,"error":"why"}"#
        );
    }
}
