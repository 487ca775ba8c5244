//! Pods that ran before the agent did: the runtime remembers them, by labels.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ContainerStatus as ApiStatus, PodCondition, ResourceRequirements,
};
use k8s_openapi::jiff::Timestamp;

use super::allotment::{Allotment, overlay};
use super::observed::{
    Asked, Attempt, AttemptState, Exit, Observed, RestartPolicy, Sandbox, Seen, Verdicts, Wanted,
};
use super::spec::{LABEL_CRASHES, LABEL_IMAGE, LABEL_IMAGE_ID, LABEL_RESOURCES};
use super::status::{ID_SCHEME, RESIZE_IN_PROGRESS, RESIZE_PENDING};
use crate::runtime::{self, ContainerState, ContainerStatus};

/// What the runtime has of one pod.
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    /// Its sandbox, if there is one.
    pub sandbox: Option<runtime::Sandbox>,
    /// Its containers, in any order.
    pub containers: Vec<ContainerStatus>,
}

impl Inherited {
    /// Puts what the runtime has into what the worker knows.
    pub(super) fn apply(&self, o: &mut Observed) {
        let whole = self.sandbox.as_ref().filter(|s| s.ready);
        if let Some(sandbox) = whole {
            let ips: Vec<_> = sandbox.ips.iter().map(ToString::to_string).collect();
            o.pod_ips = if ips.is_empty() { o.host_ips.clone() } else { ips.clone() };
            o.sandbox = Sandbox::Ready { id: sandbox.pod.uid.clone(), ips };
            o.limits = None; // A resize may have been cut off.
        }
        let mut by_name: BTreeMap<&str, Vec<&ContainerStatus>> = BTreeMap::new();
        for container in &self.containers {
            // One that was made and never started is made again under the same number.
            if container.state != ContainerState::Created {
                by_name.entry(&container.name).or_default().push(container);
            }
        }
        for (name, mut attempts) in by_name {
            attempts.sort_by_key(|c| c.attempt);
            let known = api_status(o, name);
            let wanted = o.wanted.container(name).and_then(|c| c.spec.resources.clone());
            let mut seen = seen_from(&attempts, known.as_ref(), wanted.unwrap_or_default());
            if whole.is_none() {
                lose(&mut seen, o.wanted.restart);
            }
            o.containers.insert(name.to_owned(), seen);
        }
        recall_allotment(o);
    }
}

/// What containers have is what the node had allotted. If the API asks for something else, it is asked for again.
fn recall_allotment(o: &mut Observed) {
    let asked = Allotment::of(&o.wanted.pod);
    let mut allotted = asked.clone();
    let condition = |type_: &str| -> Option<PodCondition> {
        let conditions = o.wanted.pod.status.as_ref()?.conditions.iter().flatten();
        conditions.clone().find(|c| c.type_ == type_).cloned()
    };
    let begun = condition(RESIZE_IN_PROGRESS).and_then(|c| c.observed_generation);
    let pending = condition(RESIZE_PENDING).is_some();
    for (name, own) in &mut allotted.containers {
        let seen = o.seen(name);
        // One that has ended was not changed, but what it had is still allotted while others are asked for.
        let attempt = seen.current.as_ref().or(seen.last.as_ref());
        if let Some(attempt) = attempt.filter(|_| pending || seen.is_running()) {
            *own = overlay(own, &attempt.resources);
        }
    }
    o.resizing.generation = begun;
    if asked.agrees_with(&allotted) {
        return;
    }
    o.wanted = Arc::new(Wanted::new(Arc::new(allotted.put_into(&o.wanted.pod))));
    o.asked = Some(Asked { allotment: asked, answer: None });
}

fn api_status(o: &Observed, name: &str) -> Option<ApiStatus> {
    let status = o.wanted.pod.status.as_ref()?;
    let all = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    all.into_iter().flatten().flatten().find(|s| s.name == name).cloned()
}

fn seen_from(
    attempts: &[&ContainerStatus],
    known: Option<&ApiStatus>,
    wanted: ResourceRequirements,
) -> Seen {
    let Some(newest) = attempts.last() else { return Seen::default() };
    let label = |name: &str| newest.labels.get(name).cloned().unwrap_or_default();
    let before: u32 = label(LABEL_CRASHES).parse().unwrap_or(0);
    let ended = matches!(newest.state, ContainerState::Exited { .. });
    let same =
        known.filter(|k| k.container_id.as_deref() == Some(&format!("{ID_SCHEME}{}", newest.id)));
    Seen {
        current: Some(attempt_from(newest, &wanted)),
        last: attempts.iter().rev().nth(1).map(|c| attempt_from(c, &wanted)),
        attempts: newest.attempt + 1,
        crashes: before + u32::from(ended),
        verdicts: Verdicts {
            started: same.and_then(|k| k.started).unwrap_or(false),
            ready: same.is_some_and(|k| k.ready),
            doomed: None,
        },
        ..Seen::default()
    }
}

fn attempt_from(container: &ContainerStatus, wanted: &ResourceRequirements) -> Attempt {
    let label = |name: &str| container.labels.get(name).cloned().unwrap_or_default();
    Attempt {
        id: container.id.0.clone(),
        image: label(LABEL_IMAGE),
        image_id: label(LABEL_IMAGE_ID),
        // One from before this label has what the pod wants: it could not change.
        resources: serde_json::from_str(&label(LABEL_RESOURCES)).unwrap_or_else(|_| wanted.clone()),
        state: match &container.state {
            // A postStart hook that was cut off is not run again.
            ContainerState::Running { started_at } => {
                AttemptState::Running { started_at: *started_at, hooked: true }
            }
            ContainerState::Exited { started_at, exit } => {
                AttemptState::Exited(exit_of(exit, *started_at, None))
            }
            ContainerState::Created => AttemptState::Exited(lost(container.created_at)),
        },
    }
}

/// An end in the words of the API.
pub(super) fn exit_of(
    exit: &runtime::Exit,
    started_at: Option<Timestamp>,
    message: Option<String>,
) -> Exit {
    let reason = match (exit.oom_killed, exit.code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    };
    Exit {
        code: exit.code,
        reason: reason.to_owned(),
        message: message.or_else(|| (!exit.message.is_empty()).then(|| exit.message.clone())),
        started_at,
        finished_at: exit.finished_at,
    }
}

fn lost(at: Timestamp) -> Exit {
    Exit {
        code: 137,
        reason: "ContainerStatusUnknown".to_owned(),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        started_at: None,
        finished_at: at,
    }
}

/// The sandbox is gone (a reboot): what ran has ended, and the pod begins anew if it may.
fn lose(seen: &mut Seen, restart: RestartPolicy) {
    let Some(mut attempt) = seen.current.take() else { return };
    if attempt.exit().is_none() {
        attempt.state = AttemptState::Exited(lost(Timestamp::now()));
    }
    if restart == RestartPolicy::Never {
        seen.current = Some(attempt);
    } else {
        seen.last = Some(attempt);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::pods::observed::Wanted;
    use crate::pods::plan::{Step, plan};

    fn container(name: &str, attempt: u32, state: ContainerState) -> ContainerStatus {
        ContainerStatus {
            id: runtime::ContainerId(format!("{name}-{attempt}")),
            pod: runtime::PodIdentity::default(),
            name: name.into(),
            attempt,
            image: "img".parse().unwrap(),
            image_id: String::new(),
            log_path: "/x".into(),
            created_at: Timestamp::UNIX_EPOCH,
            state,
            labels: [(LABEL_IMAGE.to_owned(), "img".to_owned())].into(),
        }
    }

    fn running() -> ContainerState {
        ContainerState::Running { started_at: Timestamp::UNIX_EPOCH }
    }

    fn exited(code: i32) -> ContainerState {
        let finished_at = Timestamp::UNIX_EPOCH;
        let exit = runtime::Exit { code, finished_at, oom_killed: false, message: String::new() };
        ContainerState::Exited { started_at: Some(Timestamp::UNIX_EPOCH), exit }
    }

    fn adopt(ready: bool, containers: Vec<ContainerStatus>) -> Observed {
        let init = json!([{"name": "i", "image": "img"}]);
        let spec = json!({"initContainers": init, "containers": [{"name": "a", "image": "img"}]});
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec});
        let wanted = Arc::new(Wanted::new(Arc::new(serde_json::from_value(pod).unwrap())));
        let mut o = Observed::new(wanted, Timestamp::now(), vec!["10.0.0.1".into()]);
        let sandbox = runtime::Sandbox {
            pod: runtime::PodIdentity { uid: "u".into(), ..Default::default() },
            ips: vec!["10.1.0.2".parse().unwrap()],
            ready,
            created_at: Timestamp::UNIX_EPOCH,
        };
        Inherited { sandbox: Some(sandbox), containers }.apply(&mut o);
        o
    }

    #[test]
    fn what_runs_goes_on() {
        let o = adopt(
            true,
            vec![
                container("a", 2, running()),
                container("i", 0, exited(0)),
                container("a", 1, exited(3)),
                container("a", 3, ContainerState::Created),
            ],
        );
        let seen = o.seen("a");
        assert_eq!(seen.current.as_ref().map(|a| a.id.as_str()), Some("a-2"));
        assert_eq!(seen.last.as_ref().and_then(|a| a.exit()).map(|e| e.code), Some(3));
        assert_eq!((seen.attempts, o.pod_ips.first().map(String::as_str)), (3, Some("10.1.0.2")));
        assert!(
            matches!(&plan(&o)[..], [Step::MountVolumes, Step::Resize(r)] if r.changes.is_empty())
        );
    }

    #[test]
    fn other_resources_than_those_set_are_asked_for() {
        let mut had = container("a", 0, running());
        let set = r#"{"requests":{"cpu":"1"}}"#.to_owned();
        had.labels.insert(LABEL_RESOURCES.to_owned(), set);
        let o = adopt(true, vec![had.clone()]);
        let cpu = |o: &Observed| {
            let resources = o.wanted.container("a").and_then(|c| c.spec.resources.clone());
            resources.and_then(|r| r.requests?.remove("cpu")).map(|q| q.0)
        };
        assert_eq!((cpu(&o).as_deref(), o.asked.is_some()), (Some("1"), true));
        assert_eq!(plan(&o)[0], Step::Allot);
        // One that has ended takes what is wanted when it starts again.
        had.state = exited(1);
        let o = adopt(true, vec![had]);
        assert_eq!((cpu(&o), o.asked), (None, None));
    }

    #[test]
    fn after_a_reboot_the_pod_begins_anew() {
        let o = adopt(false, vec![container("a", 2, running()), container("i", 0, exited(0))]);
        let steps = format!("{:?}", plan(&o));
        assert_eq!(steps, "[MountVolumes, CreateSandbox, Pull { container: \"i\" }]");
        assert_eq!(o.seen("a").attempts, 3);
    }
}
