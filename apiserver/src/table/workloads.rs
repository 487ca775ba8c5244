//! Rows of apps, batch, autoscaling and policy types, and of replication controllers.

use jiff::Timestamp;
use serde_json::Value;

use super::age;
use super::row::{NONE, Row, UNSET, shown};

pub(super) fn replication_controller(row: Row<'_>) -> Vec<Value> {
    let mut cells = replicas(row);
    cells.push(row.labels("/spec/selector").into());
    cells
}

pub(super) fn scale(row: Row<'_>) -> Vec<Value> {
    let number = |path| row.object.pointer(path).cloned().unwrap_or_else(|| 0.into());
    let (wanted, found) = (number("/spec/replicas"), number("/status/replicas"));
    vec![row.name().into(), wanted, found, row.age().into()]
}

pub(super) fn replica_set(row: Row<'_>) -> Vec<Value> {
    let mut cells = replicas(row);
    cells.push(row.selector("/spec/selector").into());
    cells
}

fn replicas(row: Row<'_>) -> Vec<Value> {
    let mut cells = vec![
        row.name().into(),
        row.number("/spec/replicas").into(),
        row.number("/status/replicas").into(),
        row.number("/status/readyReplicas").into(),
        row.age().into(),
    ];
    cells.extend(row.containers("/spec/template/spec"));
    cells
}

fn ready(row: Row<'_>) -> String {
    format!("{}/{}", row.number("/status/readyReplicas"), row.number("/spec/replicas"))
}

pub(super) fn deployment(row: Row<'_>) -> Vec<Value> {
    let mut cells = vec![
        row.name().into(),
        ready(row).into(),
        row.number("/status/updatedReplicas").into(),
        row.number("/status/availableReplicas").into(),
        row.age().into(),
    ];
    cells.extend(row.containers("/spec/template/spec"));
    cells.push(row.selector("/spec/selector").into());
    cells
}

pub(super) fn stateful_set(row: Row<'_>) -> Vec<Value> {
    let mut cells = vec![row.name().into(), ready(row).into(), row.age().into()];
    cells.extend(row.containers("/spec/template/spec"));
    cells
}

pub(super) fn daemon_set(row: Row<'_>) -> Vec<Value> {
    let mut cells = vec![
        row.name().into(),
        row.number("/status/desiredNumberScheduled").into(),
        row.number("/status/currentNumberScheduled").into(),
        row.number("/status/numberReady").into(),
        row.number("/status/updatedNumberScheduled").into(),
        row.number("/status/numberAvailable").into(),
        row.labels("/spec/template/spec/nodeSelector").into(),
        row.age().into(),
    ];
    cells.extend(row.containers("/spec/template/spec"));
    cells.push(row.selector("/spec/selector").into());
    cells
}

pub(super) fn controller_revision(row: Row<'_>) -> Vec<Value> {
    let owner = row.items("/metadata/ownerReferences").find(|o| o.flag("/controller"));
    let owner = owner.map_or(NONE.to_owned(), |owner| {
        let kind = owner.text("/kind").to_lowercase();
        let kind = match owner.text("/apiVersion").split_once('/') {
            Some((group, _)) => format!("{kind}.{group}"),
            None => kind,
        };
        format!("{kind}/{}", owner.text("/name"))
    });
    vec![row.name().into(), owner.into(), row.number("/revision").into(), row.age().into()]
}

pub(super) fn job(row: Row<'_>) -> Vec<Value> {
    let succeeded = row.number("/status/succeeded");
    let completions = match (row.get("/spec/completions"), row.number("/spec/parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{}", shown(wanted)),
        (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let mut cells = vec![
        row.name().into(),
        job_status(row).into(),
        completions.into(),
        job_duration(row).into(),
        row.age().into(),
    ];
    cells.extend(row.containers("/spec/template/spec"));
    cells.push(row.selector("/spec/selector").into());
    cells
}

fn job_status(row: Row<'_>) -> &'static str {
    let known = |names: &[&'static str]| names.iter().copied().find(|name| row.is_true(name));
    match known(&["Complete", "Failed"]) {
        Some(end) => end,
        None if row.deleted() => "Terminating",
        None => known(&["Suspended", "FailureTarget", "SuccessCriteriaMet"]).unwrap_or("Running"),
    }
}

fn job_duration(row: Row<'_>) -> String {
    let start = row.text("/status/startTime").parse::<Timestamp>();
    let end = row.text("/status/completionTime").parse::<Timestamp>();
    match (start, end) {
        (Err(_), _) => String::new(),
        (Ok(start), end) => age::human(end.unwrap_or(row.now).duration_since(start).as_secs()),
    }
}

pub(super) fn cron_job(row: Row<'_>) -> Vec<Value> {
    let suspend = match row.get("/spec/suspend").and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => UNSET,
    };
    let last = match row.get("/status/lastScheduleTime") {
        Some(_) => row.since("/status/lastScheduleTime"),
        None => NONE.to_owned(),
    };
    let mut cells = vec![
        row.name().into(),
        row.text("/spec/schedule").into(),
        row.text_or("/spec/timeZone", NONE).into(),
        suspend.into(),
        row.count("/status/active").into(),
        last.into(),
        row.age().into(),
    ];
    cells.extend(row.containers("/spec/jobTemplate/spec/template/spec"));
    cells.push(row.selector("/spec/jobTemplate/spec/selector").into());
    cells
}

pub(super) fn pod_disruption_budget(row: Row<'_>) -> Vec<Value> {
    let bound = |pointer: &str| row.shown(pointer).unwrap_or_else(|| "N/A".to_owned());
    vec![
        row.name().into(),
        bound("/spec/minAvailable").into(),
        bound("/spec/maxUnavailable").into(),
        row.number("/status/disruptionsAllowed").into(),
        row.age().into(),
    ]
}

/// A HorizontalPodAutoscaler, of version 1 (CPU in its own fields, the rest in annotations) or 2.
pub(super) fn autoscaler(row: Row<'_>) -> Vec<Value> {
    let targets = if row.text("/apiVersion") == "autoscaling/v1" {
        targets_of_v1(row)
    } else {
        let current: Vec<Row<'_>> = row.items("/status/currentMetrics").collect();
        let metrics = row.items("/spec/metrics").enumerate();
        metrics.map(|(at, metric)| target(metric, current.get(at).copied())).collect()
    };
    let shown_targets = match targets.len() {
        0 => NONE.to_owned(),
        1 | 2 => targets.join(", "),
        n => format!("{} + {} more...", targets[..2].join(", "), n - 2),
    };
    let reference = format!(
        "{}/{}",
        row.text("/spec/scaleTargetRef/kind"),
        row.text("/spec/scaleTargetRef/name")
    );
    vec![
        row.name().into(),
        reference.into(),
        shown_targets.into(),
        row.shown("/spec/minReplicas").unwrap_or_else(|| UNSET.to_owned()).into(),
        row.number("/spec/maxReplicas").into(),
        row.number("/status/currentReplicas").into(),
        row.age().into(),
    ]
}

/// One metric as `current/target`, with the name where it is a resource.
fn target(metric: Row<'_>, current: Option<Row<'_>>) -> String {
    let (field, named) = match metric.text("/type") {
        "Resource" => ("/resource", true),
        "ContainerResource" => ("/containerResource", true),
        "Pods" => ("/pods", false),
        "Object" => ("/object", false),
        "External" => ("/external", false),
        _ => return "<unknown type>".to_owned(),
    };
    let spec = metric.at(field);
    let current = current.map(|c| c.at(field)).filter(|c| c.get("").is_some());
    let now = |pointer: &str, unit: &str| {
        current
            .and_then(|c| c.shown(pointer))
            .map_or_else(|| "<unknown>".to_owned(), |value| value + unit)
    };
    let wanted = |pointer: &str| spec.shown(pointer);
    let text = if let Some(value) = wanted("/target/averageValue") {
        let pair = format!("{}/{value}", now("/current/averageValue", ""));
        let of_many = matches!(field, "/object" | "/external");
        if of_many { format!("{pair} (avg)") } else { pair }
    } else if named {
        let target = wanted("/target/averageUtilization").map_or("<auto>".to_owned(), |t| t + "%");
        format!("{}/{target}", now("/current/averageUtilization", "%"))
    } else {
        format!("{}/{}", now("/current/value", ""), wanted("/target/value").unwrap_or_default())
    };
    if named { format!("{}: {text}", spec.text("/name")) } else { text }
}

fn targets_of_v1(row: Row<'_>) -> Vec<String> {
    let annotation = |name: &str| -> Vec<Value> {
        let text =
            row.text(&format!("/metadata/annotations/autoscaling.alpha.kubernetes.io~1{name}"));
        serde_json::from_str(text).unwrap_or_default()
    };
    let mut targets = Vec::new();
    if let Some(wanted) = row.shown("/spec/targetCPUUtilizationPercentage") {
        let current = row.shown("/status/currentCPUUtilizationPercentage");
        let current = current.map_or_else(|| "<unknown>".to_owned(), |c| c + "%");
        targets.push(format!("cpu: {current}/{wanted}%"));
    }
    let current = annotation("current-metrics");
    for metric in annotation("metrics") {
        let metric = Row { object: &metric, now: row.now };
        targets.push(old_target(metric, &current));
    }
    targets
}

/// One metric in the form that version 1 keeps in annotations.
fn old_target(metric: Row<'_>, current: &[Value]) -> String {
    let field = match metric.text("/type") {
        "Resource" => "/resource",
        "ContainerResource" => "/containerResource",
        "Pods" => "/pods",
        "Object" => "/object",
        _ => "/external",
    };
    let spec = metric.at(field);
    let same = |name: &str| {
        current
            .iter()
            .map(|object| Row { object, now: metric.now }.at(field))
            .find(|c| c.get("").is_some() && c.text(name) == spec.text(name))
    };
    let known = |pointer: &str, unit: &str| {
        let name = if field.ends_with("esource") { "/name" } else { "/metricName" };
        let value = same(name).and_then(|c| c.shown(pointer));
        value.map_or_else(|| "<unknown>".to_owned(), |value| value + unit)
    };
    let wanted = |pointer: &str| spec.shown(pointer);
    let text = if let Some(target) = wanted("/targetAverageUtilization") {
        format!("{}/{target}%", known("/currentAverageUtilization", "%"))
    } else if let Some(target) = wanted("/targetAverageValue") {
        format!("{}/{target}", known("/currentAverageValue", ""))
    } else {
        format!("{}/{}", known("/currentValue", ""), wanted("/targetValue").unwrap_or_default())
    };
    if field.ends_with("esource") { format!("{}: {text}", spec.text("/name")) } else { text }
}
