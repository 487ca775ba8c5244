//! Counters of the agent, in the Prometheus text format.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets of durations, in seconds.
const BUCKETS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// A distribution of durations.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Durations {
    /// Adds one.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        for (bucket, bound) in self.buckets.iter().zip(BUCKETS) {
            if seconds <= bound {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn render(&self, out: &mut String, name: &str, help: &str) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (bucket, bound) in self.buckets.iter().zip(BUCKETS) {
            let _ =
                writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {}", bucket.load(Ordering::Relaxed));
        }
        let count = self.count.load(Ordering::Relaxed);
        let sum = Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(
            out,
            "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}"
        );
    }
}

/// All that the agent counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// From the first sight of a pod to its first running container set.
    pub pod_start: Durations,
    /// From the start of a container's creation to its process.
    pub container_start: Durations,
    /// Making a sandbox.
    pub sandbox: Durations,
    /// Container starts that failed.
    pub start_errors: AtomicU64,
    /// Status patches sent.
    pub status_patches: AtomicU64,
    /// Pods with a worker.
    pub pods: AtomicU64,
}

impl Metrics {
    /// The text for `/metrics`.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.pod_start.render(
            &mut out,
            "kubelet_pod_start_duration_seconds",
            "From the first sight of a pod until all its containers were started.",
        );
        self.container_start.render(
            &mut out,
            "kubelet_container_start_duration_seconds",
            "From the decision to start a container until its process ran.",
        );
        self.sandbox.render(
            &mut out,
            "kubelet_run_podsandbox_duration_seconds",
            "Making the namespaces and the network of a pod.",
        );
        for (name, kind, help, value) in [
            (
                "kubelet_started_containers_errors_total",
                "counter",
                "Container starts that failed.",
                &self.start_errors,
            ),
            (
                "kubelet_status_patches_total",
                "counter",
                "Pod status patches sent.",
                &self.status_patches,
            ),
            ("kubelet_running_pods", "gauge", "Pods that the node takes care of.", &self.pods),
        ] {
            let value = value.load(Ordering::Relaxed);
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
        out
    }
}
