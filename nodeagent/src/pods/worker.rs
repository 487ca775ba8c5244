//! One pod's life: observe, plan, begin the steps, report, wait for news.
//!
//! Steps run as tasks of their own and report to the mailbox, so the worker itself never waits for the runtime or the API.

mod begin;
mod news;
mod resize;
mod show;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

pub(super) use news::Message;
pub use show::{Handle, View};

use super::adopt::Inherited;
use super::context::Context;
use super::ledger::Share;
use super::observed::{Farewell, Observed, Seen, Wanted};
use super::plan::{self, Step, plan, recheck_at};
use super::report::{self, Numbered};
use crate::volumes::PodVolumes;

/// Starts a worker; the future is its whole life. A pod that is refused, for a reason and with a message, fails.
pub fn start(
    ctx: Arc<Context>,
    wanted: Arc<Wanted>,
    inherited: Option<Inherited>,
    refused: Option<(String, String)>,
) -> (Handle, impl Future<Output = ()> + Send + 'static) {
    let (mailbox, news) = mpsc::unbounded_channel();
    let (view, seen) = watch::channel(View::default());
    let handle = Handle { mailbox: mailbox.clone(), view: seen };
    let volumes =
        Arc::new(PodVolumes::new(ctx.places.clone(), ctx.client.clone(), ctx.objects.clone()));
    let mut observed = Observed::new(wanted, Timestamp::now(), ctx.host_ips.clone());
    if let Some(inherited) = &inherited {
        inherited.apply(&mut observed);
    }
    observed.verdict = refused;
    let (statuses, outbox) = watch::channel(Numbered::default());
    let sent = observed.wanted.pod.status.clone().unwrap_or_default();
    let mut worker = Worker {
        born: Instant::now(),
        up: inherited.is_some(),
        ctx,
        mailbox,
        news,
        view,
        volumes,
        observed,
        statuses,
        number: 0,
        taken: 0,
        sent,
        tasks: JoinSet::new(),
        probes: BTreeMap::new(),
        grace: watch::Sender::new(None),
        mount_tries: 0,
        sandbox_tries: 0,
        stale: None,
        share: None,
        asks: false,
    };
    worker.account();
    (handle, worker.run(outbox))
}

struct Worker {
    ctx: Arc<Context>,
    mailbox: mpsc::UnboundedSender<Message>,
    news: mpsc::UnboundedReceiver<Message>,
    view: watch::Sender<View>,
    volumes: Arc<PodVolumes>,
    observed: Observed,
    statuses: watch::Sender<Numbered>,
    /// Number of the newest status, and of the newest that the API has.
    number: u64,
    taken: u64,
    /// The newest status, the base for transition times.
    sent: PodStatus,
    tasks: JoinSet<()>,
    /// Running probes by container.
    probes: BTreeMap<String, Vec<AbortHandle>>,
    /// The deletion's grace period, for kills under way: it may shrink.
    grace: watch::Sender<Option<Duration>>,
    born: Instant,
    /// The pod has been seen with all containers started.
    up: bool,
    /// Failures in a row.
    mount_tries: u32,
    sandbox_tries: u32,
    /// Waits for changes of what volumes are made of.
    stale: Option<AbortHandle>,
    /// What the node's ledger has of the pod.
    share: Option<Share>,
    /// The pod has asked for resources that are not allotted.
    asks: bool,
}

impl Worker {
    async fn run(mut self, outbox: watch::Receiver<Numbered>) {
        self.ctx.metrics.pods.fetch_add(1, Ordering::Relaxed);
        let wanted = self.observed.wanted.clone();
        self.tasks.spawn(report::run(
            self.ctx.clone(),
            wanted.namespace.clone(),
            wanted.name.clone(),
            wanted.uid.clone(),
            outbox,
            self.mailbox.clone(),
        ));
        self.watch_adopted();
        loop {
            self.observed.now = Timestamp::now();
            let steps = plan(&self.observed);
            let over = steps.contains(&Step::Forget);
            let again = steps.contains(&Step::Allot);
            for step in steps {
                self.begin(step);
            }
            if over || self.observed.farewell == Farewell::Done {
                break;
            }
            self.account();
            if again {
                continue; // What was allotted is applied before it is reported.
            }
            self.report();
            if self.settle() {
                continue;
            }
            let wake = recheck_at(&self.observed).map(|at| {
                let wait = at.duration_since(Timestamp::now());
                if wait.is_negative() { Duration::ZERO } else { wait.unsigned_abs() }
            });
            tokio::select! {
                message = self.news.recv() => match message {
                    Some(message) => self.take(message),
                    None => break,
                },
                () = tokio::time::sleep(wake.unwrap_or(Duration::MAX / 4)), if wake.is_some() => (),
            }
            while let Ok(message) = self.news.try_recv() {
                self.take(message);
            }
        }
        self.forget();
        self.ctx.shares.hold(&self.observed.wanted.uid, None);
        self.ctx.metrics.pods.fetch_sub(1, Ordering::Relaxed);
    }

    /// The last trace: logs. The folders of volumes went before.
    fn forget(&self) {
        let w = &self.observed.wanted;
        let logs = self.ctx.pod_logs(&w.namespace, &w.name, &w.uid);
        if let Err(error) = std::fs::remove_dir_all(&logs)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %logs.display(), error = %error, "logs not removed");
        }
    }

    /// Runs a task that ends in a message.
    fn spawn(&mut self, task: impl Future<Output = Message> + Send + 'static) -> AbortHandle {
        let mailbox = self.mailbox.clone();
        self.tasks.spawn(async move {
            let _ = mailbox.send(task.await);
        })
    }

    fn seen(&mut self, name: &str) -> &mut Seen {
        self.observed.containers.entry(name.to_owned()).or_default()
    }

    fn pod_ip(&self) -> String {
        self.observed.pod_ips.first().cloned().unwrap_or_default()
    }

    /// Notes that the last status of an ended pod has reached the API; answers whether that is news.
    fn settle(&mut self) -> bool {
        let o = &self.observed;
        let winding = o.wanted.deletion.is_some() || plan::conclusion(o).is_some();
        let stopped = !o.containers.values().any(Seen::is_engaged);
        let news = winding && stopped && !o.reported_terminal && self.taken == self.number;
        if news {
            self.observed.reported_terminal = true;
        }
        news
    }
}
