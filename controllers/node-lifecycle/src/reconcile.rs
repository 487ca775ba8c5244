//! The loop: learn what changed and what did not, decide, write.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, select_all};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kit::{CallError, Change, ReconcileError as _, Reflector, Stage, chain, pods, tasks};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use tracing::{info, warn};

use crate::plan::eviction::{self, Evicting, Verdict};
use crate::plan::orphans::{self, Standing};
use crate::plan::taints::{self, Eviction};
use crate::plan::zones::{self, Zones};
use crate::plan::{self, Readiness, health};
use crate::{events, writes};

/// Where nodes keep their Leases.
const LEASES: &str = "kube-node-lease";

/// How often all nodes are looked at. Source: `--node-monitor-period` of kube-controller-manager.
const MONITOR: Duration = Duration::from_secs(5);

/// How often pods are looked at that nobody looks after. Source: `gcCheckPeriod` in upstream
/// `pkg/controller/podgc`.
const COLLECT: Duration = Duration::from_secs(20);

/// A taint that keeps its node's pods from ever ending in order.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

enum News {
    Node(Change<Node>),
    Lease(Change<Lease>),
    Pod(Change<Pod>),
}

/// Watches over nodes until the stage's shutdown.
pub(crate) async fn run(stage: Stage) -> Result<(), kit::Error> {
    let nodes = stage.reflectors.get::<Node>();
    let all_pods = stage.reflectors.get::<Pod>();
    let api = Api::<Lease>::namespaced(stage.client.clone(), LEASES);
    let leases = Reflector::start(api, watcher::Config::default());
    let ready = futures::future::try_join3(nodes.ready(), all_pods.ready(), leases.ready());
    tokio::select! {
        ready = ready => { ready?; }
        () = stage.shutdown.cancelled() => return Ok(()),
    }
    let all = [
        nodes.changes().map(News::Node).boxed(),
        leases.changes().map(News::Lease).boxed(),
        all_pods.changes().map(News::Pod).boxed(),
    ];
    let now = stage.clock.elapsed();
    let controller = Loop {
        pods: all_pods,
        nodes: HashMap::new(),
        gone: HashMap::new(),
        seen: HashMap::new(),
        evicted: HashMap::new(),
        dirty: BTreeSet::new(),
        evict: false,
        leaves: None,
        monitor: now,
        collect: now,
        busy: HashSet::new(),
        writes: FuturesUnordered::new(),
        stage,
    };
    controller.run(select_all(all)).await;
    Ok(())
}

/// Node or pod, how long it took, and the result.
type Written = (String, Duration, Result<(), CallError>);

struct Tracked {
    node: Arc<Node>,
    /// Last sign of life, on our clock.
    sign: Duration,
    lease: Option<Arc<Lease>>,
    /// Its pods were told that it is not ready.
    told: bool,
}

struct Loop {
    stage: Stage,
    pods: Reflector<Pod>,
    nodes: HashMap<String, Tracked>,
    /// Nodes that pods name and that are not there, and since when we know.
    gone: HashMap<String, Duration>,
    /// When taints without a time were seen first, by node, key and value.
    seen: HashMap<(String, String, Option<String>), Timestamp>,
    /// When an eviction began last, by zone.
    evicted: HashMap<String, Duration>,
    /// Nodes to look at.
    dirty: BTreeSet<String>,
    /// Pods on nodes that evict are to be looked at.
    evict: bool,
    /// When the next pod has to leave.
    leaves: Option<Timestamp>,
    /// When all nodes are looked at next, on our clock.
    monitor: Duration,
    /// When pods that nobody looks after are looked for next, on our clock.
    collect: Duration,
    /// Names of nodes and uids of pods that are being written.
    busy: HashSet<String>,
    writes: FuturesUnordered<BoxFuture<'static, Written>>,
}

impl Loop {
    async fn run(mut self, mut news: impl futures::Stream<Item = News> + Unpin) {
        let shutdown = self.stage.shutdown.clone();
        while !shutdown.is_cancelled() {
            while let Some(Some(news)) = news.next().now_or_never() {
                self.learn(news);
            }
            self.keep_time();
            self.look_at_nodes();
            self.look_at_pods();
            let rest = self.rest();
            tokio::select! {
                news = news.next() => match news {
                    Some(news) => self.learn(news),
                    None => return,
                },
                Some((key, took, result)) = self.writes.next() => self.conclude(&key, took, result),
                () = rest => (),
                () = shutdown.cancelled() => (),
            }
        }
        tasks::let_finish(self.writes).await;
    }

    fn now(&self) -> Timestamp {
        self.stage.clock.now()
    }

    fn rest(&self) -> BoxFuture<'static, ()> {
        let elapsed = self.stage.clock.elapsed();
        let mut left = self.monitor.min(self.collect).saturating_sub(elapsed);
        if let Some(at) = self.leaves {
            left = left.min(Duration::try_from(at.duration_since(self.now())).unwrap_or_default());
        }
        self.stage.clock.sleep(left)
    }

    fn learn(&mut self, news: News) {
        match news {
            News::Node(Change::Deleted(node)) => {
                let name = node.name_any();
                self.nodes.remove(&name);
                self.seen.retain(|(of, _, _), _| *of != name);
                self.stage.recorder.publish(&*node, events::removed(&name));
            }
            News::Node(Change::Applied { object, previous }) => {
                self.learn_node(object, previous.as_deref())
            }
            News::Lease(Change::Applied { object, .. }) => {
                let now = self.stage.clock.elapsed();
                if let Some(tracked) = self.nodes.get_mut(&object.name_any()) {
                    let renewed = |l: &Lease| l.spec.as_ref().and_then(|s| s.renew_time.clone());
                    if tracked.lease.as_ref().is_none_or(|old| renewed(old) != renewed(&object)) {
                        tracked.sign = now;
                    }
                    tracked.lease = Some(object);
                }
            }
            News::Lease(Change::Deleted(_)) => (),
            News::Pod(change) => {
                let spec = change.object().spec.as_ref();
                let node = spec.and_then(|s| s.node_name.as_ref()).and_then(|n| self.nodes.get(n));
                self.evict |= node.is_some_and(|tracked| evicts(&tracked.node));
            }
        }
    }

    fn learn_node(&mut self, node: Arc<Node>, previous: Option<&Node>) {
        let (name, now) = (node.name_any(), self.stage.clock.elapsed());
        let heartbeat = |n: &Node| {
            let ready = plan::conditions(n).iter().find(|c| c.type_ == "Ready");
            ready.and_then(|c| c.last_heartbeat_time.clone())
        };
        let is_new = !self.nodes.contains_key(&name) || previous.is_none();
        let spoke = is_new || previous.is_some_and(|old| heartbeat(old) != heartbeat(&node));
        if is_new {
            self.stage.recorder.publish(&*node, events::registered(&name));
        }
        let was_ready = previous.map(plan::readiness) == Some(Readiness::Ready);
        let troubled =
            matches!(plan::readiness(&node), Readiness::NotReady | Readiness::Unreachable);
        if was_ready && troubled {
            info!(node = name, "node is not ready any more");
            self.stage.recorder.publish(&*node, events::node_not_ready(&name));
        }
        self.evict |= evicts(&node);
        let old = self.nodes.remove(&name);
        let sign = old.as_ref().filter(|_| !spoke).map_or(now, |old| old.sign);
        let told = troubled && old.as_ref().is_some_and(|old| old.told);
        let lease = old.and_then(|old| old.lease);
        self.nodes.insert(name.clone(), Tracked { node, sign, lease, told });
        self.dirty.insert(name);
    }

    /// What is due because time has passed.
    fn keep_time(&mut self) {
        let elapsed = self.stage.clock.elapsed();
        if elapsed >= self.monitor {
            self.monitor = elapsed + MONITOR;
            self.dirty.extend(self.nodes.keys().cloned());
            self.evict = true;
        }
        if elapsed >= self.collect {
            self.collect = elapsed + COLLECT;
            self.collect_pods();
        }
    }

    fn look_at_nodes(&mut self) {
        let dirty: Vec<_> =
            self.dirty.iter().filter(|name| !self.busy.contains(*name)).cloned().collect();
        if dirty.is_empty() {
            return;
        }
        let zones = zones::count(self.nodes.values().map(|t| &*t.node));
        for name in dirty {
            self.dirty.remove(&name);
            self.look_at_node(&name, &zones);
        }
    }

    fn look_at_node(&mut self, name: &str, zones: &Zones) {
        let (now, elapsed) = (self.now(), self.stage.clock.elapsed());
        let Some(tracked) = self.nodes.get(name) else { return };
        let (node, client) = (Arc::clone(&tracked.node), self.stage.client.clone());
        let silent_for = elapsed.saturating_sub(tracked.sign);
        let created = node.metadata.creation_timestamp.as_ref().map(|t| t.0);
        if let Some(new) = health::silenced(plan::conditions(&node), silent_for, created, now) {
            info!(node = name, ?silent_for, "node is silent");
            let write = async move { writes::set_conditions(client, &node, new).await };
            return self.write(name.to_owned(), write);
        }
        self.tell_pods(name);
        let zone = zones::name(&node);
        let last = self.evicted.get(&zone).map(|at| elapsed.saturating_sub(*at));
        let eviction = zones::eviction(zones, &zone, last);
        if let Some(new) = taints::wanted(&node, eviction, now) {
            if eviction == Eviction::Begin && taints::wants_eviction(&node) {
                self.evicted.insert(zone, elapsed);
            }
            info!(node = name, n_taints = new.len(), "node's taints change");
            let write = async move { writes::set_taints(client, &node, new).await };
            self.write(name.to_owned(), write);
        }
    }

    /// The pods of a node that is not ready any more are not ready either; this is said once.
    fn tell_pods(&mut self, name: &str) {
        let Some(tracked) = self.nodes.get_mut(name) else { return };
        let troubled =
            matches!(plan::readiness(&tracked.node), Readiness::NotReady | Readiness::Unreachable);
        if !troubled || std::mem::replace(&mut tracked.told, true) {
            return;
        }
        let now = self.now();
        for pod in self.pods.all() {
            if node_of(&pod) == Some(name) && pods::is_ready(&pod) {
                self.stage.recorder.publish(&*pod, events::pod_not_ready());
                let client = self.stage.client.clone();
                let key = pod.uid().unwrap_or_default();
                self.write(key, async move { writes::mark_unready(client, &pod, now).await });
            }
        }
    }

    /// Evicts pods whose time has come on nodes with taints that evict.
    fn look_at_pods(&mut self) {
        let now = self.now();
        if !std::mem::take(&mut self.evict) && self.leaves.is_none_or(|at| at > now) {
            return;
        }
        self.leaves = None;
        let nodes: Vec<_> =
            self.nodes.values().map(|t| Arc::clone(&t.node)).filter(|n| evicts(n)).collect();
        let taints = nodes.iter().map(|node| (node.name_any(), self.evicting(node, now)));
        let evicting: HashMap<String, Vec<Evicting>> = taints.collect();
        if evicting.is_empty() {
            return;
        }
        for pod in self.pods.all() {
            let Some(taints) = node_of(&pod).and_then(|node| evicting.get(node)) else { continue };
            let key = pod.uid().unwrap_or_default();
            if !pods::is_active(&pod) || self.busy.contains(&key) {
                continue;
            }
            match eviction::verdict(&pod, eviction::placed_since(&pod), taints, now) {
                Verdict::Stay => (),
                Verdict::Leave(at) if at > now => {
                    self.leaves = Some(self.leaves.map_or(at, |l| l.min(at)))
                }
                Verdict::Leave(_) => {
                    let name =
                        format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
                    info!(pod = name, "pod is evicted");
                    self.stage.recorder.publish(&*pod, events::evicted(&name));
                    let client = self.stage.client.clone();
                    self.write(key, async move { writes::evict(client, &pod, now).await });
                }
            }
        }
    }

    /// The taints of a node that evict, and since when it has them.
    fn evicting(&mut self, node: &Node, now: Timestamp) -> Vec<Evicting> {
        let taints = taints::taints(node).iter().filter(|t| t.effect == "NoExecute").cloned();
        let evicting = taints.map(|taint| {
            let key = (node.name_any(), taint.key.clone(), taint.value.clone());
            let first = *self.seen.entry(key).or_insert(now);
            let since = taint.time_added.as_ref().map_or(first, |t| t.0);
            Evicting { taint, since }
        });
        evicting.collect()
    }

    fn collect_pods(&mut self) {
        let elapsed = self.stage.clock.elapsed();
        let all = self.pods.all();
        let missing: HashSet<&str> = all
            .iter()
            .filter_map(|p| node_of(p))
            .filter(|n| !self.nodes.contains_key(*n))
            .collect();
        self.gone.retain(|name, _| missing.contains(name.as_str()));
        for name in missing {
            self.gone.entry(name.to_owned()).or_insert(elapsed);
        }
        let standing = |name: &str| match (self.nodes.get(name), self.gone.get(name)) {
            (Some(tracked), _) if is_out_of_service(&tracked.node) => Standing::OutOfService,
            (Some(_), _) | (None, None) => Standing::There,
            (None, Some(since)) => Standing::Gone(elapsed.saturating_sub(*since)),
        };
        let now = self.now();
        for (pod, why) in orphans::plan(&all, orphans::KEPT, standing) {
            let key = pod.uid().unwrap_or_default();
            if !self.busy.contains(&key) {
                info!(namespace = pod.namespace(), pod = pod.name_any(), ?why, "pod is given up");
                let client = self.stage.client.clone();
                self.write(key, async move { writes::collect(client, &pod, why, now).await });
            }
        }
    }

    fn write(
        &mut self,
        key: String,
        write: impl Future<Output = Result<(), CallError>> + Send + 'static,
    ) {
        self.busy.insert(key.clone());
        let (clock, began) = (Arc::clone(&self.stage.clock), self.stage.clock.elapsed());
        let timed = async move {
            let result = write.await;
            (key, clock.elapsed().saturating_sub(began), result)
        };
        self.writes.push(timed.boxed());
    }

    /// What failed or was outdated is decided anew, at the latest when all nodes are looked at next.
    fn conclude(&mut self, key: &str, took: Duration, result: Result<(), CallError>) {
        self.busy.remove(key);
        let error = result.as_ref().err().map(CallError::kind);
        self.stage.metrics.reconciled(took, error);
        if let Err(error) = result {
            warn!(error = chain(&error), "to be tried again");
        }
    }
}

fn evicts(node: &Node) -> bool {
    taints::taints(node).iter().any(|t| t.effect == "NoExecute")
}

fn is_out_of_service(node: &Node) -> bool {
    plan::readiness(node) != Readiness::Ready
        && taints::taints(node).iter().any(|t| t.key == OUT_OF_SERVICE)
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}
