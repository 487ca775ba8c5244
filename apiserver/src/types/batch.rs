//! Jobs and cron jobs.

mod cron;
mod policy;
mod status;

use schema::Cause;
use serde_json::{Value, json};

use super::check::{At, Causes, copy, default, ensure, flag, part, text};
use super::{Ctx, Strategy, conditions, pod, words};
use crate::registry::Selectable;
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
    fn selectable(&self) -> Vec<Selectable> {
        vec![Selectable::new("status.succeeded").labelled("status.successful").or("0")]
    }

    fn unselectable(&self, field: &str) -> Option<String> {
        Some(format!("field label {field:?} not supported for Job"))
    }

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
    }

    fn inherit(&self, obj: &mut Value) {
        pod::template_labels(obj);
    }

    fn prepare_create(&self, ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({});
        if flag(&obj["spec"], "manualSelector") || !obj["spec"]["template"].is_object() {
            return Ok(());
        }
        let inherits = ctx.unlabelled
            && !super::check::is_empty(&obj["spec"]["template"]["metadata"]["labels"]);
        let given = |field: &str| Value::from(text(&obj["metadata"], field));
        let (uid, name) = (given("uid"), given("name"));
        let metadata = ensure(&mut obj["spec"]["template"], "metadata");
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        for (label, of_uid) in LABELS {
            if labels[label].is_null() {
                labels[label] = if of_uid { uid.clone() } else { name.clone() };
            }
        }
        if inherits {
            // Its labels are the template's, those of this moment included.
            let labels = obj["spec"]["template"]["metadata"]["labels"].clone();
            ensure(obj, "metadata").insert("labels".to_owned(), labels);
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
        if let (Some("status"), Some(old)) = (subresource, old) {
            status::update(&mut causes, obj, old);
            return causes.0;
        }
        let at = At::new("spec");
        job_spec(&mut causes, &at, &obj["spec"]);
        selector(&mut causes, &at, obj);
        if let Some(old) = old {
            // Upstream judges a new specification as such, and once more as one that replaces another.
            causes.0.extend_from_within(..);
            update(&mut causes, &obj["spec"], old);
        }
        generated(&mut causes, obj, old);
        pod_names(&mut causes, obj);
        causes.0
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        pod::workload_warnings(obj, old, "spec.template")
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// Whether the labels and the selector are those that the job was given, unless it has its own.
fn generated(causes: &mut Causes, job: &Value, old: Option<&Value>) {
    let spec = &job["spec"];
    if flag(spec, "manualSelector") || spec["selector"].is_null() {
        return;
    }
    let had = |label: &str| {
        !old.is_some_and(|old| old["spec"]["template"]["metadata"]["labels"][label].is_null())
    };
    let with_domain = LABELS[..2].iter().all(|(label, _)| had(label));
    let at = At::new("spec.template.metadata.labels");
    let labels = &spec["template"]["metadata"]["labels"];
    let mut expected = json!({});
    for (label, of_uid) in LABELS.into_iter().filter(|(l, _)| with_domain || !l.contains('/')) {
        let value = text(&job["metadata"], if of_uid { "uid" } else { "name" });
        expected[label] = value.into();
        let detail = format!("must be '{value}'");
        match labels[label].as_str() {
            None => causes.required(&at.key(label), &detail),
            Some(given) if given != value => causes.invalid(&at.key(label), labels, &detail),
            Some(_) => (),
        }
    }
    let wanted = &spec["selector"]["matchLabels"];
    if !super::check::members(wanted).all(|(label, value)| expected[label] == *value) {
        let spec_at = At::new("spec");
        causes.invalid(
            &spec_at.field("selector"),
            &spec["selector"],
            "`selector` not auto-generated",
        );
    }
}

/// The pods of an indexed job are named by the job's name and their number.
fn pod_names(causes: &mut Causes, job: &Value) {
    let spec = &job["spec"];
    let Some(n) = spec["completions"].as_i64().filter(|n| *n > 0) else { return };
    if text(spec, "completionMode") != "Indexed" {
        return;
    }
    let name = text(&job["metadata"], "name");
    let last = format!("{name}-{}", n - 1);
    if !words::label(&last).is_empty() {
        let detail = format!("will not able to create pod with invalid DNS label: {last}");
        causes.invalid(&At::new("metadata.name"), &name.into(), &detail);
    }
}

fn selector(causes: &mut Causes, at: &At<'_>, job: &Value) {
    let spec = &job["spec"];
    let selector_at = at.field("selector");
    if spec["selector"].is_null() {
        causes.required(&selector_at, "");
    }
    causes.selector(&selector_at, &spec["selector"]);
    let labels = &spec["template"]["metadata"]["labels"];
    let wanted = &spec["selector"]["matchLabels"];
    // No selector selects nothing.
    if spec["selector"].is_null() || !super::check::members(wanted).all(|(k, v)| labels[k] == *v) {
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
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        causes.required(&at.field("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = spec["managedBy"].as_str() {
        managed_by(causes, &at.field("managedBy"), manager);
    }
    match spec["completionMode"].as_str() {
        Some("Indexed") => indexed(causes, at, spec),
        None | Some("NonIndexed") => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if !spec[field].is_null() {
                    let detail = "requires indexed completion mode";
                    causes.invalid(&at.field(field), &spec[field], detail);
                }
            }
        }
        Some(_) => {
            let modes = ["NonIndexed", "Indexed"];
            causes.not_supported(&at.field("completionMode"), &spec["completionMode"], &modes);
        }
    }
    policy::failure(causes, &at.field("podFailurePolicy"), spec);
    policy::success(causes, &at.field("successPolicy"), spec);
    policy::replacement(causes, &at.field("podReplacementPolicy"), spec);
    let template_at = at.field("template");
    pod::template(causes, &template_at, &spec["template"]);
    let pod_at = template_at.field("spec");
    restart_policy(causes, &pod_at.field("restartPolicy"), spec);
}

/// A job ends, so its pods must.
fn restart_policy(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let policy = &spec["template"]["spec"]["restartPolicy"];
    match policy.as_str().unwrap_or_default() {
        "" | "Always" => causes.required(at, "valid values: \"OnFailure\", \"Never\""),
        "Never" => (),
        "OnFailure" => {
            if !spec["podFailurePolicy"].is_null() {
                let detail = "only \"Never\" is supported when podFailurePolicy is specified";
                causes.invalid(at, policy, detail);
            }
        }
        _ => causes.not_supported(at, policy, &["OnFailure", "Never"]),
    }
}

/// Limits of a job whose pods have numbers.
fn indexed(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    const MOST: i64 = 100_000;
    const MOST_PARALLEL_OF_MANY: i64 = 10_000;
    let number = |field: &str| spec[field].as_i64();
    let (parallelism, failed) = (number("parallelism"), number("maxFailedIndexes"));
    let mut above = |field: &str, value: Option<i64>, detail: &str| {
        causes.invalid(
            &at.field(field),
            &json!(value),
            &format!("must be less than or equal to {detail}"),
        );
    };
    if parallelism.is_some_and(|n| n > MOST) {
        above("parallelism", parallelism, "100000 when completion mode is Indexed");
    }
    let completions = number("completions");
    if completions.is_some_and(|all| failed.is_some_and(|n| n > all)) {
        above("maxFailedIndexes", failed, "completions");
    }
    if failed.is_some_and(|n| n > MOST) {
        above("maxFailedIndexes", failed, "100000");
    }
    let many = completions.is_some_and(|n| n > MOST) && !spec["backoffLimitPerIndex"].is_null();
    if many {
        let detail =
            "10000 when completions are above 100000 and used with backoff limit per index";
        for (field, value) in [("parallelism", parallelism), ("maxFailedIndexes", failed)] {
            if value.is_some_and(|n| n > MOST_PARALLEL_OF_MANY) {
                above(field, value, detail);
            }
        }
        if failed.is_none() {
            let detail = "must be specified when completions is above 100000";
            causes.required(&at.field("maxFailedIndexes"), detail);
        }
    }
    if completions.is_none() {
        causes.required(&at.field("completions"), "when completion mode is Indexed");
    }
}

/// Who looks after the job, as a path below a domain.
fn managed_by(causes: &mut Causes, at: &At<'_>, manager: &str) {
    const MOST_BYTES: u64 = 63;
    causes.domain_path(at, manager);
    if manager.len() as u64 > MOST_BYTES {
        causes.0.push(Cause::too_long(at.to_string(), MOST_BYTES));
    }
}

fn update(causes: &mut Causes, new: &Value, old: &Value) {
    let (at, job, old) = (At::new("spec"), old, &old["spec"]);
    completions(causes, &at.field("completions"), new, old);
    for field in
        ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy"]
    {
        causes.immutable(&at.field(field), &new[field], &old[field]);
    }
    let (success, old_success) = (&new["successPolicy"], &old["successPolicy"]);
    causes.immutable_part(&at.field("successPolicy"), policy::SUCCESS, success, old_success);
    template(causes, &at.field("template"), &new["template"], job);
}

/// An indexed job may grow or shrink with its parallelism, others keep their size.
fn completions(causes: &mut Causes, at: &At<'_>, new: &Value, old: &Value) {
    let wanted = &new["completions"];
    if text(new, "completionMode") != "Indexed" {
        causes.immutable(at, wanted, &old["completions"]);
    } else if *wanted != old["completions"] && !wanted.is_null() && *wanted != new["parallelism"] {
        causes.invalid(at, wanted, "can only be modified in tandem with spec.parallelism");
    }
}

/// While a suspended job has no pods, they may be moved and given other resources.
fn template(causes: &mut Causes, at: &At<'_>, new: &Value, job: &Value) {
    let old = &job["spec"]["template"];
    if !is_idle(job) {
        if new != old {
            causes.invalid(at, new, "field is immutable");
        }
        return;
    }
    let mut expected = old["spec"].clone();
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        copy(&mut expected, &new["spec"], field);
    }
    affinity(&mut expected, &new["spec"]["affinity"]);
    for list in ["containers", "initContainers"] {
        resources(&mut expected, &new["spec"], list);
    }
    if expected != new["spec"] {
        causes.invalid(&at.field("spec"), &new["spec"], "field is immutable");
    }
}

/// Whether the job is suspended, and has no pods.
fn is_idle(job: &Value) -> bool {
    let status = &job["status"];
    let stopped = conditions::is_true(job, "Suspended");
    flag(&job["spec"], "suspend")
        && (status["startTime"].is_null() || stopped)
        && status["active"].as_i64().unwrap_or_default() == 0
}

/// Takes over which nodes pods want; which pods they want beside them stays.
fn affinity(spec: &mut Value, wanted: &Value) {
    let mut merged = spec["affinity"].as_object().cloned().unwrap_or_default();
    merged.remove("nodeAffinity");
    if let Some(nodes) = wanted.get("nodeAffinity") {
        merged.insert("nodeAffinity".to_owned(), nodes.clone());
    }
    if merged.is_empty() && wanted.is_null() {
        super::check::remove(spec, "affinity");
    } else {
        spec["affinity"] = merged.into();
    }
}

/// Takes over the resources of containers that are still the same.
fn resources(spec: &mut Value, wanted: &Value, list: &str) {
    let wanted = super::check::items(&wanted[list]);
    if super::check::items(&spec[list]).len() != wanted.len() {
        return;
    }
    for (container, wanted) in super::check::items_mut(spec, list).zip(wanted) {
        if container["name"] == wanted["name"] {
            copy(container, wanted, "resources");
        }
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
            if let Err(fault) = cron::zone_of(schedule) {
                causes.invalid(&schedule_at, &schedule.into(), &fault);
            }
        } else if let Err(fault) = cron::schedule(schedule) {
            causes.invalid(&schedule_at, &schedule.into(), &fault);
        }
        if let Some(zone) = spec["timeZone"].as_str() {
            causes.faults(&at.field("timeZone"), zone, cron::zone(zone));
        }
        let concurrency = ["Allow", "Forbid", "Replace"];
        let policy = &spec["concurrencyPolicy"];
        causes.one_of(&at.field("concurrencyPolicy"), policy, &concurrency);
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

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        pod::workload_warnings(obj, old, "spec.jobTemplate.spec.template")
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        let mut faults = super::words::subdomain(name);
        if name.len() > 52 {
            faults.push("must be no more than 52 characters".to_owned());
        }
        faults
    }

    fn counts_generation(&self) -> bool {
        true
    }
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
    fn a_running_job_keeps_its_template() {
        let job = |suspended: bool, node: &str| json!({"spec": {"suspend": suspended, "completions": 1, "parallelism": 1, "template": {"metadata": {}, "spec": {"nodeSelector": {"n": node}}}}, "status": {}});
        for (suspended, faults) in [(true, 0), (false, 1)] {
            let mut causes = Causes::default();
            update(&mut causes, &job(suspended, "b")["spec"], &job(suspended, "a"));
            assert_eq!(causes.0.len(), faults);
        }
    }
}
