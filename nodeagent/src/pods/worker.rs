//! One pod's life: observe, plan, begin the steps, report, wait for news.
//!
//! Steps run as tasks of their own and report to the mailbox, so the worker itself never waits for the runtime or the API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::adopt::Legacy;
use super::context::Context;
use super::observed::{
    Attempt, AttemptState, Busy, Doom, Exit, Failure, Farewell, Image, Observed, Role, Sandbox,
    Seen, Verdicts, Volumes, Wanted,
};
use super::plan::{self, Step, after, crash_backoff, plan, pull_backoff, recheck_at};
use super::report::{self, Numbered};
use super::status::status;
use super::steps::{self, StartError};
use crate::events::Severity;
use crate::probes::Kind;
use crate::probes::runner::Report;
use crate::volumes::PodVolumes;

/// Waiting reason after a failed pull turns into back-off after this time, as upstream's next sync does.
const ANNOUNCE_AFTER: Duration = Duration::from_secs(2);

/// News for a worker.
#[derive(Debug)]
pub(super) enum Message {
    /// The API's pod has changed.
    Wanted(Arc<Wanted>),
    /// The API no longer has it.
    Orphaned,
    /// Volumes are set up.
    Mounted(Result<(), String>),
    /// Files of a volume may be stale.
    Stale,
    /// The sandbox is made.
    Sandboxed(Result<Vec<String>, String>),
    /// An image is there.
    Pulled { container: String, result: Result<String, steps::PullError> },
    /// A failed pull has been shown long enough as such.
    Announce { container: String },
    /// A container was created and started.
    Started { container: String, result: Result<Attempt, StartError> },
    /// A postStart hook is over.
    Hooked { container: String, id: String, result: Result<(), String> },
    /// A container has ended.
    Exited { container: String, id: String, exit: Exit },
    /// A probe says something.
    Probed { container: String, id: String, kind: Kind, report: Report },
    /// Records are gone.
    RecordsRemoved,
    /// The sandbox is gone.
    SandboxRemoved(Result<(), String>),
    /// The volumes are gone.
    Unmounted(Result<(), String>),
    /// The API has deleted the pod.
    Confirmed,
    /// A status was sent.
    Reported { number: u64 },
}

/// How others reach a worker.
#[derive(Clone, Debug)]
pub struct Handle {
    mailbox: mpsc::UnboundedSender<Message>,
    view: watch::Receiver<View>,
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

/// Starts a worker; the future is its whole life.
pub fn start(
    ctx: Arc<Context>,
    wanted: Arc<Wanted>,
    legacy: Option<Legacy>,
) -> (Handle, impl Future<Output = ()> + Send + 'static) {
    let (mailbox, news) = mpsc::unbounded_channel();
    let (view, seen) = watch::channel(View::default());
    let handle = Handle { mailbox: mailbox.clone(), view: seen };
    let volumes =
        Arc::new(PodVolumes::new(ctx.places.clone(), ctx.client.clone(), ctx.objects.clone()));
    let mut observed = Observed::new(wanted, Timestamp::now(), ctx.host_ips.clone());
    if let Some(legacy) = &legacy {
        legacy.apply(&mut observed);
    }
    let (statuses, outbox) = watch::channel(Numbered::default());
    let sent = observed.wanted.pod.status.clone().unwrap_or_default();
    let worker = Worker {
        born: Instant::now(),
        up: legacy.is_some(),
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
    };
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
            for step in steps {
                self.begin(step);
            }
            if over || self.observed.farewell == Farewell::Done {
                break;
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

    fn begin(&mut self, step: Step) {
        tracing::debug!(pod = self.observed.wanted.name, ?step, "step");
        let ctx = self.ctx.clone();
        let wanted = self.observed.wanted.clone();
        match step {
            Step::MountVolumes => {
                self.observed.volumes = Volumes::Mounting;
                let volumes = self.volumes.clone();
                let facts = ctx.facts(&self.observed.pod_ips);
                self.spawn(async move {
                    let result = volumes.mount(&wanted, &facts).await;
                    Message::Mounted(result.map_err(|e| e.to_string()))
                });
            }
            Step::CreateSandbox => {
                self.observed.sandbox = Sandbox::Creating;
                self.spawn(async move {
                    Message::Sandboxed(steps::create_sandbox(&ctx, &wanted).await)
                });
            }
            Step::Pull { container } => {
                self.seen(&container).busy = Some(Busy::Pulling);
                let volumes = self.volumes.clone();
                self.spawn(async move {
                    let result = steps::pull(&ctx, &wanted, &volumes, &container).await;
                    Message::Pulled { container, result }
                });
            }
            Step::Start { container, attempt } => self.begin_start(container, attempt),
            Step::Kill { container, message, grace } => self.begin_kill(&container, message, grace),
            Step::RemoveRecords => {
                self.observed.farewell = Farewell::RemovingRecords;
                let seen = self.observed.containers.values();
                let attempts = seen.flat_map(|s| s.current.iter().chain(&s.last));
                let ids: Vec<_> = attempts.map(|a| a.id.clone()).collect();
                self.spawn(async move {
                    steps::remove_records(&ctx, ids).await;
                    Message::RecordsRemoved
                });
            }
            Step::RemoveSandbox => {
                self.observed.sandbox = Sandbox::Removing;
                self.spawn(async move {
                    let result = ctx.runtime.remove_sandbox(&wanted.uid).await;
                    Message::SandboxRemoved(result.map_err(|e| e.to_string()))
                });
            }
            Step::UnmountVolumes => {
                self.observed.volumes = Volumes::Removing;
                if let Some(refresh) = self.stale.take() {
                    refresh.abort();
                }
                let volumes = self.volumes.clone();
                self.spawn(async move { Message::Unmounted(volumes.unmount(&wanted.uid).await) });
            }
            Step::ConfirmDelete => {
                self.observed.farewell = Farewell::Confirming;
                self.spawn(async move {
                    steps::confirm_delete(&ctx, &wanted).await;
                    Message::Confirmed
                });
            }
            Step::Forget => (),
        }
    }

    fn begin_start(&mut self, container: String, attempt: u32) {
        let (ctx, wanted) = (self.ctx.clone(), self.observed.wanted.clone());
        let crashes = self.seen(&container).crashes;
        let volumes = self.volumes.clone();
        let Image::Present { id } = self.seen(&container).image.clone() else { return };
        self.seen(&container).busy = Some(Busy::Starting);
        let order = steps::Start {
            container: container.clone(),
            attempt,
            crashes,
            image_id: id,
            pod_ips: self.observed.pod_ips.clone(),
        };
        self.spawn(async move {
            let result = steps::start(&ctx, &wanted, &volumes, order).await;
            Message::Started { container, result }
        });
    }

    fn begin_kill(&mut self, container: &str, message: String, grace: Duration) {
        let (ctx, wanted) = (self.ctx.clone(), self.observed.wanted.clone());
        self.stop_probes(container);
        let ip = self.pod_ip();
        let seen = self.seen(container);
        let Some(id) = seen.current.as_ref().map(|a| a.id.clone()) else { return };
        seen.busy = Some(Busy::Killing);
        self.ctx.recorder.container(&wanted, container, Severity::Normal, "Killing", message);
        let shrink = self.grace.subscribe();
        let container = container.to_owned();
        // The container stays busy until its watcher reports the end.
        self.tasks.spawn(async move {
            steps::kill(&ctx, &wanted, &container, &id, ip, grace, shrink).await;
        });
    }

    fn pod_ip(&self) -> String {
        self.observed.pod_ips.first().cloned().unwrap_or_default()
    }

    /// Watches containers that ran before this worker did.
    fn watch_adopted(&mut self) {
        let running: Vec<_> = self
            .observed
            .containers
            .iter()
            .filter_map(|(name, seen)| {
                seen.is_running().then(|| Some((name.clone(), seen.current.clone()?.id)))?
            })
            .collect();
        for (name, id) in running {
            self.watch_exit(&name, &id);
            self.start_probes(&name, true);
        }
    }

    fn watch_exit(&mut self, container: &str, id: &str) {
        let (ctx, wanted) = (self.ctx.clone(), self.observed.wanted.clone());
        let (container, id) = (container.to_owned(), id.to_owned());
        let attempt = self.seen(&container).attempts.saturating_sub(1);
        let started = self.seen(&container).running_since();
        self.spawn(async move {
            let exit = steps::wait(&ctx, &wanted, &container, &id, attempt, started).await;
            Message::Exited { container, id, exit }
        });
    }

    fn watch_volumes(&mut self) {
        let volumes = self.volumes.clone();
        let task = self.spawn(async move {
            volumes.stale().await;
            Message::Stale
        });
        if let Some(old) = self.stale.replace(task) {
            old.abort();
        }
    }

    fn start_probes(&mut self, name: &str, adopted: bool) {
        let Some(wanted) = self.observed.wanted.container(name).cloned() else { return };
        let seen = self.observed.seen(name);
        let Some(attempt) = &seen.current else { return };
        let spec = &wanted.spec;
        let waits_for_startup = spec.startup_probe.is_some() && !seen.verdicts.started;
        let chosen: Vec<_> = if waits_for_startup {
            vec![(Kind::Startup, spec.startup_probe.clone(), None)]
        } else {
            let ready = adopted.then_some(seen.verdicts.ready);
            vec![
                (Kind::Readiness, spec.readiness_probe.clone(), ready),
                (Kind::Liveness, spec.liveness_probe.clone(), None),
            ]
        };
        let target = crate::probes::action::Target {
            runtime: self.ctx.runtime.clone(),
            id: crate::runtime::ContainerId(attempt.id.clone()),
            ip: self.pod_ip(),
            container: wanted.spec.clone(),
        };
        let id = attempt.id.clone();
        for (kind, probe, known) in chosen {
            let Some(probe) = probe else { continue };
            let mailbox = self.mailbox.clone();
            let (container, id) = (name.to_owned(), id.clone());
            let report = move |report| {
                let (container, id) = (container.clone(), id.clone());
                let _ = mailbox.send(Message::Probed { container, id, kind, report });
            };
            let prober = self.ctx.prober.clone();
            let task =
                crate::probes::runner::run(kind, probe, target.clone(), prober, known, report);
            let handle = self.tasks.spawn(task);
            self.probes.entry(name.to_owned()).or_default().push(handle);
        }
    }

    fn stop_probes(&mut self, container: &str) {
        for probe in self.probes.remove(container).into_iter().flatten() {
            probe.abort();
        }
    }

    fn take(&mut self, message: Message) {
        self.observed.now = Timestamp::now();
        match message {
            Message::Wanted(wanted) => self.take_wanted(wanted),
            Message::Orphaned => {
                self.observed.orphaned = true;
                self.grace.send_replace(self.observed.wanted.deletion);
            }
            Message::Mounted(result) => self.take_mounted(result),
            Message::Stale => self.take_stale(),
            Message::Sandboxed(result) => self.take_sandboxed(result),
            Message::Pulled { container, result } => self.take_pulled(&container, result),
            Message::Announce { container } => self.take_announce(&container),
            Message::Started { container, result } => self.take_started(&container, result),
            Message::Hooked { container, id, result } => self.take_hooked(&container, &id, result),
            Message::Exited { container, id, exit } => self.take_exit(&container, &id, exit),
            Message::Probed { container, id, kind, report } => {
                self.take_probed(&container, &id, kind, report);
            }
            Message::RecordsRemoved => self.observed.farewell = Farewell::RecordsGone,
            Message::SandboxRemoved(Ok(())) => self.observed.sandbox = Sandbox::Removed,
            Message::SandboxRemoved(Err(why)) => {
                let pod = self.observed.wanted.clone();
                self.ctx.recorder.pod(&pod, Severity::Warning, "FailedKillPod", why.clone());
                let tries = 3; // It is asked for again after a while, until it works.
                self.observed.sandbox =
                    Sandbox::Failed(self.failure(plan::FAILED_REMOVAL, why, tries));
            }
            Message::Unmounted(Ok(())) => self.observed.volumes = Volumes::Removed,
            Message::Unmounted(Err(why)) => {
                tracing::warn!(pod = self.observed.wanted.name, error = why, "volumes not removed");
                self.observed.volumes = Volumes::Failed(self.failure(plan::FAILED_REMOVAL, why, 3));
            }
            Message::Confirmed => self.observed.farewell = Farewell::Done,
            Message::Reported { number } => self.taken = self.taken.max(number),
        }
    }

    fn take_wanted(&mut self, wanted: Arc<Wanted>) {
        if wanted.deletion.is_some() && wanted.deletion != self.observed.wanted.deletion {
            self.grace.send_replace(wanted.deletion);
            // What was reported before is not yet the end of a pod that is deleted.
            if self.observed.wanted.deletion.is_none() && !self.observed.wanted.is_terminal() {
                self.observed.reported_terminal = false;
            }
        }
        let relabeled = wanted.pod.metadata.labels != self.observed.wanted.pod.metadata.labels
            || wanted.pod.metadata.annotations != self.observed.wanted.pod.metadata.annotations;
        // The final phase that we reported ourselves comes back; it must not change a life that goes on.
        self.observed.wanted = wanted;
        if relabeled && self.observed.volumes == Volumes::Ready {
            self.take_stale();
        }
    }

    fn failure(&self, reason: &str, message: String, tries: u32) -> Failure {
        let wait = Duration::from_millis(500).saturating_mul(1 << tries.min(8));
        Failure {
            reason: reason.to_owned(),
            message,
            tries,
            retry_at: after(self.observed.now, wait.min(Duration::from_secs(10))),
            announced: false,
        }
    }

    fn take_mounted(&mut self, result: Result<(), String>) {
        let wanted = self.observed.wanted.clone();
        match result {
            Ok(()) => {
                self.observed.volumes = Volumes::Ready;
                self.watch_volumes();
            }
            Err(why) => {
                self.mount_tries += 1;
                let tries = self.mount_tries;
                self.ctx.recorder.pod(&wanted, Severity::Warning, "FailedMount", why.clone());
                self.observed.volumes = Volumes::Failed(self.failure("FailedMount", why, tries));
                self.watch_volumes(); // The missing object may appear before the next try.
            }
        }
    }

    fn take_stale(&mut self) {
        match &mut self.observed.volumes {
            Volumes::Failed(failure) => failure.retry_at = self.observed.now,
            Volumes::Ready => {
                let (volumes, wanted) = (self.volumes.clone(), self.observed.wanted.clone());
                let facts = self.ctx.facts(&self.observed.pod_ips);
                let task = self.spawn(async move {
                    // Several changes often come together.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if let Err(error) = volumes.mount(&wanted, &facts).await {
                        tracing::warn!(error = %error, "volume not refreshed");
                        tokio::time::sleep(Duration::from_secs(10)).await;
                    }
                    volumes.stale().await;
                    Message::Stale
                });
                if let Some(old) = self.stale.replace(task) {
                    old.abort();
                }
            }
            _ => (),
        }
    }

    fn take_sandboxed(&mut self, result: Result<Vec<String>, String>) {
        match result {
            Ok(ips) => {
                let host = self.observed.wanted.host_network || ips.is_empty();
                self.observed.pod_ips = if host { self.ctx.host_ips.clone() } else { ips.clone() };
                self.observed.sandbox =
                    Sandbox::Ready { id: self.observed.wanted.uid.clone(), ips };
            }
            Err(why) => {
                self.sandbox_tries += 1;
                let tries = self.sandbox_tries;
                let wanted = self.observed.wanted.clone();
                let reason = "FailedCreatePodSandBox";
                self.ctx.recorder.pod(&wanted, Severity::Warning, reason, why.clone());
                self.observed.sandbox = Sandbox::Failed(self.failure(reason, why, tries));
            }
        }
    }

    fn take_pulled(&mut self, container: &str, result: Result<String, steps::PullError>) {
        let now = self.observed.now;
        let seen = self.seen(container);
        seen.busy = None;
        match result {
            Ok(id) => {
                seen.image = Image::Present { id };
                seen.pull_failure = None;
            }
            Err(error) => {
                let tries = seen.pull_failure.as_ref().map_or(1, |f| f.tries + 1);
                seen.pull_failure = Some(Failure {
                    reason: error.reason.to_owned(),
                    message: error.message,
                    tries,
                    retry_at: after(now, pull_backoff(tries)),
                    announced: false,
                });
                let container = container.to_owned();
                self.spawn(async move {
                    tokio::time::sleep(ANNOUNCE_AFTER).await;
                    Message::Announce { container }
                });
            }
        }
    }

    fn take_announce(&mut self, container: &str) {
        let wanted = self.observed.wanted.clone();
        let image = wanted.container(container).and_then(|c| c.spec.image.clone());
        let image = image.unwrap_or_default();
        let seen = self.seen(container);
        let pulling = seen.busy.is_some();
        let Some(failure) = seen.pull_failure.as_mut().filter(|f| !f.announced && !pulling) else {
            return;
        };
        failure.announced = true;
        if failure.reason != "ErrImagePull" {
            return; // ErrImageNeverPull and InvalidImageName say all there is to say.
        }
        let cause = format!("{}: {}", failure.reason, failure.message);
        failure.reason = "ImagePullBackOff".to_owned();
        failure.message = format!("Back-off pulling image \"{image}\": {cause}");
        let recorder = &self.ctx.recorder;
        let text = format!("Back-off pulling image \"{image}\"");
        recorder.container(&wanted, container, Severity::Normal, "BackOff", text);
        let text = "Error: ImagePullBackOff";
        recorder.container(&wanted, container, Severity::Warning, "Failed", text);
    }

    fn take_started(&mut self, container: &str, result: Result<Attempt, StartError>) {
        let wanted = self.observed.wanted.clone();
        let now = self.observed.now;
        let seen = self.seen(container);
        seen.busy = None;
        match result {
            Ok(attempt) => {
                let id = attempt.id.clone();
                let outdated = std::mem::replace(&mut seen.last, seen.current.take());
                seen.current = Some(attempt);
                seen.attempts += 1;
                let number = seen.attempts;
                seen.image = Image::Unknown;
                seen.start_failure = None;
                seen.verdicts = Verdicts::default();
                if let Some(outdated) = outdated {
                    self.discard(container, outdated.id, number);
                }
                self.watch_exit(container, &id);
                self.start_probes(container, false);
                let hook =
                    wanted.container(container).and_then(|c| c.spec.lifecycle.clone()?.post_start);
                if let Some(hook) = hook {
                    let (ctx, ip) = (self.ctx.clone(), self.pod_ip());
                    let container = container.to_owned();
                    self.spawn(async move {
                        let result = steps::hook(&ctx, &wanted, &container, &id, &ip, &hook).await;
                        Message::Hooked { container, id, result }
                    });
                }
            }
            Err(error) => {
                let tries = seen.start_failure.as_ref().map_or(1, |f| f.tries + 1);
                let wait = start_backoff(tries, error.reason == "CreateContainerConfigError");
                seen.start_failure = Some(Failure {
                    reason: error.reason.to_owned(),
                    message: error.message,
                    tries,
                    retry_at: after(now, wait),
                    announced: true,
                });
                self.ctx.metrics.start_errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Forgets an attempt before the last one, and its log. `attempts` is how many there are now.
    fn discard(&mut self, container: &str, id: String, attempts: u32) {
        let (ctx, wanted) = (self.ctx.clone(), self.observed.wanted.clone());
        let container = container.to_owned();
        self.tasks.spawn(async move {
            steps::remove_records(&ctx, vec![id]).await;
            if let Some(number) = attempts.checked_sub(3) {
                steps::remove_logs(&ctx, &wanted, &container, number);
            }
        });
    }

    fn take_hooked(&mut self, container: &str, id: &str, result: Result<(), String>) {
        let wanted = self.observed.wanted.clone();
        let seen = self.seen(container);
        let Some(attempt) = seen.current.as_mut().filter(|a| a.id == id) else { return };
        let AttemptState::Running { hooked, .. } = &mut attempt.state else { return };
        match result {
            Ok(()) => *hooked = true,
            Err(why) => {
                seen.verdicts.doomed =
                    Some(Doom { message: "FailedPostStartHook".to_owned(), grace: None });
                let reason = "FailedPostStartHook";
                self.ctx.recorder.container(&wanted, container, Severity::Warning, reason, why);
            }
        }
    }

    fn take_exit(&mut self, container: &str, id: &str, exit: Exit) {
        let seen = self.seen(container);
        let Some(attempt) = seen.current.as_mut().filter(|a| a.id == id) else { return };
        if attempt.exit().is_some() {
            return;
        }
        let ran = exit
            .started_at
            .map_or(Duration::ZERO, |at| exit.finished_at.duration_since(at).unsigned_abs());
        attempt.state = AttemptState::Exited(exit);
        seen.crashes = if ran >= plan::STABLE_RUN { 1 } else { seen.crashes + 1 };
        seen.verdicts = Verdicts::default();
        if seen.busy == Some(Busy::Killing) {
            seen.busy = None;
        }
        let crashes = seen.crashes;
        self.stop_probes(container);
        let wanted = self.observed.wanted.clone();
        let Some(spec) = wanted.container(container) else { return };
        let comes_back = plan::restart_at(spec, self.observed.seen(container)).is_some()
            && wanted.deletion.is_none()
            && plan::conclusion(&self.observed).is_none();
        if comes_back && crash_backoff(crashes) > Duration::ZERO {
            let text = format!(
                "Back-off restarting failed container {container} in pod {}",
                wanted.display()
            );
            self.ctx.recorder.container(&wanted, container, Severity::Warning, "BackOff", text);
        }
    }

    fn take_probed(&mut self, container: &str, id: &str, kind: Kind, report: Report) {
        let wanted = self.observed.wanted.clone();
        let seen = self.seen(container);
        if seen.current.as_ref().is_none_or(|a| a.id != id || a.exit().is_some()) {
            return;
        }
        match report {
            Report::Failure(why) => {
                let text = format!("{} probe failed: {why}", kind.title());
                let recorder = &self.ctx.recorder;
                recorder.container(&wanted, container, Severity::Warning, "Unhealthy", text);
            }
            Report::Verdict(outcome) => match (kind, outcome) {
                (Kind::Readiness, outcome) => seen.verdicts.ready = outcome.is_ok(),
                (Kind::Startup, Ok(())) => {
                    seen.verdicts.started = true;
                    self.stop_probes(container);
                    self.start_probes(container, false);
                }
                (Kind::Liveness, Ok(())) => (),
                (Kind::Startup | Kind::Liveness, Err(_)) => {
                    let spec = wanted.container(container).map(|c| c.spec.clone());
                    let probe = spec.and_then(|s| match kind {
                        Kind::Startup => s.startup_probe.clone(),
                        Kind::Liveness | Kind::Readiness => s.liveness_probe.clone(),
                    });
                    seen.verdicts.doomed = Some(Doom {
                        message: format!(
                            "Container {container} failed {} probe, will be restarted",
                            kind.word()
                        ),
                        grace: probe.and_then(|p| crate::probes::Settings::new(&p).grace),
                    });
                }
            },
        }
    }

    /// Sends the status if it has changed, and shows the server how the pod is.
    fn report(&mut self) {
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

    fn show(&self) {
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

/// The wait after the `tries`-th failed start in a row: 1 s, 2 s, 4 s …
///
/// What only waits for a missing object is looked at every 10 s at least, all else every 5 min.
fn start_backoff(tries: u32, missing: bool) -> Duration {
    let most = if missing { Duration::from_secs(10) } else { plan::BACKOFF_CAP };
    Duration::from_secs(1 << tries.saturating_sub(1).min(16)).min(most)
}

/// Whether two statuses say the same; the API holds times in whole seconds, so a status read back differs in their fractions.
fn same(a: &PodStatus, b: &PodStatus) -> bool {
    serde_json::to_value(a).ok() == serde_json::to_value(trim(b)).ok()
}

/// Only what the node owns.
fn trim(status: &PodStatus) -> PodStatus {
    let own =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
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
