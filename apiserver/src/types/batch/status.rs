//! What a job's status may become.
//!
//! Whoever looks after a job tells how it goes; it must fit together, and what is over stays over. A rule is
//! asked only where what it looks at has changed, so that a status that was wrong before can still be written.
//!
//! Source: KEP-4368 (managed by).

use serde_json::{Value, json};

use super::super::check::{At, Causes, flag, items, text};

/// One state of a job: its specification and what was observed.
#[derive(Clone, Copy)]
struct Job<'v> {
    spec: &'v Value,
    status: &'v Value,
}

impl<'v> Job<'v> {
    fn new(object: &'v Value) -> Self {
        Self { spec: &object["spec"], status: &object["status"] }
    }

    fn has(self, kind: &str, status: &str) -> bool {
        let conditions = items(&self.status["conditions"]).iter();
        conditions.into_iter().any(|c| text(c, "type") == kind && text(c, "status") == status)
    }

    fn is(self, kind: &str) -> bool {
        self.has(kind, "True")
    }

    fn is_finished(self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    fn number(self, field: &str) -> i64 {
        self.status[field].as_i64().unwrap_or_default()
    }

    fn is_indexed(self) -> bool {
        text(self.spec, "completionMode") == "Indexed"
    }
}

/// A change of status, with what changed.
struct Update<'v> {
    new: Job<'v>,
    old: Job<'v>,
}

impl Update<'_> {
    fn changes(&self, field: &str) -> bool {
        let (new, old) = (&self.new.status[field], &self.old.status[field]);
        match (new, old) {
            // A count that is absent is none.
            (Value::Null, Value::Number(n)) | (Value::Number(n), Value::Null)
                if matches!(field, "active" | "succeeded" | "failed") =>
            {
                n.as_i64() != Some(0)
            }
            (Value::Null, Value::String(text)) | (Value::String(text), Value::Null)
                if field == "completedIndexes" =>
            {
                !text.is_empty()
            }
            _ => new != old,
        }
    }

    fn turns(&self, kind: &str) -> bool {
        self.new.is(kind) != self.old.is(kind)
    }
}

/// Everything that is wrong with the status of `new`, which was `old`'s.
pub(super) fn update(causes: &mut Causes, new: &Value, old: &Value) {
    let update = Update { new: Job::new(new), old: Job::new(old) };
    let at = At::new("status");
    counts(causes, &at, update.new);
    ends(causes, &at, &update);
    finished(causes, &at, &update);
    indexes(causes, &at, &update);
    if (update.changes("ready") || update.changes("active"))
        && update.new.number("ready") > update.new.number("active")
        && !update.new.status["ready"].is_null()
    {
        let detail = "cannot set more ready pods than active";
        causes.invalid(&at.field("ready"), &update.new.status["ready"], detail);
    }
    success(causes, &at, &update);
    stays(causes, &at, &update);
}

fn counts(causes: &mut Causes, at: &At<'_>, job: Job<'_>) {
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        causes.not_negative(&at.field(field), &job.status[field]);
    }
    let at = at.field("uncountedTerminatedPods");
    let mut seen = Vec::new();
    for field in ["succeeded", "failed"] {
        let list = at.field(field);
        for (n, uid) in items(&job.status["uncountedTerminatedPods"][field]).iter().enumerate() {
            if uid == "" {
                causes.invalid(&list.index(n), uid, "must not be empty");
            } else if seen.contains(&uid) {
                causes.duplicate(&list.index(n), uid);
            } else {
                seen.push(uid);
            }
        }
    }
}

/// Whether the ways to end exclude each other, and say when.
fn ends(causes: &mut Causes, at: &At<'_>, update: &Update<'_>) {
    let (new, conditions) = (update.new, at.field("conditions"));
    let mut refuse = |detail: &str| causes.0.push(bare(&conditions, detail));
    let complete = new.is("Complete");
    if (update.turns("Complete") || update.turns("Failed")) && complete && new.is("Failed") {
        refuse("cannot set Complete=True and Failed=true conditions");
    }
    if (update.turns("Complete") || update.turns("FailureTarget"))
        && complete
        && new.is("FailureTarget")
    {
        refuse("cannot set Complete=True and FailureTarget=true conditions");
    }
    let (start, end) = (&new.status["startTime"], &new.status["completionTime"]);
    let end_at = at.field("completionTime");
    if update.turns("Complete") || update.changes("completionTime") {
        if !end.is_null() && !complete {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            causes.invalid(&end_at, end, detail);
        }
        if end.is_null() && complete {
            causes.required(&end_at, "completionTime is required for Complete jobs");
        }
    }
    // Times are in one form, which sorts.
    if (update.changes("startTime") || update.changes("completionTime"))
        && matches!((start.as_str(), end.as_str()), (Some(start), Some(end)) if end < start)
    {
        causes.invalid(&end_at, end, "must be equal to or after `startTime`");
    }
    let mut refuse = |detail: &str| causes.0.push(bare(&conditions, detail));
    if (update.turns("Failed") || update.changes("failedIndexes"))
        && new.is("Failed")
        && !new.is("FailureTarget")
    {
        refuse("cannot set Failed=True condition without the FailureTarget=true condition");
    }
    if (update.turns("Complete") || update.turns("SuccessCriteriaMet"))
        && complete
        && !new.is("SuccessCriteriaMet")
    {
        refuse("cannot set Complete=True condition without the SuccessCriteriaMet=true condition");
    }
}

/// A job that is over has begun, and has no pods that are still to be counted.
fn finished(causes: &mut Causes, at: &At<'_>, update: &Update<'_>) {
    let new = update.new;
    if !new.is_finished() {
        return;
    }
    let ends = !update.old.is_finished();
    if (ends || update.changes("active")) && new.number("active") > 0 {
        let detail = "active>0 is invalid for finished job";
        causes.invalid(&at.field("active"), &new.status["active"], detail);
    }
    let never_ran = flag(new.spec, "suspend") && new.spec["completions"] == 0;
    if (ends || update.changes("startTime")) && !never_ran && new.status["startTime"].is_null() {
        causes.required(&at.field("startTime"), "startTime is required for finished job");
    }
    let pods = &new.status["uncountedTerminatedPods"];
    let uncounted = ["succeeded", "failed"].iter().any(|list| !items(&pods[*list]).is_empty());
    if (ends || update.changes("uncountedTerminatedPods")) && uncounted {
        let detail = "must be empty for finished job";
        causes.invalid(&at.field("uncountedTerminatedPods"), pods, detail);
    }
    if (ends || update.changes("terminating")) && new.number("terminating") > 0 {
        let detail = "terminating>0 is invalid for finished job";
        causes.invalid(&at.field("terminating"), &new.status["terminating"], detail);
    }
}

/// Indexes are in order, below the number of completions, and in one of the lists.
fn indexes(causes: &mut Causes, at: &At<'_>, update: &Update<'_>) {
    let new = update.new;
    let completions = new.spec["completions"].as_i64();
    let (done, failed) = (text(new.status, "completedIndexes"), &new.status["failedIndexes"]);
    let (done_at, failed_at) = (at.field("completedIndexes"), at.field("failedIndexes"));
    let (done_changes, failed_changes) =
        (update.changes("completedIndexes"), update.changes("failedIndexes"));
    let limited = !new.spec["backoffLimitPerIndex"].is_null();
    if done_changes && let Some(Err(fault)) = completions.map(|n| intervals(done, n)) {
        let detail = format!("error parsing completedIndexes: {fault}");
        causes.invalid(&done_at, &done.into(), &detail);
    }
    let failed_text = failed.as_str().unwrap_or_default();
    if failed_changes
        && limited
        && let Some(Err(fault)) = completions.map(|n| intervals(failed_text, n))
    {
        let detail = format!("error parsing failedIndexes: {fault}");
        causes.invalid(&failed_at, failed, &detail);
    }
    if done_changes && !done.is_empty() && !new.is_indexed() {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        causes.invalid(&done_at, &done.into(), detail);
    }
    if failed_changes && !limited && !failed.is_null() {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        causes.invalid(&failed_at, failed, detail);
    }
    if (done_changes || failed_changes)
        && let Some(index) = completions.and_then(|n| overlap(done, failed_text, n))
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
        causes.invalid(&failed_at, failed, &detail);
    }
}

type Interval = (i64, i64);

/// `1,3-5,7`: intervals that rise and stay below `completions`.
fn intervals(list: &str, completions: i64) -> Result<Vec<Interval>, String> {
    let mut all: Vec<Interval> = Vec::new();
    for part in list.split(',').filter(|_| !list.is_empty()) {
        let (first, last) = interval(part, completions)?;
        if let Some((_, before)) = all.last().filter(|(_, before)| *before >= first) {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        all.push((first, last));
    }
    Ok(all)
}

fn interval(part: &str, completions: i64) -> Result<Interval, String> {
    let number = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
        Ok(n) if n >= completions => Err(format!("too large index: {text:?}")),
        Ok(n) => Ok(n),
    };
    match part.split('-').collect::<Vec<_>>().as_slice() {
        [one] => number(one).map(|n| (n, n)),
        [first, last] => match (number(first)?, number(last)?) {
            (first, last) if first >= last => {
                Err(format!("non-increasing order, previous: {first}, current: {last}"))
            }
            both => Ok(both),
        },
        _ => Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

/// The first index that is in both lists; what cannot be read is told elsewhere.
fn overlap(one: &str, other: &str, completions: i64) -> Option<i64> {
    let read = |list: &str| -> Vec<Interval> {
        list.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let other = read(other);
    read(one).into_iter().find_map(|(first, last)| {
        let hit = other.iter().find(|(from, to)| first <= *to && *from <= last);
        hit.map(|(from, _)| first.max(*from))
    })
}

/// What meets the criteria of success neither fails nor completes for another reason.
fn success(causes: &mut Causes, at: &At<'_>, update: &Update<'_>) {
    let (new, at) = (update.new, at.field("conditions"));
    let met = new.is("SuccessCriteriaMet");
    let mut refuse = |detail: &str| causes.0.push(bare(&at, detail));
    if met && new.is("Failed") {
        refuse("cannot set SuccessCriteriaMet=True and Failed=true conditions");
    }
    if met && new.is("FailureTarget") {
        refuse("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    if !new.spec["successPolicy"].is_null() && !met && new.is("Complete") {
        refuse(
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        );
    }
}

/// What once was said is not taken back.
fn stays(causes: &mut Causes, at: &At<'_>, update: &Update<'_>) {
    let (new, old, conditions) = (update.new, update.old, at.field("conditions"));
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if old.is(kind) && !new.is(kind) {
            let detail = format!("cannot disable the terminal {kind}=True condition");
            causes.0.push(bare(&conditions, &detail));
        }
    }
    // An indexed job that shrinks may have done less than before.
    let elastic = new.is_indexed() && new.spec["completions"] == new.spec["parallelism"];
    for (field, may_shrink) in [("failed", false), ("succeeded", elastic)] {
        if !may_shrink && new.number(field) < old.number(field) {
            let detail = format!("cannot decrease the {field} counter");
            causes.invalid(&at.field(field), &json!(new.number(field)), &detail);
        }
    }
    let (end, before) = (&new.status["completionTime"], &old.status["completionTime"]);
    if !end.is_null() && !before.is_null() {
        causes.immutable(&at.field("completionTime"), end, before);
    }
    let resumes = old.is("Suspended") && new.has("Suspended", "False");
    let (start, before) = (&new.status["startTime"], &old.status["startTime"]);
    if start != before && !before.is_null() && !resumes && !flag(new.spec, "suspend") {
        let detail = "field is immutable for unsuspended job once set";
        causes.invalid(&at.field("startTime"), start, detail);
    }
    let (met, was_met) = (new.is("SuccessCriteriaMet"), old.is("SuccessCriteriaMet"));
    if was_met && !met {
        let detail = "cannot disable the SuccessCriteriaMet=True condition";
        causes.0.push(bare(&conditions, detail));
    }
    if old.is("Complete") && !was_met && met {
        let detail =
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        causes.0.push(bare(&conditions, detail));
    }
}

/// A fault of a list that is too long to be shown.
fn bare(at: &At<'_>, detail: &str) -> schema::Cause {
    schema::Cause {
        reason: schema::cause::Reason::Invalid,
        field: at.to_string(),
        message: format!("Invalid value: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spec: Value, old: Value, new: Value, expected: &[&str]) {
        let mut causes = Causes::default();
        let job = |status: Value| json!({ "spec": spec, "status": status });
        update(&mut causes, &job(new), &job(old));
        let fields: Vec<&str> = causes.0.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(fields, expected);
    }

    fn conditions(kinds: &[&str]) -> Value {
        kinds.iter().map(|kind| json!({ "type": kind, "status": "True" })).collect()
    }

    #[test]
    fn what_is_over_has_times_and_its_criterion() {
        let done = json!({ "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z",
            "conditions": conditions(&["SuccessCriteriaMet", "Complete"]) });
        check(json!({}), json!({}), done.clone(), &[]);
        check(
            json!({}),
            done.clone(),
            json!({}),
            &["status.conditions", "status.startTime", "status.conditions"],
        );
        let bare = json!({ "conditions": conditions(&["Complete"]) });
        check(
            json!({}),
            json!({}),
            bare,
            &["status.completionTime", "status.conditions", "status.startTime"],
        );
        let both = json!({ "startTime": "t", "conditions": conditions(&["Failed"]) });
        check(json!({}), json!({}), both, &["status.conditions"]);
    }

    #[test]
    fn counts_only_rise() {
        let (spec, old) = (json!({}), json!({ "failed": 2, "succeeded": 2 }));
        check(spec, old.clone(), json!({}), &["status.failed", "status.succeeded"]);
        let elastic = json!({ "completionMode": "Indexed", "completions": 1, "parallelism": 1 });
        check(elastic, old, json!({ "failed": 2 }), &[]);
    }

    #[test]
    fn indexes_rise_below_the_completions() {
        assert_eq!(intervals("0,2-4,6", 7), Ok(vec![(0, 0), (2, 4), (6, 6)]));
        for bad in ["x", "1,1", "3-2", "7", "1-2-3", "2,"] {
            assert!(intervals(bad, 7).is_err(), "{bad}");
        }
        assert_eq!(overlap("0-2,5", "3,5-6", 9), Some(5));
        assert_eq!(overlap("0-2", "3", 9), None);
    }

    #[test]
    fn a_wrong_status_of_before_may_stay() {
        let wrong = json!({ "ready": 5, "conditions": conditions(&["Complete"]) });
        check(json!({}), wrong.clone(), wrong, &[]);
    }
}
