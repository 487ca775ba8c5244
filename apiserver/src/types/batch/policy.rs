//! What a job does about pods that end: failure, success and replacement policies.
//!
//! Source: KEP-3329, KEP-3998, KEP-3939.

use std::collections::HashSet;

use schema::Cause;
use schema::print::{Fields, Shown};
use serde_json::{Value, json};

use crate::types::check::{At, Causes, items, text};
use crate::types::words;

/// Most rules of a policy, and most patterns of a rule.
const MOST_RULES: u64 = 20;
/// Most exit codes of a rule.
const MOST_CODES: u64 = 255;
/// Most bytes of a list of indexes.
const MOST_INDEX_BYTES: usize = 64 * 1024;

/// Whether a pod that failed is replaced at once, or when it has ended.
pub(super) fn replacement(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let policies: &[&str] = if spec["podFailurePolicy"].is_null() {
        &["Failed", "TerminatingOrFailed"]
    } else {
        &["Failed"]
    };
    causes.one_of(at, &spec["podReplacementPolicy"], policies);
}

/// When a job counts as successful, as Go shows it.
pub(super) const SUCCESS: Fields = &[("rules", Shown::List(RULE))];
const RULE: Fields = &[("succeededIndexes", Shown::Any), ("succeededCount", Shown::Any)];

/// When an indexed job counts as successful before all its pods are.
pub(super) fn success(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let policy = &spec["successPolicy"];
    if policy.is_null() {
        return;
    }
    if text(spec, "completionMode") != "Indexed" {
        return causes.invalid_part(at, SUCCESS, policy, "requires indexed completion mode");
    }
    let (rules_at, rules) = (at.field("rules"), items(&policy["rules"]));
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        causes.required(&rules_at, detail);
    }
    causes.at_most(&rules_at, rules.len(), MOST_RULES);
    for (n, rule) in rules.iter().enumerate() {
        success_rule(
            causes,
            &rules_at.index(n),
            rule,
            spec["completions"].as_i64().unwrap_or_default(),
        );
    }
}

fn success_rule(causes: &mut Causes, at: &At<'_>, rule: &Value, completions: i64) {
    let (count, indexes) = (rule["succeededCount"].as_i64(), rule["succeededIndexes"].as_str());
    if count.is_none() && indexes.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        causes.required(at, detail);
    }
    let mut n_indexes = 0;
    if let Some(indexes) = indexes {
        let at = at.field("succeededIndexes");
        if indexes.len() > MOST_INDEX_BYTES {
            causes.0.push(Cause::too_long(at.to_string(), MOST_INDEX_BYTES as u64));
        }
        match count_indexes(indexes, completions) {
            Ok(n) => n_indexes = n,
            Err(fault) => {
                let detail = format!("error parsing succeededIndexes: {fault}");
                causes.invalid(&at, &indexes.into(), &detail);
            }
        }
    }
    let Some(count) = count else { return };
    let at = at.field("succeededCount");
    causes.not_negative(&at, &count.into());
    let mut above = |most: i64, what: &str| {
        let detail = format!("must be less than or equal to {most} ({what})");
        causes.invalid(&at, &count.into(), &detail);
    };
    if count > completions {
        above(completions, "the number of specified completions");
    }
    if indexes.is_some() && count > n_indexes {
        above(n_indexes, "the number of indexes in the specified succeededIndexes field");
    }
}

/// How many indexes `0,2-4` names; each must be below `completions`, and they ascend.
fn count_indexes(indexes: &str, completions: i64) -> Result<i64, String> {
    if indexes.is_empty() {
        return Ok(0);
    }
    let index = |text: &str| -> Result<i64, String> {
        let index: i64 = text
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if index >= completions {
            return Err(format!("too large index: {text:?}"));
        }
        Ok(index)
    };
    let unordered = |before: i64, now: i64| {
        Err(format!("non-increasing order, previous: {before}, current: {now}"))
    };
    let (mut total, mut last) = (0, None);
    for interval in indexes.split(',') {
        let ends: Vec<&str> = interval.split('-').collect();
        let (first, end) = match ends.as_slice() {
            [one] => (index(one)?, index(one)?),
            [first, end] => (index(first)?, index(end)?),
            _ => {
                return Err(format!(
                    "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
                ));
            }
        };
        if ends.len() == 2 && first >= end {
            return unordered(first, end);
        }
        if let Some(last) = last.filter(|last| *last >= first) {
            return unordered(last, first);
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

/// What a pod's failure means for its job.
pub(super) fn failure(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let names: Vec<&str> = ["initContainers", "containers"]
        .iter()
        .flat_map(|list| items(&spec["template"]["spec"][*list]))
        .map(|c| text(c, "name"))
        .collect();
    let (rules_at, rules) = (at.field("rules"), items(&spec["podFailurePolicy"]["rules"]));
    causes.at_most(&rules_at, rules.len(), MOST_RULES);
    for (n, rule) in rules.iter().enumerate() {
        let at = rules_at.index(n);
        let action_at = at.field("action");
        let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
        causes.one_of_needed(&action_at, &rule["action"], &actions);
        if text(rule, "action") == "FailIndex" && spec["backoffLimitPerIndex"].is_null() {
            let detail = "requires the backoffLimitPerIndex to be set";
            causes.invalid(&action_at, &rule["action"], detail);
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
        pod_conditions(causes, &at.field("onPodConditions"), conditions);
    }
}

/// An invalid value that upstream does not show.
fn bare(causes: &mut Causes, at: &At<'_>, detail: &str) {
    let mut cause = Cause::invalid(at.to_string(), &Value::Null, detail);
    cause.message = format!("Invalid value: {detail}");
    causes.0.push(cause);
}

fn pod_conditions(causes: &mut Causes, at: &At<'_>, patterns: &[Value]) {
    causes.at_most(at, patterns.len(), MOST_RULES);
    for (n, pattern) in patterns.iter().enumerate() {
        let at = at.index(n);
        let kind = text(pattern, "type");
        causes.faults(&at.field("type"), kind, words::qualified(kind));
        let states = ["False", "True", "Unknown"];
        causes.one_of_needed(&at.field("status"), &pattern["status"], &states);
    }
}

fn exit_codes(causes: &mut Causes, at: &At<'_>, codes: &Value, names: &[&str]) {
    causes.one_of_needed(&at.field("operator"), &codes["operator"], &["In", "NotIn"]);
    if let Some(name) = codes["containerName"].as_str()
        && !names.contains(&name)
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        causes.invalid(&at.field("containerName"), &name.into(), detail);
    }
    let values_at = at.field("values");
    let values = items(&codes["values"]);
    if values.is_empty() {
        causes.invalid(&values_at, &codes["values"], "at least one value is required");
    }
    causes.at_most(&values_at, values.len(), MOST_CODES);
    let numbers: Vec<i64> = values.iter().filter_map(Value::as_i64).collect();
    let mut seen = HashSet::new();
    for (n, number) in numbers.iter().enumerate() {
        let at = values_at.index(n);
        if text(codes, "operator") == "In" && *number == 0 {
            causes.invalid(&at, &json!(number), "must not be 0 for the In operator");
        }
        if !seen.insert(number) {
            causes.duplicate(&at, &json!(number));
        }
    }
    if !numbers.is_sorted() {
        causes.invalid(&values_at, &codes["values"], "must be ordered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_counted() {
        assert_eq!(count_indexes("0,2-4", 5), Ok(4));
        assert_eq!(count_indexes("", 5), Ok(0));
        for bad in ["5", "a", "2-1", "1,1", "1-2-3", "0-5", "-1"] {
            assert!(count_indexes(bad, 5).is_err(), "{bad}");
        }
    }
}
