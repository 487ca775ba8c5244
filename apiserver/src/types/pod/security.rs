//! What is wrong with security contexts.

use std::collections::HashSet;

use serde_json::Value;

use crate::types::check::{At, Causes, flag, items, text};

const MAX_ID: i64 = 2_147_483_647;

/// The pod's own context.
pub(super) fn pod(causes: &mut Causes, at: &At<'_>, context: &Value, spec: &Value) {
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
    let sysctls = at.field("sysctls");
    let mut names = HashSet::new();
    for (n, sysctl) in items(&context["sysctls"]).iter().enumerate() {
        let at = sysctls.index(n);
        let at = at.field("name");
        let name = text(sysctl, "name");
        if name.is_empty() {
            causes.required(&at, "");
        } else if !is_sysctl(name) {
            causes.invalid(&at, &name.into(), "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$");
        } else if !names.insert(name.replace('/', ".")) {
            causes.duplicate(&at, &name.into());
        } else if flag(spec, "hostNetwork") && name.starts_with("net.") {
            causes.invalid(&at, &name.into(), "may not be specified when 'hostNetwork' is true");
        } else if flag(spec, "hostIPC")
            && (name.starts_with("kernel.shm")
                || name.starts_with("kernel.msg")
                || name == "kernel.sem"
                || name.starts_with("fs.mqueue."))
        {
            causes.invalid(&at, &name.into(), "may not be specified when 'hostIPC' is true");
        }
    }
    profiles(causes, at, context);
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        causes.invalid(
            &at.field("shareProcessNamespace"),
            &true.into(),
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
}

/// A container's context.
pub(super) fn container(causes: &mut Causes, at: &At<'_>, context: &Value, spec: &Value) {
    if context.is_null() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        causes.between(&at.field(field), &context[field], 0, MAX_ID);
    }
    if text(context, "procMount") == "Unmasked" && spec["hostUsers"] != false {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        causes.invalid(&at.field("procMount"), &context["procMount"], detail);
    }
    profiles(causes, at, context);
    if context["allowPrivilegeEscalation"] == false {
        let detail_at = at.field("allowPrivilegeEscalation");
        if flag(context, "privileged") {
            causes.invalid(
                &detail_at,
                &false.into(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        let added = items(&context["capabilities"]["add"]);
        if added.iter().any(|c| c == "CAP_SYS_ADMIN") {
            causes.invalid(&detail_at, &false.into(), "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
}

fn profiles(causes: &mut Causes, at: &At<'_>, context: &Value) {
    for (field, name) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let profile = &context[field];
        if profile.is_null() {
            continue;
        }
        let at = at.field(field);
        let local = &profile["localhostProfile"];
        let path_at = at.field("localhostProfile");
        if text(profile, "type") == "Localhost" {
            match local.as_str() {
                None | Some("") => {
                    causes
                        .required(&path_at, &format!("must be set when {name} type is Localhost"));
                }
                Some(path) if field == "seccompProfile" => causes.local_path(&path_at, path),
                Some(_) => (),
            }
        } else if !local.is_null() {
            // Upstream shows the whole profile for seccomp, the path for AppArmor.
            let shown = if field == "seccompProfile" { profile } else { local };
            causes.invalid(
                &path_at,
                shown,
                &format!("can only be set when {name} type is Localhost"),
            );
        }
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
