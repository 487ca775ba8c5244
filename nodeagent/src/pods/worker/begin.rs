//! Steps become tasks, and running containers get their watchers and probes.

use std::time::Duration;

use super::{Message, Worker};
use crate::events::Severity;
use crate::pods::observed::{Busy, Farewell, Image, Sandbox, Volumes};
use crate::pods::plan::Step;
use crate::pods::quantity::pod_resources;
use crate::pods::steps;
use crate::probes::Kind;

impl Worker {
    pub(super) fn begin(&mut self, step: Step) {
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
                self.observed.limits = Some(pod_resources(&wanted.pod));
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
            Step::Kill { container, message, grace, replaced } => {
                self.seen(&container).replaced = replaced;
                self.begin_kill(&container, message, grace);
            }
            Step::Allot => self.begin_allot(),
            Step::Resize(order) => self.begin_resize(order),
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

    pub(super) fn begin_start(&mut self, container: String, attempt: u32) {
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

    pub(super) fn begin_kill(&mut self, container: &str, message: String, grace: Duration) {
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

    /// Watches containers that ran before this worker did.
    pub(super) fn watch_adopted(&mut self) {
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

    pub(super) fn watch_exit(&mut self, container: &str, id: &str) {
        let (ctx, wanted) = (self.ctx.clone(), self.observed.wanted.clone());
        let (container, id) = (container.to_owned(), id.to_owned());
        let attempt = self.seen(&container).attempts.saturating_sub(1);
        let started = self.seen(&container).running_since();
        self.spawn(async move {
            let exit = steps::wait(&ctx, &wanted, &container, &id, attempt, started).await;
            Message::Exited { container, id, exit }
        });
    }

    pub(super) fn watch_volumes(&mut self) {
        let volumes = self.volumes.clone();
        let task = self.spawn(async move {
            volumes.stale().await;
            Message::Stale
        });
        if let Some(old) = self.stale.replace(task) {
            old.abort();
        }
    }

    pub(super) fn start_probes(&mut self, name: &str, adopted: bool) {
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

    pub(super) fn stop_probes(&mut self, container: &str) {
        for probe in self.probes.remove(container).into_iter().flatten() {
            probe.abort();
        }
    }
}
