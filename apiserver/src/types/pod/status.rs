//! What is wrong with the status of a pod.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::Value;

use super::container::visit;
use crate::types::check::{At, Causes, is_empty, items, text};
use crate::types::words;

/// Everything that is wrong with a status that takes the place of another.
pub(super) fn update(causes: &mut Causes, new: &Value, old: &Value) {
    let at = At::new("status");
    let (status, before) = (&new["status"], &old["status"]);
    conditions(causes, &at.field("conditions"), &status["conditions"]);
    let nominated = &status["nominatedNodeName"];
    let nominated_at = at.field("nominatedNodeName");
    if !is_empty(nominated) && *nominated != before["nominatedNodeName"] {
        causes.subdomain(&nominated_at, nominated);
        if !is_empty(&old["spec"]["nodeName"]) {
            let detail = "may not be set on pods that are already bound to a node";
            causes.forbidden(&nominated_at, detail);
        }
    }
    not_negative(causes, &at.field("observedGeneration"), &status["observedGeneration"]);
    let class = &status["qosClass"];
    if class != &before["qosClass"] {
        causes.immutable(&at.field("qosClass"), class, &before["qosClass"]);
    }
    restarts(causes, &at, status, before, &old["spec"]);
    claims(causes, &at.field("resourceClaimStatuses"), status, &new["spec"]["resourceClaims"]);
    addresses(causes, &at, status, before, "podIPs");
    let first = &status["hostIPs"][0]["ip"];
    if !first.is_null() && *first != status["hostIP"] {
        let list = at.field("hostIPs");
        let at = list.index(0);
        causes.invalid(&at.field("ip"), first, "must be equal to `hostIP`");
    }
    addresses(causes, &at, status, before, "hostIPs");
}

fn not_negative(causes: &mut Causes, at: &At<'_>, value: &Value) {
    if value.as_i64().is_some_and(|n| n < 0) {
        causes.invalid(at, value, "must be a non-negative integer");
    }
}

fn conditions(causes: &mut Causes, at: &At<'_>, conditions: &Value) {
    for (n, condition) in items(conditions).iter().enumerate() {
        let at = at.index(n);
        not_negative(causes, &at.field("observedGeneration"), &condition["observedGeneration"]);
        let kind = text(condition, "type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            causes.faults(&at.field("Type"), kind, words::qualified(kind));
        }
    }
}

/// A container that has ended starts again only if its policy says so.
fn restarts(causes: &mut Causes, at: &At<'_>, status: &Value, before: &Value, spec: &Value) {
    let all = restarts_all(spec);
    for (statuses, list) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", "ephemeralContainers"),
    ] {
        let at = at.field(statuses);
        for (n, old) in items(&before[statuses]).iter().enumerate() {
            let ended = &old["state"]["terminated"];
            let new = items(&status[statuses]).iter().find(|new| new["name"] == old["name"]);
            let runs_again = new.is_some_and(|new| new["state"]["terminated"].is_null());
            if ended.is_null() || !runs_again {
                continue;
            }
            let container = items(&spec[list]).iter().find(|c| c["name"] == old["name"]);
            let code = ended["exitCode"].as_i64().unwrap_or_default();
            let may = list != "ephemeralContainers"
                && (all
                    || container.is_some_and(|container| restarts_after(container, spec, code)));
            if !may {
                let detail = "may not be transitioned to non-terminated state";
                causes.forbidden(&at.index(n).field("state"), detail);
            }
        }
    }
}

/// Whether a rule of any container can restart all of them.
fn restarts_all(spec: &Value) -> bool {
    let mut found = false;
    visit(spec, |_, _, container| {
        let rules = items(&container["restartPolicyRules"]).iter();
        found |= rules.into_iter().any(|rule| rule["action"] == "RestartAllContainers");
    });
    found
}

/// Whether a container that ended with this code starts again.
fn restarts_after(container: &Value, spec: &Value, code: i64) -> bool {
    let policy = match text(container, "restartPolicy") {
        "" => return policy_restarts(text(spec, "restartPolicy"), code),
        policy => policy,
    };
    for rule in items(&container["restartPolicyRules"]) {
        let codes = &rule["exitCodes"];
        let listed = items(&codes["values"]).iter().any(|value| value.as_i64() == Some(code));
        let matches = match text(codes, "operator") {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if matches {
            return rule["action"] == "Restart";
        }
    }
    policy_restarts(policy, code)
}

fn policy_restarts(policy: &str, code: i64) -> bool {
    match policy {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

fn claims(causes: &mut Causes, at: &At<'_>, status: &Value, of_pod: &Value) {
    let mut names = HashSet::new();
    for (n, claim) in items(&status["resourceClaimStatuses"]).iter().enumerate() {
        let at = at.index(n);
        let name = text(claim, "name");
        if !items(of_pod).iter().any(|of_pod| text(of_pod, "name") == name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            causes.invalid(&at.field("name"), &name.into(), detail);
        }
        if !names.insert(name) {
            causes.duplicate(&at.field("name"), &name.into());
        }
        causes.subdomain(&at.field("resourceClaimName"), &claim["resourceClaimName"]);
    }
}

/// At most one address of each family.
fn addresses(causes: &mut Causes, at: &At<'_>, status: &Value, before: &Value, list: &str) {
    let at = at.field(list);
    let entries = items(&status[list]);
    let known = |ip: &Value| items(&before[list]).iter().any(|old| old["ip"] == *ip);
    for (n, entry) in entries.iter().enumerate().filter(|(_, entry)| !known(&entry["ip"])) {
        causes.ip(&at.index(n), &entry["ip"]);
    }
    let parsed = entries.iter().filter_map(|entry| text(entry, "ip").parse::<IpAddr>().ok());
    let families: HashSet<bool> = parsed.map(|ip| ip.is_ipv4()).collect();
    if entries.len() > 2 || entries.len() == 2 && families.len() != 2 {
        let detail = "may specify no more than one IP for each IP family";
        causes.invalid(&at, &status[list], detail);
    }
}

#[test]
fn what_has_ended_stays_so() {
    use serde_json::json;
    let pod = |policy: &str, state: Value| json!({"spec": {"restartPolicy": policy, "containers": [{"name": "a"}]}, "status": {"containerStatuses": [{"name": "a", "state": state}]}});
    let check = |policy: &str, code: i64| {
        let mut causes = Causes::default();
        let ended = pod(policy, json!({"terminated": {"exitCode": code}}));
        update(&mut causes, &pod(policy, json!({"running": {}})), &ended);
        causes.0.len()
    };
    assert_eq!(
        [("Always", 0), ("OnFailure", 1), ("OnFailure", 0), ("Never", 1)].map(|(p, c)| check(p, c)),
        [0, 0, 1, 1]
    );
}
