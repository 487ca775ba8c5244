//! What is wrong with security contexts.

use std::collections::HashSet;

use schema::Cause;
use serde_json::Value;

use super::container::visit;
use super::windows;
use crate::types::check::{At, Causes, flag, is_empty, items, text};

const MAX_ID: i64 = 2_147_483_647;
const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

/// The pod's own context, and the namespaces that it shares with the host.
pub(super) fn pod(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    host_users(causes, at, spec);
    let context = &spec["securityContext"];
    let at = at.field("securityContext");
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        causes.invalid(
            &at.field("shareProcessNamespace"),
            &true.into(),
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    if context.is_null() {
        return;
    }
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        causes.between(&at.field(field), &context[field], 0, MAX_ID);
    }
    let groups = at.field("supplementalGroups");
    for (n, group) in items(&context["supplementalGroups"]).iter().enumerate() {
        causes.between(&groups.index(n), group, 0, MAX_ID);
    }
    sysctls(causes, &at.field("sysctls"), spec);
    for (field, values) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
    ] {
        causes.one_of(&at.field(field), &context[field], &values);
    }
    // The other one, MountOption, is behind a feature gate that is off by default.
    let policy = &context["seLinuxChangePolicy"];
    causes.one_of(&at.field("seLinuxChangePolicy"), policy, &["Recursive"]);
    profiles(causes, &at, context);
}

fn sysctls(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let mut names = HashSet::new();
    for (n, sysctl) in items(&spec["securityContext"]["sysctls"]).iter().enumerate() {
        let at = at.index(n);
        let at = at.field("name");
        let name = text(sysctl, "name");
        if name.is_empty() {
            causes.required(&at, "");
        } else if !is_sysctl(name) {
            causes.invalid(&at, &name.into(), "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$");
        } else if names.contains(name) {
            causes.duplicate(&at, &name.into());
        }
        names.insert(name);
        let dotted = name.replace('/', ".");
        if flag(spec, "hostNetwork") && dotted.starts_with("net.") {
            causes.invalid(&at, &name.into(), "may not be specified when 'hostNetwork' is true");
        } else if flag(spec, "hostIPC") && is_ipc(&dotted) {
            causes.invalid(&at, &name.into(), "may not be specified when 'hostIPC' is true");
        }
    }
}

fn is_ipc(sysctl: &str) -> bool {
    let prefixes = ["kernel.shm", "kernel.msg", "fs.mqueue."];
    sysctl == "kernel.sem" || prefixes.iter().any(|prefix| sysctl.starts_with(prefix))
}

/// Users of their own go with no other namespace of the host, and with no devices.
fn host_users(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    const WHEN: &str = "when `hostUsers` is false";
    if spec["hostUsers"] != false {
        return;
    }
    // Upstream shows its own names of two of these.
    for (field, shown) in
        [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
    {
        if flag(spec, field) {
            causes.forbidden(&at.field(shown), WHEN);
        }
    }
    visit(spec, |list, n, container| {
        if !is_empty(&container["volumeDevices"]) {
            let list = at.field(list);
            causes.forbidden(&list.index(n).field("volumeDevices"), WHEN);
        }
    });
}

/// A container's context.
pub(super) fn container(causes: &mut Causes, at: &At<'_>, context: &Value, spec: &Value) {
    if context.is_null() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        causes.between(&at.field(field), &context[field], 0, MAX_ID);
    }
    let mount = &context["procMount"];
    causes.one_of(&at.field("procMount"), mount, &["Default", "Unmasked"]);
    if mount == "Unmasked" && spec["hostUsers"] != false {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        causes.invalid(&at.field("procMount"), mount, detail);
    }
    profiles(causes, at, context);
    if context["allowPrivilegeEscalation"] == false {
        if flag(context, "privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            causes.invalid(at, context, detail);
        }
        let added = items(&context["capabilities"]["add"]);
        for _ in added.iter().filter(|capability| **capability == "CAP_SYS_ADMIN") {
            causes.invalid(at, context, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
}

/// The privileged containers of an object that is a pod or makes pods, for servers that allow none.
pub(crate) fn privileged(object: &Value) -> Vec<Cause> {
    const PLACES: [&[&str]; 4] =
        [&["spec", "jobTemplate", "spec", "template"], &["spec", "template"], &["template"], &[]];
    let at = |place: &[&str]| &place.iter().fold(object, |value, part| &value[*part])["spec"];
    let Some(place) = PLACES.into_iter().find(|place| at(place).is_object()) else {
        return Vec::new();
    };
    let path = place.iter().map(|part| format!("{part}.")).collect::<String>() + "spec";
    let mut causes = Vec::new();
    visit(at(place), |list, n, container| {
        if flag(&container["securityContext"], "privileged") {
            let field = format!("{path}.{list}[{n}].securityContext.privileged");
            causes.push(Cause::forbidden(field, "disallowed by cluster policy"));
        }
    });
    causes
}

/// seccomp, AppArmor and Windows, which pods and containers have alike.
fn profiles(causes: &mut Causes, at: &At<'_>, context: &Value) {
    seccomp(causes, &at.field("seccompProfile"), &context["seccompProfile"]);
    windows::options(causes, &at.field("windowsOptions"), &context["windowsOptions"]);
    app_armor(causes, &at.field("appArmorProfile"), &context["appArmorProfile"]);
}

fn seccomp(causes: &mut Causes, at: &At<'_>, profile: &Value) {
    if profile.is_null() {
        return;
    }
    let kind = &profile["type"];
    if causes.present(&at.field("type"), kind, "type is required when seccompProfile is set") {
        causes.one_of(&at.field("type"), kind, &PROFILES);
    }
    let (path_at, path) = (at.field("localhostProfile"), &profile["localhostProfile"]);
    match (kind == "Localhost", path.as_str()) {
        (true, None) => causes.required(&path_at, "must be set when seccomp type is Localhost"),
        (true, Some(path)) => causes.local_path(&path_at, path),
        (false, None) => (),
        (false, Some(_)) => {
            let detail = "can only be set when seccomp type is Localhost";
            causes.invalid(&path_at, profile, detail);
        }
    }
}

fn app_armor(causes: &mut Causes, at: &At<'_>, profile: &Value) {
    const LONGEST: u64 = 4095;
    if profile.is_null() {
        return;
    }
    let (path_at, path) = (at.field("localhostProfile"), &profile["localhostProfile"]);
    match text(profile, "type") {
        "" => causes.required(&at.field("type"), "type is required when appArmorProfile is set"),
        "Localhost" => {
            const NEEDED: &str = "must be set when AppArmor type is Localhost";
            let Some(name) = path.as_str() else { return causes.required(&path_at, NEEDED) };
            if name.trim() != name {
                causes.invalid(&path_at, path, "must not be padded with whitespace");
            } else if name.is_empty() {
                causes.required(&path_at, NEEDED);
            }
            if name.len() as u64 > LONGEST {
                causes.0.push(schema::Cause::too_long(path_at.to_string(), LONGEST));
            }
        }
        "RuntimeDefault" | "Unconfined" if !path.is_null() => {
            causes.invalid(&path_at, path, "can only be set when AppArmor type is Localhost");
        }
        "RuntimeDefault" | "Unconfined" => (),
        other => causes.not_supported(&at.field("type"), &other.into(), &PROFILES),
    }
}

fn is_sysctl(name: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let part = |part: &str| {
        edge(part.bytes().next())
            && edge(part.bytes().last())
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn privileged_containers_are_found_wherever_pods_are_described() {
        let check = |object: Value, expected: &[&str]| {
            let causes = privileged(&object);
            let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
            assert_eq!(fields, expected, "{object}");
        };
        let one = json!({ "securityContext": { "privileged": true } });
        let pod = json!({ "spec": {
            "initContainers": [one], "containers": [{}, one], "ephemeralContainers": [one],
        } });
        let expected = [
            "spec.initContainers[0].securityContext.privileged",
            "spec.containers[1].securityContext.privileged",
            "spec.ephemeralContainers[0].securityContext.privileged",
        ];
        check(pod, &expected);
        let spec = json!({ "spec": { "containers": [one] } });
        let field = "containers[0].securityContext.privileged";
        check(json!({ "template": spec }), &[&format!("template.spec.{field}")]);
        check(json!({ "spec": { "template": spec } }), &[&format!("spec.template.spec.{field}")]);
        let cron = json!({ "spec": { "jobTemplate": { "spec": { "template": spec } } } });
        check(cron, &[&format!("spec.jobTemplate.spec.template.spec.{field}")]);
        check(json!({ "spec": { "containers": [{}] } }), &[]);
        check(json!({ "data": {} }), &[]);
    }
}
