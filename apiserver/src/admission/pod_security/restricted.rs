//! Checks of the level `restricted`: what hardened pods do without.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::{PROFILES, added_capabilities, seccomp_setters};
use super::checks::{Pod, Violation};
use super::look::{
    Bad, containers, context, has_own_users, is_windows, named, plural, quoted, setters,
};
use crate::types::check::{items, members, text};

pub(super) fn escalation(pod: Pod<'_>) -> Option<Violation> {
    let may = |container: &Value| context(container)["allowPrivilegeEscalation"] != false;
    let bad = containers(pod.spec, may);
    (!bad.is_empty()).then(|| {
        let detail =
            format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&bad));
        Violation::new("allowPrivilegeEscalation != false", detail)
    })
}

pub(super) fn escalation_but_on_windows(pod: Pod<'_>) -> Option<Violation> {
    if is_windows(pod.spec) { None } else { escalation(pod) }
}

pub(super) fn capabilities(pod: Pod<'_>) -> Option<Violation> {
    let keeps = |container: &Value| {
        !items(&context(container)["capabilities"]["drop"]).iter().any(|name| name == "ALL")
    };
    let bad = containers(pod.spec, keeps);
    let kept = (!bad.is_empty())
        .then(|| format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&bad)));
    let added = added_capabilities(pod.spec, &["NET_BIND_SERVICE"]);
    let details: Vec<String> = kept.into_iter().chain(added).collect();
    (!details.is_empty()).then(|| Violation::new("unrestricted capabilities", details.join("; ")))
}

pub(super) fn capabilities_but_on_windows(pod: Pod<'_>) -> Option<Violation> {
    if is_windows(pod.spec) { None } else { capabilities(pod) }
}

/// Volumes that hold what the API, a claim or the pod itself brings.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

pub(super) fn volumes(pod: Pod<'_>) -> Option<Violation> {
    let is_bad = |volume: &&Value| VOLUMES.iter().all(|kind| volume[*kind].is_null());
    let kind = |volume: &'_ Value| {
        let mut sources =
            members(volume).filter(|(name, value)| *name != "name" && !value.is_null());
        sources.next().map_or("unknown".to_owned(), |(name, _)| name.clone())
    };
    let bad: Vec<&Value> = items(&pod.spec["volumes"]).iter().filter(is_bad).collect();
    let kinds: BTreeSet<String> = bad.iter().map(|volume| kind(volume)).collect();
    (!bad.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", bad.len()),
            quoted(bad.iter().map(|volume| text(volume, "name"))),
            plural("uses", "use", bad.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            quoted(kinds.iter().map(String::as_str))
        );
        Violation::new("restricted volume types", detail)
    })
}

pub(super) fn non_root(pod: Pod<'_>) -> Option<Violation> {
    let setting = |owner: &Value| context(owner)["runAsNonRoot"].as_bool();
    let of_pod = setting(pod.spec);
    let bad = containers(pod.spec, |container| setting(container) == Some(false));
    let setters = setters(of_pod == Some(false), &bad);
    let silent = containers(pod.spec, |c| of_pod != Some(true) && setting(c).is_none());
    let detail = if !setters.is_empty() {
        format!("{} must not set securityContext.runAsNonRoot=false", setters.join(" and "))
    } else if !silent.is_empty() {
        format!("pod or {} must set securityContext.runAsNonRoot=true", named(&silent))
    } else {
        return None;
    };
    Some(Violation::new("runAsNonRoot != true", detail))
}

/// Root in a user namespace is nobody outside of it.
///
/// Source: KEP-127.
pub(super) fn non_root_of_host_users(pod: Pod<'_>) -> Option<Violation> {
    if has_own_users(pod.spec) { None } else { non_root(pod) }
}

pub(super) fn user(pod: Pod<'_>) -> Option<Violation> {
    let is_root = |owner: &Value| context(owner)["runAsUser"] == 0;
    let setters = setters(is_root(pod.spec), &containers(pod.spec, is_root));
    (!setters.is_empty()).then(|| {
        let detail = format!("{} must not set runAsUser=0", setters.join(" and "));
        Violation::new("runAsUser=0", detail)
    })
}

/// As [`non_root_of_host_users`].
pub(super) fn user_of_host_users(pod: Pod<'_>) -> Option<Violation> {
    if has_own_users(pod.spec) { None } else { user(pod) }
}

pub(super) fn seccomp(pod: Pod<'_>) -> Option<Violation> {
    let bad = Bad::types(pod.spec, "seccompProfile", &PROFILES);
    let has_profile = |owner: &Value| !context(owner)["seccompProfile"].is_null();
    let of_pod = has_profile(pod.spec) && !bad.pod;
    let silent = containers(pod.spec, |container| !of_pod && !has_profile(container));
    let detail = seccomp_setters(&bad).or_else(|| {
        (!silent.is_empty()).then(|| {
            let silent = named(&silent);
            format!("pod or {silent} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"")
        })
    });
    detail.map(|detail| Violation::new("seccompProfile", detail))
}

pub(super) fn seccomp_but_on_windows(pod: Pod<'_>) -> Option<Violation> {
    if is_windows(pod.spec) { None } else { seccomp(pod) }
}
