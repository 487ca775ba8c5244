//! What pods and the node use: `/stats/summary` and `/metrics/resource`.

use std::fmt::Write;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{Response, Shared, text};
use crate::node::machine::{cpu_nanos, meminfo};
use crate::runtime::{ContainerId, Stats};

/// One pod with its containers.
struct Used {
    namespace: String,
    name: String,
    uid: String,
    start: Option<Timestamp>,
    pod: Stats,
    containers: Vec<(String, Stats)>,
}

async fn gather(shared: &Shared) -> Vec<Used> {
    let mut all = Vec::new();
    for handle in shared.pods.all() {
        let (wanted, containers, start) = {
            let view = handle.view();
            let Some(wanted) = view.wanted.clone() else { continue };
            (wanted, view.containers.clone(), view.status.start_time.clone())
        };
        let runtime = &shared.ctx.runtime;
        let Ok(pod) = runtime.sandbox_stats(&wanted.uid).await else { continue };
        let mut list = Vec::new();
        for (name, (id, running)) in containers {
            if !running {
                continue;
            }
            if let Ok(stats) = runtime.container_stats(&ContainerId(id)).await {
                list.push((name, stats));
            }
        }
        all.push(Used {
            namespace: wanted.namespace.clone(),
            name: wanted.name.clone(),
            uid: wanted.uid.clone(),
            start: start.map(|t| t.0),
            pod,
            containers: list,
        });
    }
    all
}

fn cpu(nanos: u64, now: &str) -> Value {
    json!({"time": now, "usageCoreNanoSeconds": nanos})
}

fn memory(stats: &Stats, now: &str) -> Value {
    json!({
        "time": now,
        "usageBytes": stats.memory_usage.0,
        "workingSetBytes": stats.memory_working_set.0,
        "rssBytes": stats.memory_rss.0,
    })
}

/// The summary, in the form of upstream's stats/v1alpha1.
pub(super) async fn summary(shared: &Shared) -> Value {
    let now = now();
    let pods: Vec<Value> = gather(shared)
        .await
        .iter()
        .map(|used| {
            let containers: Vec<Value> = used
                .containers
                .iter()
                .map(|(name, stats)| {
                    json!({"name": name, "startTime": used.start.map(|t| t.to_string()),
                        "cpu": cpu(stats.cpu_nanos, &now), "memory": memory(stats, &now)})
                })
                .collect();
            json!({
                "podRef": {"name": used.name, "namespace": used.namespace, "uid": used.uid},
                "startTime": used.start.map(|t| t.to_string()),
                "containers": containers,
                "cpu": cpu(used.pod.cpu_nanos, &now),
                "memory": memory(&used.pod, &now),
                "network": {"time": now, "name": "eth0",
                    "rxBytes": used.pod.network_received.map(|b| b.0),
                    "txBytes": used.pod.network_sent.map(|b| b.0)},
                "process_stats": {"process_count": used.pod.processes},
            })
        })
        .collect();
    let (total, available) = node_memory();
    json!({
        "node": {
            "nodeName": shared.ctx.config.node_name,
            "cpu": cpu(cpu_nanos(), &now),
            "memory": {"time": now, "availableBytes": available, "usageBytes": total - available,
                "workingSetBytes": total - available},
        },
        "pods": pods,
    })
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn node_memory() -> (u64, u64) {
    let total = meminfo("MemTotal").unwrap_or(0);
    (total, meminfo("MemAvailable").unwrap_or(0).min(total))
}

/// The metrics that a metrics server reads.
///
/// Source: kubernetes.io, "Node metrics data", `/metrics/resource`.
pub(super) async fn resource_metrics(shared: &Shared) -> Response {
    let mut out = String::new();
    let millis = Timestamp::now().as_millisecond();
    let seconds = |nanos: u64| std::time::Duration::from_nanos(nanos).as_secs_f64();
    let (total, available) = node_memory();
    let _ = writeln!(out, "# TYPE node_cpu_usage_seconds_total counter");
    let _ = writeln!(out, "node_cpu_usage_seconds_total {} {millis}", seconds(cpu_nanos()));
    let _ = writeln!(out, "# TYPE node_memory_working_set_bytes gauge");
    let _ = writeln!(out, "node_memory_working_set_bytes {} {millis}", total - available);
    let used = gather(shared).await;
    let each = |out: &mut String, name: &str, kind: &str, value: &dyn Fn(&Stats) -> String| {
        let _ = writeln!(out, "# TYPE container_{name} {kind}");
        for pod in &used {
            for (container, stats) in &pod.containers {
                let _ = writeln!(
                    out,
                    "container_{name}{{container=\"{container}\",namespace=\"{}\",pod=\"{}\"}} {} {millis}",
                    pod.namespace,
                    pod.name,
                    value(stats)
                );
            }
        }
        let _ = writeln!(out, "# TYPE pod_{name} {kind}");
        for pod in &used {
            let _ = writeln!(
                out,
                "pod_{name}{{namespace=\"{}\",pod=\"{}\"}} {} {millis}",
                pod.namespace,
                pod.name,
                value(&pod.pod)
            );
        }
    };
    each(&mut out, "cpu_usage_seconds_total", "counter", &|s| seconds(s.cpu_nanos).to_string());
    each(&mut out, "memory_working_set_bytes", "gauge", &|s| s.memory_working_set.0.to_string());
    text(http::StatusCode::OK, out)
}
