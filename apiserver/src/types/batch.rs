//! Jobs and cron jobs.

use std::collections::HashSet;

use schema::Cause;
use serde_json::{Value, json};

use super::check::{At, Causes, copy, default, ensure, flag, items, part, text};
use super::{Ctx, Strategy, pod};
use crate::status::ApiError;

/// Label with the job's uid, by which it finds its pods.
const UID: &str = "batch.kubernetes.io/controller-uid";
/// Labels that a job gives its pods; the short ones are from before they had a domain.
const LABELS: [(&str, bool); 4] = [
    (UID, true),
    ("batch.kubernetes.io/job-name", false),
    ("controller-uid", true),
    ("job-name", false),
];

/// Strategy of `jobs`.
pub(super) struct Jobs;

impl Strategy for Jobs {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = part(obj, "spec") else { return };
        default(spec, "completionMode", "NonIndexed");
        default(spec, "suspend", false);
        default(spec, "manualSelector", false);
        if spec["completions"].is_null() && spec["parallelism"].is_null() {
            spec["completions"] = 1.into();
        }
        default(spec, "parallelism", 1);
        if !spec["backoffLimitPerIndex"].is_null() {
            default(spec, "backoffLimit", i32::MAX);
        }
        default(spec, "backoffLimit", 6);
        let policy =
            if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
        default(spec, "podReplacementPolicy", policy);
        pod::template_default(spec);
        let labels = spec["template"]["metadata"]["labels"].clone();
        if super::check::is_empty(&obj["metadata"]["labels"]) && !super::check::is_empty(&labels) {
            ensure(obj, "metadata").insert("labels".to_owned(), labels);
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({});
        if flag(&obj["spec"], "manualSelector") || !obj["spec"]["template"].is_object() {
            return Ok(());
        }
        let (uid, name) = (obj["metadata"]["uid"].clone(), obj["metadata"]["name"].clone());
        let metadata = ensure(&mut obj["spec"]["template"], "metadata");
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        for (label, of_uid) in LABELS {
            if labels[label].is_null() {
                labels[label] = if of_uid { uid.clone() } else { name.clone() };
            }
        }
        if obj["spec"]["selector"].is_null() {
            obj["spec"]["selector"] = json!({});
        }
        if obj["spec"]["selector"]["matchLabels"][UID].is_null() {
            obj["spec"]["selector"]["matchLabels"][UID] = uid;
        }
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource == Some("status") {
            let at = At::new("status");
            for field in ["active", "succeeded", "failed", "ready", "terminating"] {
                causes.not_negative(&at.field(field), &obj["status"][field]);
            }
            return causes.0;
        }
        let at = At::new("spec");
        job_spec(&mut causes, &at, &obj["spec"]);
        selector(&mut causes, &at, obj);
        if let Some(old) = old {
            update(&mut causes, &obj["spec"], old);
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        pod::template_warnings(obj)
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

fn selector(causes: &mut Causes, at: &At<'_>, job: &Value) {
    let spec = &job["spec"];
    let selector_at = at.field("selector");
    if spec["selector"].is_null() {
        return causes.required(&selector_at, "");
    }
    causes.selector(&selector_at, &spec["selector"]);
    let labels = &spec["template"]["metadata"]["labels"];
    let wanted = &spec["selector"]["matchLabels"];
    if !super::check::members(wanted).all(|(k, v)| labels[k] == *v) {
        let template = at.field("template");
        let meta = template.field("metadata");
        causes.invalid(
            &meta.field("labels"),
            labels,
            "`selector` does not match template `labels`",
        );
    }
}

/// What jobs and the templates of cron jobs have in common.
fn job_spec(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        causes.not_negative(&at.field(field), &spec[field]);
    }
    let indexed = text(spec, "completionMode") == "Indexed";
    if indexed && spec["completions"].is_null() {
        causes.required(&at.field("completions"), "when completion mode is Indexed");
    }
    let per_index = !spec["backoffLimitPerIndex"].is_null();
    if per_index && !indexed {
        causes.invalid(
            &at.field("backoffLimitPerIndex"),
            &spec["backoffLimitPerIndex"],
            "requires indexed completion mode",
        );
    }
    if !spec["maxFailedIndexes"].is_null() && !per_index {
        causes.required(&at.field("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    success(causes, &at.field("successPolicy"), &spec["successPolicy"], indexed);
    failure(causes, &at.field("podFailurePolicy"), spec);
    let template_at = at.field("template");
    pod::template(causes, &template_at, &spec["template"]);
    let pod_at = template_at.field("spec");
    let policy = text(&spec["template"]["spec"], "restartPolicy");
    if matches!(policy, "" | "Always") {
        causes.required(&pod_at.field("restartPolicy"), "valid values: \"OnFailure\", \"Never\"");
    } else if !spec["podFailurePolicy"].is_null() && policy != "Never" {
        let detail = "only \"Never\" is supported when podFailurePolicy is specified";
        causes.invalid(&pod_at.field("restartPolicy"), &policy.into(), detail);
    }
}

fn success(causes: &mut Causes, at: &At<'_>, policy: &Value, indexed: bool) {
    if policy.is_null() {
        return;
    }
    if !indexed {
        return causes.invalid(at, policy, "requires indexed completion mode");
    }
    let rules = at.field("rules");
    if items(&policy["rules"]).is_empty() {
        causes.required(
            &rules,
            "at least one rules must be specified when the successPolicy is specified",
        );
    }
    for (n, rule) in items(&policy["rules"]).iter().enumerate() {
        let at = rules.index(n);
        if rule["succeededCount"].is_null() && rule["succeededIndexes"].is_null() {
            causes.required(
                &at,
                "at least one of succeededCount or succeededIndexes must be specified",
            );
        }
        causes.positive(&at.field("succeededCount"), &rule["succeededCount"]);
    }
}

fn failure(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let names: Vec<&str> = ["initContainers", "containers"]
        .iter()
        .flat_map(|list| items(&spec["template"]["spec"][*list]))
        .map(|c| text(c, "name"))
        .collect();
    let rules_at = at.field("rules");
    for (n, rule) in items(&spec["podFailurePolicy"]["rules"]).iter().enumerate() {
        let at = rules_at.index(n);
        let action = &rule["action"];
        if text(rule, "action").is_empty() {
            causes.required(
                &at.field("action"),
                "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
            );
        } else {
            causes.one_of(
                &at.field("action"),
                action,
                &["Count", "FailIndex", "FailJob", "Ignore"],
            );
        }
        let (codes, conditions) = (&rule["onExitCodes"], items(&rule["onPodConditions"]));
        match (codes.is_null(), conditions.is_empty()) {
            (true, true) => {
                bare(causes, &at, "specifying one of OnExitCodes and OnPodConditions is required")
            }
            (false, false) => bare(
                causes,
                &at,
                "specifying both OnExitCodes and OnPodConditions is not supported",
            ),
            _ => (),
        }
        if !codes.is_null() {
            exit_codes(causes, &at.field("onExitCodes"), codes, &names);
        }
    }
}

/// An invalid value that upstream does not show.
fn bare(causes: &mut Causes, at: &At<'_>, detail: &str) {
    let mut cause = Cause::invalid(at.to_string(), &Value::Null, detail);
    cause.message = format!("Invalid value: {detail}");
    causes.0.push(cause);
}

fn exit_codes(causes: &mut Causes, at: &At<'_>, codes: &Value, names: &[&str]) {
    if let Some(name) = codes["containerName"].as_str()
        && !names.contains(&name)
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        causes.invalid(&at.field("containerName"), &name.into(), detail);
    }
    let values_at = at.field("values");
    let values = items(&codes["values"]);
    if values.is_empty() {
        causes.invalid(&values_at, &json!([]), "at least one value is required");
    }
    let mut seen = HashSet::new();
    for (n, value) in values.iter().enumerate() {
        let at = values_at.index(n);
        let number = value.as_i64().unwrap_or_default();
        if text(codes, "operator") == "In" && number == 0 {
            causes.invalid(&at, value, "must not be 0 for the In operator");
        }
        if !seen.insert(number) {
            causes.duplicate(&at, value);
        }
    }
}

fn update(causes: &mut Causes, new: &Value, old: &Value) {
    let (at, status, old) = (At::new("spec"), &old["status"], &old["spec"]);
    // An indexed job may grow or shrink with its parallelism.
    let elastic = text(old, "completionMode") == "Indexed"
        && new["completions"] == new["parallelism"]
        && !new["completions"].is_null();
    if !elastic {
        causes.immutable(&at.field("completions"), &new["completions"], &old["completions"]);
    }
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        causes.immutable(&at.field(field), &new[field], &old[field]);
    }
    // Before it first starts, a suspended job may be moved.
    let mut expected = old["template"].clone();
    if flag(old, "suspend") && status["startTime"].is_null() {
        for field in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
            copy(&mut expected["spec"], &new["template"]["spec"], field);
        }
        for field in ["labels", "annotations"] {
            copy(&mut expected["metadata"], &new["template"]["metadata"], field);
        }
    }
    if expected != new["template"] {
        causes.invalid(&at.field("template"), &new["template"], "field is immutable");
    }
}

/// Strategy of `cronjobs`.
pub(super) struct CronJobs;

impl Strategy for CronJobs {
    fn default(&self, obj: &mut Value) {
        let template = part(obj, "spec").and_then(|spec| part(spec, "jobTemplate"));
        if let Some(job) = template.and_then(|template| part(template, "spec")) {
            pod::template_default(job);
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({});
        Ok(())
    }

    fn validate(&self, obj: &Value, _old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource.is_some() {
            return causes.0;
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        for field in
            ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"]
        {
            causes.not_negative(&at.field(field), &spec[field]);
        }
        let schedule = text(spec, "schedule");
        let schedule_at = at.field("schedule");
        if schedule.is_empty() {
            causes.required(&schedule_at, "");
        } else if schedule.contains("TZ") {
            causes.invalid(
                &schedule_at,
                &schedule.into(),
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            );
        } else if let Err(fault) = cron(schedule) {
            causes.invalid(&schedule_at, &schedule.into(), &fault);
        }
        if let Some(zone) = spec["timeZone"].as_str() {
            let known = !zone.is_empty()
                && !zone.eq_ignore_ascii_case("Local")
                && jiff::tz::TimeZone::get(zone).is_ok();
            if !known {
                causes.invalid(
                    &at.field("timeZone"),
                    &zone.into(),
                    &format!("unknown time zone {zone}"),
                );
            }
        }
        let template = at.field("jobTemplate");
        let job_at = template.field("spec");
        let job = &spec["jobTemplate"]["spec"];
        job_spec(&mut causes, &job_at, job);
        if !job["selector"].is_null() {
            causes.invalid(
                &job_at.field("selector"),
                &job["selector"],
                "`selector` will be auto-generated",
            );
        }
        if flag(job, "manualSelector") {
            causes.not_supported(&job_at.field("manualSelector"), &true.into(), &["nil", "false"]);
        }
        causes.0
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        let mut faults = super::words::subdomain(name);
        if name.len() > 52 {
            faults.push("must be no more than 52 bytes".to_owned());
        }
        faults
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// Faults of a schedule in cron's five fields or one of its names, in the words of upstream's parser.
///
/// Source: github.com/robfig/cron `spec.go`, "Cron spec format".
fn cron(schedule: &str) -> Result<(), String> {
    const FIELDS: [(u32, u32, &[&str]); 5] = [
        (0, 59, &[]),
        (0, 23, &[]),
        (1, 31, &[]),
        (
            1,
            12,
            &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
        ),
        (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
    ];
    if schedule.starts_with('@') {
        let named =
            ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
        let every = schedule
            .strip_prefix("@every ")
            .is_some_and(|d| d.starts_with(|c: char| c.is_ascii_digit()));
        return if named.contains(&schedule) || every {
            Ok(())
        } else {
            Err(format!("unrecognized descriptor: {schedule}"))
        };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    }
    for (field, (low, high, names)) in fields.iter().zip(FIELDS) {
        for range in field.split(',').filter(|r| !r.is_empty()) {
            cron_range(range, low, high, names)?;
        }
    }
    Ok(())
}

fn cron_range(range: &str, low: u32, high: u32, names: &[&str]) -> Result<(), String> {
    let parts: Vec<&str> = range.split('/').collect();
    let (bounds, step) = match parts.as_slice() {
        [bounds] => (*bounds, None),
        [bounds, step] => (*bounds, Some(*step)),
        _ => return Err(format!("too many slashes: {range}")),
    };
    let number = |text: &str| -> Result<u32, String> {
        let name = names.iter().position(|n| *n == text.to_ascii_lowercase());
        match name {
            Some(n) => Ok(u32::try_from(n).unwrap_or_default() + low),
            None => text.parse().map_err(|_| {
                format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
            }),
        }
    };
    let ends: Vec<&str> = bounds.split('-').collect();
    let (start, mut end) = match ends.as_slice() {
        ["*" | "?"] => (low, high),
        [one] => (number(one)?, number(one)?),
        [first, last] => (number(first)?, number(last)?),
        _ => return Err(format!("too many hyphens: {range}")),
    };
    let step = step.map(number).transpose()?;
    if step.is_some() && ends.len() == 1 {
        end = end.max(high);
    }
    if start < low {
        return Err(format!("beginning of range ({start}) below minimum ({low}): {range}"));
    }
    if end > high {
        return Err(format!("end of range ({end}) above maximum ({high}): {range}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {range}"));
    }
    if step == Some(0) {
        return Err(format!("step of range should be a positive number: {range}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_of_jobs() {
        let mut job = json!({"spec": {"template": {"spec": {}}}});
        Jobs.default(&mut job);
        let spec = &job["spec"];
        assert_eq!(
            (&spec["completions"], &spec["parallelism"], &spec["backoffLimit"]),
            (&json!(1), &json!(1), &json!(6))
        );
        let mut queue = json!({"spec": {"parallelism": 2, "backoffLimitPerIndex": 1}});
        Jobs.default(&mut queue);
        assert!(queue["spec"]["completions"].is_null());
        assert_eq!(queue["spec"]["backoffLimit"], i32::MAX);
    }

    #[test]
    fn schedules() {
        for good in ["*/5 * * * *", "0 1 * * *", "@hourly", "1,2-4/2 0 1 JAN mon", "@every 1h"] {
            assert_eq!(cron(good), Ok(()), "{good}");
        }
        assert_eq!(cron("61 * * * *"), Err("end of range (61) above maximum (59): 61".into()));
        for bad in [
            "* * * *",
            "@often",
            "a * * * *",
            "5-1 * * * *",
            "* * 0 * *",
            "*/0 * * * *",
            "1/2/3 * * * *",
        ] {
            assert!(cron(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_running_job_keeps_its_template() {
        let job = |suspended: bool, node: &str| json!({"spec": {"suspend": suspended, "completions": 1, "parallelism": 1, "template": {"metadata": {}, "spec": {"nodeSelector": {"n": node}}}}, "status": {}});
        for (suspended, faults) in [(true, 0), (false, 1)] {
            let mut causes = Causes::default();
            update(&mut causes, &job(suspended, "b")["spec"], &job(suspended, "a"));
            assert_eq!(causes.0.len(), faults);
        }
    }
}
