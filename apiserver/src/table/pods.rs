//! The row of a pod: what state all its containers together are in.

use serde_json::{Value, json};

use super::row::{NONE, Row};

/// What the walk over the containers adds up.
struct Summary {
    status: String,
    n_ready: usize,
    n_restarts: i64,
    last_restart: Option<String>,
}

/// Cells of a pod.
pub(super) fn pod(row: Row<'_>) -> Vec<Value> {
    let n_sidecars = row.items("/spec/initContainers").filter(|c| is_sidecar(*c)).count();
    let total = row.count("/spec/containers") + n_sidecars;
    let summary = summarize(row);
    let restarts = match summary.last_restart {
        Some(at) if summary.n_restarts > 0 => {
            let ago = super::age::since(Some(&at.into()), row.now);
            format!("{} ({ago} ago)", summary.n_restarts)
        }
        _ => summary.n_restarts.to_string(),
    };
    vec![
        row.name().into(),
        format!("{}/{total}", summary.n_ready).into(),
        summary.status.into(),
        restarts.into(),
        row.age().into(),
        row.text_or("/status/podIPs/0/ip", row.text_or("/status/podIP", NONE)).into(),
        row.text_or("/spec/nodeName", NONE).into(),
        row.text_or("/status/nominatedNodeName", NONE).into(),
        readiness_gates(row).into(),
    ]
}

/// Conditions of a pod's row: clients that hide finished pods go by them.
pub(super) fn row_conditions(row: Row<'_>) -> Option<Value> {
    let (reason, message) = match row.text("/status/phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{ "type": "Completed", "status": "True", "reason": reason, "message": message }]))
}

fn readiness_gates(row: Row<'_>) -> String {
    let n_gates = row.count("/spec/readinessGates");
    if n_gates == 0 {
        return NONE.to_owned();
    }
    let n_true = row
        .items("/spec/readinessGates")
        .filter(|gate| row.is_true(gate.text("/conditionType")))
        .count();
    format!("{n_true}/{n_gates}")
}

fn is_sidecar(container: Row<'_>) -> bool {
    container.text("/restartPolicy") == "Always"
}

fn summarize(row: Row<'_>) -> Summary {
    let mut status = row.text_or("/status/reason", row.text("/status/phase")).to_owned();
    if row.condition("PodScheduled").is_some_and(|c| c.text("/reason") == "SchedulingGated") {
        status = "SchedulingGated".to_owned();
    }
    let mut init = init_containers(row);
    if let Some(waits_for) = init.waits_for.take().filter(|_| !row.is_true("Initialized")) {
        status = waits_for;
    } else {
        init.n_restarts = init.n_sidecar_restarts;
        init.last_restart = init.last_sidecar_restart.take();
        main_containers(row, &mut status, &mut init);
    }
    if row.deleted() && row.text("/status/reason") == "NodeLost" {
        status = "Unknown".to_owned();
    } else if row.deleted() && !matches!(row.text("/status/phase"), "Succeeded" | "Failed") {
        status = "Terminating".to_owned();
    }
    Summary {
        status,
        n_ready: init.n_ready,
        n_restarts: init.n_restarts,
        last_restart: init.last_restart,
    }
}

#[derive(Default)]
struct Walk {
    n_ready: usize,
    n_restarts: i64,
    n_sidecar_restarts: i64,
    last_restart: Option<String>,
    last_sidecar_restart: Option<String>,
    /// Why the main containers have not started yet.
    waits_for: Option<String>,
}

fn init_containers(row: Row<'_>) -> Walk {
    let mut walk = Walk::default();
    let n_total = row.count("/spec/initContainers");
    for (at, container) in row.items("/status/initContainerStatuses").enumerate() {
        let name = container.text("/name");
        let sidecar = row
            .items("/spec/initContainers")
            .any(|spec| spec.text("/name") == name && is_sidecar(spec));
        walk.n_restarts += container.number("/restartCount");
        later(&mut walk.last_restart, container);
        if sidecar {
            walk.n_sidecar_restarts += container.number("/restartCount");
            later(&mut walk.last_sidecar_restart, container);
        }
        if container.get("/state/terminated").is_some()
            && container.number("/state/terminated/exitCode") == 0
            && container.number("/state/terminated/signal") == 0
        {
            continue;
        }
        if sidecar && container.flag("/started") {
            walk.n_ready += usize::from(container.flag("/ready"));
            continue;
        }
        let waiting = container.text("/state/waiting/reason");
        walk.waits_for = Some(if container.get("/state/terminated").is_some() {
            format!("Init:{}", end_of(container))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{at}/{n_total}")
        });
        break;
    }
    walk
}

fn main_containers(row: Row<'_>, status: &mut String, walk: &mut Walk) {
    let mut some_run = false;
    // The first container that is not well names the pod's status, so the last one is seen first.
    for container in row.items("/status/containerStatuses").rev() {
        walk.n_restarts += container.number("/restartCount");
        later(&mut walk.last_restart, container);
        let waiting = container.text("/state/waiting/reason");
        if !waiting.is_empty() {
            *status = waiting.to_owned();
        } else if container.get("/state/terminated").is_some() {
            *status = end_of(container);
        } else if container.flag("/ready") && container.get("/state/running").is_some() {
            some_run = true;
            walk.n_ready += 1;
        }
    }
    if status == "Completed" && some_run {
        *status = if row.is_true("Ready") { "Running" } else { "NotReady" }.to_owned();
    }
}

/// How a container ended: its reason, else the signal, else the exit code.
fn end_of(container: Row<'_>) -> String {
    let end = container.at("/state/terminated");
    match (end.text("/reason"), end.number("/signal")) {
        ("", 0) => format!("ExitCode:{}", end.number("/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn later(last: &mut Option<String>, container: Row<'_>) {
    let ended = container.text("/lastState/terminated/finishedAt");
    // RFC 3339 in UTC: the order of the texts is that of the times.
    if !ended.is_empty() && last.as_deref().is_none_or(|last| last < ended) {
        *last = Some(ended.to_owned());
    }
}
