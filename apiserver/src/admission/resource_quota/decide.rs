//! Whether a request fits its namespace's quotas, and what it is charged. No I/O.

use std::collections::BTreeSet;

use jiff::Timestamp;
use quota::{Amount, Amounts, Evaluator, Selector};
use serde_json::Value;

use super::config::Limited;
use crate::types::check::text;

/// A quota as far as it counts here.
#[derive(Debug, Clone)]
pub(super) struct Quota {
    pub(super) name: String,
    hard: Amounts,
    used: Amounts,
    selectors: Vec<Selector>,
}

impl Quota {
    pub(super) fn read(object: &Value) -> Self {
        Self {
            name: text(&object["metadata"], "name").to_owned(),
            hard: Amounts::read(&object["status"]["hard"]),
            used: Amounts::read(&object["status"]["used"]),
            selectors: Selector::of_quota(&object["spec"]),
        }
    }

    /// What is used once `delta` is charged; `lenient` is for what cannot be taken back.
    ///
    /// # Errors
    /// It does not fit, in upstream's words.
    pub(super) fn charge(&self, delta: &Amounts, lenient: bool) -> Result<Amounts, String> {
        let requested = delta.only(|name| self.hard.get(name).is_some());
        let mut used = self.used.clone();
        used.add_all(&requested);
        let over = |name: &str| {
            let (used, hard) = (used.get(name), self.hard.get(name));
            requested.get(name).is_some()
                && used.zip(hard).is_some_and(|(used, hard)| used.nano > hard.nano)
        };
        let exceeded = requested.only(over);
        if exceeded.is_empty() || lenient {
            return Ok(used);
        }
        Err(format!(
            "exceeded quota: {}, requested: {exceeded}, used: {}, limited: {}",
            self.name,
            self.used.only(over),
            self.hard.only(over)
        ))
    }
}

/// A request under admission.
pub(super) struct Request<'a> {
    pub(super) evaluator: Evaluator<'a>,
    pub(super) object: &'a Value,
    /// On updates.
    pub(super) old: Option<&'a Value>,
    pub(super) now: Timestamp,
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// As `pods "a" is forbidden: …`.
    Forbidden(String),
    /// As it is; upstream has no status for it.
    Bare(String),
}

/// What a request is charged against which quotas, by their position.
///
/// # Errors
/// The request does not say what it must, or nothing covers it.
pub(super) fn charges(
    quotas: &[Quota],
    request: &Request<'_>,
    limited: &[Limited],
) -> Result<Vec<(usize, Amounts)>, Refusal> {
    let evaluator = &request.evaluator;
    let mut concerned = Vec::new();
    let mut covered = BTreeSet::new();
    for (n, quota) in quotas.iter().enumerate() {
        let tracked: BTreeSet<&str> =
            quota.hard.names().filter(|name| evaluator.tracks(name)).collect();
        if tracked.is_empty() || !evaluator.fits_all(&quota.selectors, request.object) {
            continue;
        }
        if let Some(why) = evaluator.unspecified(tracked.iter().copied(), request.object) {
            return Err(Refusal::Forbidden(format!("failed quota: {}: {why}", quota.name)));
        }
        if tracked.iter().any(|name| quota.used.get(name).is_none()) {
            let names: Vec<&str> = tracked.into_iter().collect();
            let why =
                format!("status unknown for quota: {}, resources: {}", quota.name, names.join(","));
            return Err(Refusal::Forbidden(why));
        }
        covered.extend(tracked);
        concerned.push(n);
    }
    let usage = evaluator.usage(request.object, request.now);
    let negative: Vec<&str> =
        usage.0.iter().filter(|(_, amount)| amount.nano < 0).map(|(name, _)| &**name).collect();
    if !negative.is_empty() {
        let names = negative.join(",");
        return Err(Refusal::Forbidden(format!(
            "quota usage is negative for resource(s): {names}"
        )));
    }
    let grown = request.old.map(|old| grown(&usage, &evaluator.usage(old, request.now)));
    // An object that comes into a quota's scope is charged in full.
    let delta_for = |quota: &Quota| match (request.old, &grown) {
        (Some(old), Some(grown)) if evaluator.fits_all(&quota.selectors, old) => grown.clone(),
        _ => usage.clone(),
    };
    let charges = concerned.iter().map(|n| (*n, without_zeros(&delta_for(&quotas[*n]))));
    let charges: Vec<(usize, Amounts)> = charges.filter(|(_, delta)| !delta.is_empty()).collect();
    let nothing = match concerned.is_empty() {
        true => without_zeros(grown.as_ref().unwrap_or(&usage)).is_empty(),
        false => charges.is_empty(),
    };
    if !nothing {
        uncovered(quotas, request, limited, &usage, &covered)?;
    }
    Ok(charges)
}

/// Refuses what only quotas can allow, and none does.
fn uncovered(
    quotas: &[Quota],
    request: &Request<'_>,
    limited: &[Limited],
    usage: &Amounts,
    covered: &BTreeSet<&str>,
) -> Result<(), Refusal> {
    let evaluator = &request.evaluator;
    let about_it =
        limited.iter().filter(|l| l.group == evaluator.group && l.resource == evaluator.resource);
    let contained = |name: &str| {
        let mut parts = about_it.clone().flat_map(|limited| &limited.contains);
        parts.any(|part| name.contains(part.as_str()))
    };
    let names = usage.0.iter().filter(|(_, amount)| amount.nano > 0).map(|(name, _)| &**name);
    let names: Vec<&str> =
        names.filter(|name| contained(name) && !covered.contains(name)).collect();
    if !names.is_empty() {
        let names = names.join(",");
        return Err(Refusal::Forbidden(format!("insufficient quota to consume: {names}")));
    }
    let fits = |selector: &&Selector| evaluator.fits(selector, request.object);
    let of_quotas: BTreeSet<&str> = quotas
        .iter()
        .flat_map(|quota| quota.selectors.iter().filter(fits))
        .map(|selector| selector.scope.as_str())
        .collect();
    let scopes = limited.iter().flat_map(|limited| limited.scopes.iter().filter(fits));
    let scopes: Vec<String> = scopes
        .filter(|selector| !of_quotas.contains(selector.scope.as_str()))
        .map(|s| format!("{{{} {} [{}]}}", s.scope, s.operator, s.values.join(" ")))
        .collect();
    if scopes.is_empty() {
        return Ok(());
    }
    let scopes = scopes.join(" ");
    Err(Refusal::Bare(format!("insufficient quota to match these scopes: [{scopes}]")))
}

/// What an object uses more than before.
fn grown(now: &Amounts, before: &Amounts) -> Amounts {
    let mut grown = now.minus(before);
    for amount in grown.0.values_mut().filter(|amount| amount.nano < 0) {
        *amount = Amount::default();
    }
    grown
}

fn without_zeros(amounts: &Amounts) -> Amounts {
    amounts.only(|name| amounts.get(name).is_some_and(|amount| amount.nano != 0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(name: &str, hard: Value, used: Value, scopes: Value) -> Quota {
        Quota::read(
            &json!({"metadata": {"name": name}, "spec": {"scopes": scopes}, "status": {"hard": hard, "used": used}}),
        )
    }

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}}]}})
    }

    fn decide(
        quotas: &[Quota],
        object: &Value,
        old: Option<&Value>,
        limited: &[Limited],
    ) -> Result<String, Refusal> {
        let evaluator = Evaluator::new("", "pods");
        let request = Request { evaluator, object, old, now: Timestamp::UNIX_EPOCH };
        let charges = charges(quotas, &request, limited)?;
        let charged = charges.iter().map(|(n, delta)| {
            let quota = &quotas[*n];
            let used = quota.charge(delta, false).map_err(Refusal::Forbidden)?;
            Ok(format!("{}: {used}", quota.name))
        });
        Ok(charged.collect::<Result<Vec<_>, _>>()?.join("; "))
    }

    #[test]
    fn a_request_is_charged_to_each_quota_that_it_concerns() {
        let quotas = [
            quota(
                "a",
                json!({"requests.cpu": "2", "pods": "5"}),
                json!({"requests.cpu": "1", "pods": "4"}),
                json!([]),
            ),
            quota("b", json!({"services": "1"}), json!({"services": "1"}), json!([])),
            quota("c", json!({"pods": "1"}), json!({"pods": "1"}), json!(["BestEffort"])),
        ];
        assert_eq!(
            decide(&quotas, &pod("500m"), None, &[]).unwrap(),
            "a: pods=5,requests.cpu=1500m"
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_in_upstream_s_words() {
        let full = quota(
            "q",
            json!({"requests.cpu": "2", "pods": "5"}),
            json!({"requests.cpu": "1", "pods": "4"}),
            json!([]),
        );
        let refused = decide(&[full], &pod("1500m"), None, &[]).unwrap_err();
        let why = "exceeded quota: q, requested: requests.cpu=1500m, used: requests.cpu=1, limited: requests.cpu=2";
        assert_eq!(refused, Refusal::Forbidden(why.to_owned()));
        let strict = quota(
            "q",
            json!({"limits.memory": "2", "pods": "5"}),
            json!({"limits.memory": "1", "pods": "1"}),
            json!([]),
        );
        let why = "failed quota: q: must specify limits.memory for: a";
        assert_eq!(
            decide(&[strict], &pod("1"), None, &[]).unwrap_err(),
            Refusal::Forbidden(why.to_owned())
        );
        let fresh = quota("q", json!({"pods": "5", "requests.cpu": "1"}), json!({}), json!([]));
        let why = "status unknown for quota: q, resources: pods,requests.cpu";
        assert_eq!(
            decide(&[fresh], &pod("1"), None, &[]).unwrap_err(),
            Refusal::Forbidden(why.to_owned())
        );
    }

    #[test]
    fn updates_are_charged_for_what_they_add() {
        let quotas =
            [quota("q", json!({"requests.cpu": "3"}), json!({"requests.cpu": "2"}), json!([]))];
        assert_eq!(decide(&quotas, &pod("3"), Some(&pod("2")), &[]).unwrap(), "q: requests.cpu=3");
        assert_eq!(
            decide(&quotas, &pod("1"), Some(&pod("2")), &[]).unwrap(),
            "",
            "it is given back later"
        );
        // A pod that comes into the scope is new there.
        let quotas =
            [quota("q", json!({"pods": "3"}), json!({"pods": "1"}), json!(["Terminating"]))];
        let mut ends = pod("1");
        ends["spec"]["activeDeadlineSeconds"] = 5.into();
        assert_eq!(decide(&quotas, &ends, Some(&pod("1")), &[]).unwrap(), "q: pods=2");
    }

    #[test]
    fn what_is_limited_needs_a_quota() {
        let limited = Limited::read(&json!({"resource": "pods", "matchContains": ["requests.cpu"],
            "matchScopes": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}));
        let limited = [limited];
        let why = "insufficient quota to consume: requests.cpu";
        assert_eq!(
            decide(&[], &pod("1"), None, &limited).unwrap_err(),
            Refusal::Forbidden(why.to_owned())
        );
        let covering =
            [quota("q", json!({"requests.cpu": "3"}), json!({"requests.cpu": "0"}), json!([]))];
        assert!(decide(&covering, &pod("1"), None, &limited).is_ok());
        let mut high = pod("1");
        high["spec"]["priorityClassName"] = "high".into();
        let why = "insufficient quota to match these scopes: [{PriorityClass In [high]}]";
        assert_eq!(
            decide(&covering, &high, None, &limited).unwrap_err(),
            Refusal::Bare(why.to_owned())
        );
        let scoped = [
            covering[0].clone(),
            quota("s", json!({"pods": "3"}), json!({"pods": "0"}), json!(["PriorityClass"])),
        ];
        assert!(decide(&scoped, &high, None, &limited).is_ok());
    }
}
