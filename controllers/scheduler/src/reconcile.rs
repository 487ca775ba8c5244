//! The loop: learn what changed, decide, write. All the I/O is here.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, select_all};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Binding, Namespace, Node, ObjectReference, Pod, PodCondition, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kit::{Change, Stage, chain, tasks};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Status;
use kube::{Api, ResourceExt};
use serde_json::json;
use tracing::{debug, info, warn};

use crate::plan::{self, Decision, Rules};
use crate::queue::Queue;
use crate::world::{PodInfo, World};
use crate::{Error, SCHEDULER_NAME, events};

/// Writes under way at once. The server commits many together, so more of them cost it little.
const MAX_WRITES: usize = 100;

/// Decisions in a row before others get their turn on the thread.
const BATCH: usize = 32;

/// Longest sleep, so that a clock that was set back cannot stop the queue.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

enum News {
    Pod(Change<Pod>),
    Node(Change<Node>),
    Namespace(Change<Namespace>),
    Service(Change<Service>),
}

enum Outcome {
    Bound { pod: Arc<PodInfo>, node: Arc<str>, took: Duration, result: Result<(), Error> },
    Told(Result<(), Error>),
}

/// Schedules until the stage's shutdown.
///
/// # Errors
/// [`kit::Error::ReflectorStopped`] if a cache will never be ready.
pub async fn run(stage: Stage) -> Result<(), kit::Error> {
    let pods = stage.reflectors.get::<Pod>();
    let nodes = stage.reflectors.get::<Node>();
    let namespaces = stage.reflectors.get::<Namespace>();
    let services = stage.reflectors.get::<Service>();
    let ready = futures::future::try_join4(
        pods.ready(),
        nodes.ready(),
        namespaces.ready(),
        services.ready(),
    );
    tokio::select! {
        ready = ready => { ready?; }
        () = stage.shutdown.cancelled() => return Ok(()),
    }
    let news = select_all([
        nodes.changes().map(News::Node).boxed(),
        namespaces.changes().map(News::Namespace).boxed(),
        services.changes().map(News::Service).boxed(),
        pods.changes().map(News::Pod).boxed(),
    ]);
    Loop::new(stage).run(news).await;
    Ok(())
}

struct Loop {
    stage: Stage,
    world: World,
    queue: Queue,
    writes: FuturesUnordered<BoxFuture<'static, Outcome>>,
}

impl Loop {
    fn new(stage: Stage) -> Self {
        let (world, queue) = (World::default(), Queue::default());
        Self { stage, world, queue, writes: FuturesUnordered::new() }
    }

    async fn run(mut self, mut news: impl futures::Stream<Item = News> + Unpin) {
        let shutdown = self.stage.shutdown.clone();
        while !shutdown.is_cancelled() {
            while let Some(Some(news)) = news.next().now_or_never() {
                self.learn(news);
            }
            let busy = self.decide();
            self.measure();
            if busy {
                tokio::task::yield_now().await;
            }
            let rest = self.rest();
            tokio::select! {
                news = news.next() => match news {
                    Some(news) => self.learn(news),
                    None => return,
                },
                Some(outcome) = self.writes.next() => self.conclude(outcome),
                () = rest, if !busy => (),
                () = std::future::ready(()), if busy => (),
                () = shutdown.cancelled() => (),
            }
        }
        tasks::let_finish(self.writes).await;
    }

    fn now(&self) -> Timestamp {
        self.stage.clock.now()
    }

    /// Until a pod's back-off ends.
    fn rest(&self) -> BoxFuture<'static, ()> {
        let left = self.queue.next_advance().map(|at| at.duration_since(self.now()));
        let left = left.map_or(LONGEST_SLEEP, |left| Duration::try_from(left).unwrap_or_default());
        self.stage.clock.sleep(left.min(LONGEST_SLEEP))
    }

    /// Some decisions; says whether there are more to make at once.
    fn decide(&mut self) -> bool {
        let now = self.now();
        self.queue.advance(now);
        for _ in 0..BATCH {
            if self.writes.len() >= MAX_WRITES {
                return false;
            }
            let Some(pod) = self.queue.pop() else { return false };
            match plan::plan(&pod, &self.world) {
                Decision::Bind { node } => {
                    self.world.place(Arc::clone(&pod), &node);
                    self.writes.push(bind(self.stage.clone(), pod, node).boxed());
                }
                Decision::Wait { message, rules } => self.put_off(&pod, message, rules, now),
            }
        }
        true
    }

    fn put_off(&mut self, pod: &Arc<PodInfo>, message: String, rules: Rules, now: Timestamp) {
        debug!(namespace = pod.namespace, pod = pod.pod.name_any(), message, "pod does not fit");
        self.queue.wait(&pod.uid, rules, now);
        self.stage.recorder.publish(&*pod.pod, events::failed(&message));
        self.writes.push(tell(self.stage.clone(), Arc::clone(pod), message, now).boxed());
    }

    fn conclude(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Told(Ok(())) => (),
            Outcome::Told(Err(error)) => warn!(error = chain(&error), "condition was not written"),
            Outcome::Bound { pod, node, took, result: Ok(()) } => {
                self.stage.metrics.reconciled(took, None);
                self.queue.remove(&pod.uid);
                let (namespace, name) = (&pod.namespace, pod.pod.name_any());
                debug!(namespace, pod = name, node = &*node, "pod bound");
                self.stage.recorder.publish(&*pod.pod, events::scheduled(namespace, &name, &node));
            }
            Outcome::Bound { pod, took, result: Err(error), .. } => {
                self.take_back(&pod, took, &error)
            }
        }
    }

    /// The server refused a decision: the pod is as before, and tried again later if it is still there.
    fn take_back(&mut self, pod: &Arc<PodInfo>, took: Duration, error: &Error) {
        self.stage.metrics.reconciled(took, Some("bind"));
        if self.world.placed(&pod.uid).is_some_and(|placed| placed.node().is_none()) {
            self.leave(&pod.uid);
        }
        let (Error::Bind { source, .. } | Error::WriteCondition { source, .. }) = error;
        if matches!(&**source, kube::Error::Api(status) if status.is_not_found()) {
            return self.queue.remove(&pod.uid); // It went away meanwhile.
        }
        info!(error = chain(error), "pod to be tried again");
        self.queue.fail(&pod.uid, self.now());
        let message = format!("binding rejected: {}", chain(&**source));
        self.stage.recorder.publish(&*pod.pod, events::failed(&message));
    }

    fn learn(&mut self, news: News) {
        match news {
            News::Pod(Change::Deleted(pod)) => self.pod_gone(&pod),
            News::Pod(Change::Applied { object, previous }) => {
                if let Some(previous) = previous.filter(|p| p.uid() != object.uid()) {
                    self.pod_gone(&previous);
                }
                self.pod_changed(Arc::new(PodInfo::new(object)));
            }
            News::Node(Change::Deleted(node)) => {
                self.world.remove_node(&node.name_any());
                self.wake(plan::Change::NodeGone);
            }
            News::Node(Change::Applied { object, .. }) => {
                let name = object.name_any();
                if self.world.set_node(object)
                    && let Some(node) = self.world.node(&name)
                {
                    let now = self.stage.clock.now();
                    let helps =
                        |pod: &PodInfo, rules| plan::may_help(plan::Change::Node(node), pod, rules);
                    self.queue.wake(now, helps);
                }
            }
            News::Namespace(Change::Deleted(gone)) => {
                self.world.set_namespace(&gone.name_any(), None)
            }
            News::Namespace(Change::Applied { object, .. }) => {
                let (name, labels) = (object.name_any(), object.labels());
                if self.world.namespace_labels(&name) != Some(labels) {
                    self.world.set_namespace(&name, Some(labels.clone()));
                    self.wake(plan::Change::PodArrived);
                }
            }
            News::Service(change) => {
                let is_gone = matches!(change, Change::Deleted(_));
                let service = change.object();
                let selector = service.spec.as_ref().and_then(|s| s.selector.clone());
                let namespace = service.namespace().unwrap_or_default();
                let selector = selector.filter(|_| !is_gone);
                self.world.set_service(&namespace, &service.name_any(), selector);
            }
        }
    }

    fn pod_gone(&mut self, pod: &Pod) {
        let uid = pod.uid().unwrap_or_default();
        self.queue.remove(&uid);
        self.leave(&uid);
    }

    fn pod_changed(&mut self, pod: Arc<PodInfo>) {
        if pod.is_finished() {
            self.queue.remove(&pod.uid);
            return self.leave(&pod.uid);
        }
        let Some(node) = pod.node().map(str::to_owned) else {
            return self.pod_without_node(pod);
        };
        self.queue.remove(&pod.uid);
        let before = self.world.placed(&pod.uid).cloned();
        self.world.place(Arc::clone(&pod), &node);
        match before {
            Some(before) if before.node().is_some() => {
                if before.requests != pod.requests
                    || before.is_terminating() != pod.is_terminating()
                {
                    self.wake_for_room(&node);
                }
                if before.pod.labels() != pod.pod.labels() {
                    self.wake(plan::Change::PodArrived);
                }
            }
            _ => self.wake(plan::Change::PodArrived),
        }
    }

    fn pod_without_node(&mut self, pod: Arc<PodInfo>) {
        let wanted = pod.spec().and_then(|s| s.scheduler_name.as_deref()).unwrap_or(SCHEDULER_NAME);
        if wanted != SCHEDULER_NAME || pod.is_terminating() {
            self.queue.remove(&pod.uid);
        } else if self.world.place_of(&pod.uid).is_none() {
            self.queue.upsert(pod, self.now());
        } // Otherwise it is bound, or about to be, and this is old news.
    }

    fn leave(&mut self, uid: &str) {
        if let Some(node) = self.world.remove_pod(uid) {
            self.wake_for_room(&node);
        }
    }

    fn wake_for_room(&mut self, node: &str) {
        let now = self.now();
        if let Some(node) = self.world.node(node) {
            let helps =
                |pod: &PodInfo, rules| plan::may_help(plan::Change::PodLeft(node), pod, rules);
            self.queue.wake(now, helps);
        }
    }

    fn wake(&mut self, change: plan::Change<'_>) {
        self.queue.wake(self.stage.clock.now(), |pod, rules| plan::may_help(change, pod, rules));
    }

    fn measure(&self) {
        self.stage.metrics.queue.set(i64::try_from(self.queue.len()).unwrap_or(i64::MAX));
    }
}

async fn bind(stage: Stage, pod: Arc<PodInfo>, node: Arc<str>) -> Outcome {
    let began = stage.clock.elapsed();
    let name = pod.pod.name_any();
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(pod.uid.to_string()), // A later namesake is somebody else.
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.to_string()),
            ..ObjectReference::default()
        },
    };
    let pods = Api::<Pod>::namespaced(stage.client.clone(), &pod.namespace);
    let params = PostParams::default();
    let bound = pods.create_subresource::<_, Status>("binding", &name, &params, &binding).await;
    let result = bound.map(drop).map_err(|source| Error::Bind {
        pod: format!("{}/{name}", pod.namespace),
        node: node.to_string(),
        source: Box::new(source),
    });
    let took = stage.clock.elapsed().saturating_sub(began);
    Outcome::Bound { pod, node, took, result }
}

/// Writes into the pod's status why it waits, unless that stands there already.
async fn tell(stage: Stage, pod: Arc<PodInfo>, message: String, now: Timestamp) -> Outcome {
    let conditions =
        pod.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let old = conditions.iter().find(|c| c.type_ == "PodScheduled");
    let since = old.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let new = PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(message),
        last_transition_time: Some(since.unwrap_or(Time(now))),
        observed_generation: pod.pod.metadata.generation,
        ..PodCondition::default()
    };
    if old == Some(&new) {
        return Outcome::Told(Ok(()));
    }
    let patch = Patch::Strategic(json!({"status": {"conditions": [new]}}));
    let pods = Api::<Pod>::namespaced(stage.client.clone(), &pod.namespace);
    let name = pod.pod.name_any();
    let written = pods.patch_status(&name, &PatchParams::default(), &patch).await;
    Outcome::Told(match written {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()), // It went away.
        Err(source) => {
            let pod = format!("{}/{name}", pod.namespace);
            Err(Error::WriteCondition { pod, source: Box::new(source) })
        }
    })
}
