//! What each message changes in what the worker has observed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::Worker;
use crate::events::Severity;
use crate::pods::observed::{
    Attempt, AttemptState, Busy, Doom, Exit, Failure, Farewell, Image, Sandbox, Verdicts, Volumes,
    Wanted,
};
use crate::pods::plan::{self, after, crash_backoff, pull_backoff};
use crate::pods::steps::{self, StartError};
use crate::probes::Kind;
use crate::probes::runner::Report;

/// Waiting reason after a failed pull turns into back-off after this time, as upstream's next sync does.
const ANNOUNCE_AFTER: Duration = Duration::from_secs(2);

/// News for a worker.
#[derive(Debug)]
pub(in crate::pods) enum Message {
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
    /// The node has room for the resize that waits.
    Granted,
    /// A resize was carried out, as far as it went.
    Resized(steps::Resized),
    /// The API has deleted the pod.
    Confirmed,
    /// A status was sent.
    Reported { number: u64 },
}

impl Worker {
    pub(super) fn take(&mut self, message: Message) {
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
            Message::Granted => self.take_granted(),
            Message::Resized(done) => self.take_resized(done),
            Message::Confirmed => self.observed.farewell = Farewell::Done,
            Message::Reported { number } => self.taken = self.taken.max(number),
        }
    }

    pub(super) fn take_wanted(&mut self, wanted: Arc<Wanted>) {
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
        self.observed.want(wanted);
        if relabeled && self.observed.volumes == Volumes::Ready {
            self.take_stale();
        }
    }

    pub(super) fn failure(&self, reason: &str, message: String, tries: u32) -> Failure {
        let wait = Duration::from_millis(500).saturating_mul(1 << tries.min(8));
        Failure {
            reason: reason.to_owned(),
            message,
            tries,
            retry_at: after(self.observed.now, wait.min(Duration::from_secs(10))),
            announced: false,
        }
    }

    pub(super) fn take_mounted(&mut self, result: Result<(), String>) {
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

    pub(super) fn take_stale(&mut self) {
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

    pub(super) fn take_sandboxed(&mut self, result: Result<Vec<String>, String>) {
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

    pub(super) fn take_pulled(
        &mut self,
        container: &str,
        result: Result<String, steps::PullError>,
    ) {
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
                    retry_at: after(now, pull_backoff(error.reason, tries)),
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

    pub(super) fn take_announce(&mut self, container: &str) {
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

    pub(super) fn take_started(&mut self, container: &str, result: Result<Attempt, StartError>) {
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
                seen.replaced = false;
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
    pub(super) fn discard(&mut self, container: &str, id: String, attempts: u32) {
        let (ctx, wanted) = (self.ctx.clone(), self.observed.wanted.clone());
        let container = container.to_owned();
        self.tasks.spawn(async move {
            steps::remove_records(&ctx, vec![id]).await;
            if let Some(number) = attempts.checked_sub(3) {
                steps::remove_logs(&ctx, &wanted, &container, number);
            }
        });
    }

    pub(super) fn take_hooked(&mut self, container: &str, id: &str, result: Result<(), String>) {
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

    pub(super) fn take_exit(&mut self, container: &str, id: &str, exit: Exit) {
        let seen = self.seen(container);
        let Some(attempt) = seen.current.as_mut().filter(|a| a.id == id) else { return };
        if attempt.exit().is_some() {
            return;
        }
        let ran = exit
            .started_at
            .map_or(Duration::ZERO, |at| exit.finished_at.duration_since(at).unsigned_abs());
        attempt.state = AttemptState::Exited(exit);
        if !seen.replaced {
            seen.crashes = if ran >= plan::STABLE_RUN { 1 } else { seen.crashes + 1 };
        }
        seen.verdicts = Verdicts::default();
        if seen.busy == Some(Busy::Killing) {
            seen.busy = None;
        }
        let crashes = seen.crashes;
        self.stop_probes(container);
        let wanted = self.observed.wanted.clone();
        let Some(spec) = wanted.container(container) else { return };
        let comes_back = !self.observed.seen(container).replaced
            && plan::restart_at(spec, self.observed.seen(container)).is_some()
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

    pub(super) fn take_probed(&mut self, container: &str, id: &str, kind: Kind, report: Report) {
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
}

/// The wait after the `tries`-th failed start in a row: 1 s, 2 s, 4 s …
///
/// What only waits for a missing object is looked at every 10 s at least, all else every 5 min.
fn start_backoff(tries: u32, missing: bool) -> Duration {
    let most = if missing { Duration::from_secs(10) } else { plan::BACKOFF_CAP };
    Duration::from_secs(1 << tries.saturating_sub(1).min(16)).min(most)
}
