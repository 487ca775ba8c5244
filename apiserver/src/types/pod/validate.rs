//! What is wrong with a pod's spec, in a pod or in a template.

use std::collections::HashSet;

use serde_json::Value;

use super::container::{self, Around};
use super::{placement, resources, security, volume};
use crate::types::check::{At, Causes, flag, is_empty, items, text};
use crate::types::words;

/// Everything that is wrong with the spec of a pod or of a template.
pub(crate) fn spec(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let volumes = volume::all(causes, &at.field("volumes"), &spec["volumes"]);
    container::all(causes, at, &Around { spec, volumes: &volumes });
    security::pod(causes, &at.field("securityContext"), &spec["securityContext"], spec);
    placement::all(causes, at, spec);
    names(causes, at, spec);
    dns(causes, at, spec);
    claims(causes, &at.field("resourceClaims"), &spec["resourceClaims"]);
    if !spec["resources"].is_null() {
        resources::requirements(causes, &at.field("resources"), &spec["resources"], false);
    }
    resources::overhead(causes, &at.field("overhead"), &spec["overhead"]);
    let deadline = &spec["activeDeadlineSeconds"];
    causes.between(&at.field("activeDeadlineSeconds"), deadline, 1, i64::from(i32::MAX));
    let gates = at.field("readinessGates");
    for (n, gate) in items(&spec["readinessGates"]).iter().enumerate() {
        let kind = text(gate, "conditionType");
        causes.faults(&gates.index(n).field("conditionType"), kind, words::qualified(kind));
    }
    operating_system(causes, at, spec);
}

/// What is wrong with a pod that is to be created.
pub(super) fn new_pod(causes: &mut Causes, pod: &Value) {
    let at = At::new("spec");
    if !is_empty(&pod["spec"]["ephemeralContainers"]) {
        causes.forbidden(&at.field("ephemeralContainers"), "cannot be set on create");
    }
    if !items(&pod["spec"]["schedulingGates"]).is_empty()
        && !text(&pod["spec"], "nodeName").is_empty()
    {
        causes.forbidden(
            &at.field("nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        );
    }
}

fn names(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    for field in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        let name = text(spec, field);
        if !name.is_empty() {
            causes.faults(&at.field(field), name, words::subdomain(name));
        }
    }
    for field in ["hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() {
            causes.faults(&at.field(field), name, words::label(name));
        }
    }
    let secrets = at.field("imagePullSecrets");
    for (n, secret) in items(&spec["imagePullSecrets"]).iter().enumerate() {
        let name = text(secret, "name");
        if !name.is_empty() {
            causes.faults(&secrets.index(n).field("name"), name, words::subdomain(name));
        }
    }
    let aliases = at.field("hostAliases");
    for (n, alias) in items(&spec["hostAliases"]).iter().enumerate() {
        let at = aliases.index(n);
        causes.ip(&at.field("ip"), &alias["ip"]);
        let names = at.field("hostnames");
        for (n, name) in items(&alias["hostnames"]).iter().enumerate() {
            causes.subdomain(&names.index(n), name);
        }
    }
}

fn dns(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let config = &spec["dnsConfig"];
    let at = at.field("dnsConfig");
    let servers = items(&config["nameservers"]);
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            causes.required(&at, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            causes.required(&at.field("nameservers"), detail);
        }
    }
    let servers_at = at.field("nameservers");
    if servers.len() > 3 {
        causes.invalid(
            &servers_at,
            &config["nameservers"],
            "must not have more than 3 nameservers",
        );
    }
    for (n, server) in servers.iter().enumerate() {
        causes.ip(&servers_at.index(n), server);
    }
    let searches_at = at.field("searches");
    let searches = items(&config["searches"]);
    if searches.len() > 32 {
        causes.invalid(
            &searches_at,
            &config["searches"],
            "must not have more than 32 search paths",
        );
    }
    for (n, search) in searches.iter().enumerate() {
        let name = search.as_str().unwrap_or_default();
        let bare = name.strip_suffix('.').unwrap_or(name);
        if !matches!(name, "." | "") {
            causes.faults(&searches_at.index(n), name, words::subdomain(&bare.replace('_', "-")));
        }
    }
    let options = at.field("options");
    for (n, option) in items(&config["options"]).iter().enumerate() {
        if text(option, "name").is_empty() {
            causes.required(&options.index(n), "must not be empty");
        }
    }
}

fn claims(causes: &mut Causes, at: &At<'_>, claims: &Value) {
    let mut names = HashSet::new();
    for (n, claim) in items(claims).iter().enumerate() {
        let at = at.index(n);
        let name = text(claim, "name");
        if name.is_empty() {
            causes.required(&at.field("name"), "");
        } else {
            causes.faults(&at.field("name"), name, words::label(name));
            if !names.insert(name) {
                causes.duplicate(&at.field("name"), &name.into());
            }
        }
        let given = |field: &str| !claim[field].is_null();
        match (given("resourceClaimName"), given("resourceClaimTemplateName")) {
            (true, true) => causes.invalid(&at, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
            (false, false) => causes.invalid(&at, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            _ => (),
        }
    }
}

fn operating_system(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let os = &spec["os"];
    if os.is_null() {
        return;
    }
    let name = text(os, "name");
    let at_name = at.field("os");
    let at_name = at_name.field("name");
    match name {
        "" => causes.required(&at_name, ""),
        "linux" | "windows" => (),
        _ => causes.not_supported(&at_name, &name.into(), &["linux", "windows"]),
    }
    if name == "windows" {
        for field in ["hostPID", "hostIPC", "shareProcessNamespace"] {
            if flag(spec, field) {
                causes.forbidden(&at.field(field), "cannot be set for a windows pod");
            }
        }
        let context = at.field("securityContext");
        for field in [
            "seLinuxOptions",
            "seccompProfile",
            "fsGroup",
            "fsGroupChangePolicy",
            "sysctls",
            "runAsUser",
            "runAsGroup",
            "supplementalGroups",
        ] {
            if !is_empty(&spec["securityContext"][field]) {
                causes.forbidden(&context.field(field), "cannot be set for a windows pod");
            }
        }
    } else if name == "linux" && !spec["securityContext"]["windowsOptions"].is_null() {
        let context = at.field("securityContext");
        causes.forbidden(
            &context.field("windowsOptions"),
            "windows options cannot be set for a linux pod",
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(spec: Value, expected: &[&str]) {
        let mut causes = Causes::default();
        super::spec(&mut causes, &At::new("spec"), &spec);
        let texts: Vec<String> = causes.0.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), expected.len(), "{texts:#?}");
        for (text, start) in texts.iter().zip(expected) {
            assert!(text.starts_with(start), "{text} does not start with {start}");
        }
    }

    fn with(container: Value) -> Value {
        let mut container = container;
        container["name"] = "a".into();
        container["image"] = "app:1".into();
        json!({"containers": [container]})
    }

    #[test]
    fn a_plain_pod_is_right() {
        check(with(json!({})), &[]);
    }

    #[test]
    fn containers_are_needed_and_named_once() {
        check(json!({}), &["spec.containers: Required value"]);
        check(
            json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "y"}, {"name": "a.b", "image": "z "}]}),
            &[
                "spec.containers[1].name: Duplicate value: \"a\"",
                "spec.containers[2].name: Invalid value: \"a.b\": must not contain dots",
                "spec.containers[2].image: Invalid value: \"z \": must not have leading",
            ],
        );
    }

    #[test]
    fn probes_need_one_handler() {
        check(
            with(
                json!({"readinessProbe": {"periodSeconds": 5}, "livenessProbe": {"exec": {"command": ["x"]}, "grpc": {"port": 1}, "successThreshold": 2}}),
            ),
            &[
                "spec.containers[0].livenessProbe.grpc: Forbidden: may not specify more than 1",
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
                "spec.containers[0].readinessProbe: Required value: must specify a handler type",
            ],
        );
    }

    #[test]
    fn requests_stay_below_limits() {
        check(
            with(
                json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2", "example.com/x": "1", "foo": "1"}}}),
            ),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                "spec.containers[0].resources.limits: Required value: Limit must be set",
                "spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard resource type",
                "spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard resource for containers",
            ],
        );
    }

    #[test]
    fn mounts_name_volumes() {
        let mut spec = with(
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "ghost", "mountPath": "/a", "subPath": "../x"}]}),
        );
        spec["volumes"] = json!([{"name": "v", "emptyDir": {}}, {"name": "u", "emptyDir": {}, "hostPath": {"path": "/x"}}, {"name": "w", "hostPath": {"path": "/a/../b"}}]);
        check(
            spec,
            &[
                "spec.volumes[1].hostPath: Forbidden: may not specify more than 1 volume type",
                "spec.volumes[2].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.containers[0].volumeMounts[1].name: Not found: \"ghost\"",
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
                "spec.containers[0].volumeMounts[1].subPath: Invalid value: \"../x\": must not contain '..'",
            ],
        );
    }

    #[test]
    fn tolerations_and_constraints() {
        let mut spec = with(json!({}));
        spec["tolerations"] = json!([{"operator": "Equal"}, {"key": "a", "tolerationSeconds": 3}]);
        spec["topologySpreadConstraints"] = json!([{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "ScheduleAnyway", "matchLabelKeys": ["a"]}]);
        check(
            spec,
            &[
                "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists",
                "spec.tolerations[1].effect: Invalid value: \"\": effect must be 'NoExecute'",
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0",
                "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
                "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden",
            ],
        );
    }
}
