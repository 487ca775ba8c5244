//! What is wrong with annotations that say what fields say today.

use serde_json::Value;

use super::container::visit;
use crate::types::check::{At, Causes, is_empty, members, text};

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Annotations of a pod or of a template.
pub(super) fn all(causes: &mut Causes, metadata: &Value, spec: &Value, at: &At<'_>) {
    let annotations = &metadata["annotations"];
    if !annotations[MIRROR].is_null() && is_empty(&spec["nodeName"]) {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        causes.invalid(&at.key(MIRROR), &annotations[MIRROR], detail);
    }
    if let Some(cost) = annotations[DELETION_COST].as_str()
        && !is_cost(cost)
    {
        causes.invalid(&at.key(DELETION_COST), &cost.into(), "must be a 32bit integer");
    }
    for (key, value) in members(annotations) {
        let profile = value.as_str().unwrap_or_default();
        if key == SECCOMP_POD || key.starts_with(SECCOMP) {
            seccomp(causes, &at.field(key), profile);
        } else if let Some(name) = key.strip_prefix(APP_ARMOR) {
            app_armor(causes, &at.key(key), spec, name, profile);
        }
    }
}

/// Whether the text is a number as Go's `strconv` wants it, without superfluous signs and zeros.
fn is_cost(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.starts_with('+') && (digits == "0" || !digits.starts_with('0'));
    plain && text.parse::<i32>().is_ok()
}

fn seccomp(causes: &mut Causes, at: &At<'_>, profile: &str) {
    match (profile, profile.strip_prefix("localhost/")) {
        ("runtime/default" | "docker/default" | "unconfined", _) => (),
        (_, Some(path)) => causes.local_path(at, path),
        _ => causes.invalid(at, &profile.into(), "must be a valid seccomp profile"),
    }
}

fn app_armor(causes: &mut Causes, at: &At<'_>, spec: &Value, name: &str, profile: &str) {
    let mut found = false;
    visit(spec, |_, _, container| found |= text(container, "name") == name);
    if !found {
        causes.invalid(at, &name.into(), "container not found");
    }
    let known = matches!(profile, "" | "runtime/default" | "unconfined");
    if !known && !profile.starts_with("localhost/") {
        causes.invalid(at, &profile.into(), &format!("invalid AppArmor profile name: {profile:?}"));
    }
}

/// What changes of annotations a pod that exists does not take.
pub(super) fn update(causes: &mut Causes, new: &Value, old: &Value) {
    let at = At::new("metadata");
    let at = at.field("annotations");
    let (now, before) = (&new["metadata"]["annotations"], &old["metadata"]["annotations"]);
    let mut forbid = |key: &str, verb: &str| {
        if key.starts_with(APP_ARMOR) {
            causes.forbidden(&at.key(key), &format!("may not {verb} AppArmor annotations"));
        } else if key == MIRROR {
            causes.forbidden(&at.key(key), &format!("may not {verb} mirror pod annotation"));
        }
    };
    for (key, _) in members(before).filter(|(key, value)| now[key.as_str()] != **value) {
        forbid(key, "remove or update");
    }
    for (key, _) in members(now).filter(|(key, _)| before[key.as_str()].is_null()) {
        forbid(key, "add");
    }
}

/// Fields that say the same as an annotation must say it alike.
pub(super) fn fit_fields(causes: &mut Causes, metadata: &Value, spec: &Value, at: &At<'_>) {
    let annotations = &metadata["annotations"];
    if is_empty(annotations) {
        return;
    }
    let of_pod = &spec["securityContext"];
    let context_at = at.field("securityContext");
    let seccomp_at = context_at.field("seccompProfile");
    fit(causes, &seccomp_at, &of_pod["seccompProfile"], &annotations[SECCOMP_POD], "seccomp");
    let on_windows = spec["os"]["name"] == "windows";
    visit(spec, |list, n, container| {
        let list = at.field(list);
        let at = list.index(n);
        let at = at.field("securityContext");
        let name = text(container, "name");
        let context = &container["securityContext"];
        let seccomp = &annotations[&*format!("{SECCOMP}{name}")];
        fit(causes, &at.field("seccompProfile"), &context["seccompProfile"], seccomp, "seccomp");
        let own = &context["appArmorProfile"];
        let profile = if own.is_null() { &of_pod["appArmorProfile"] } else { own };
        if !on_windows {
            let annotation = &annotations[&*format!("{APP_ARMOR}{name}")];
            fit(causes, &at.field("appArmorProfile"), profile, annotation, "apparmor");
        }
    });
}

fn fit(causes: &mut Causes, at: &At<'_>, profile: &Value, annotation: &Value, what: &str) {
    let Some(annotation) = annotation.as_str() else { return };
    let fits = match text(profile, "type") {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => {
            annotation == "runtime/default" || what == "seccomp" && annotation == "docker/default"
        }
        "Localhost" => match annotation.strip_prefix("localhost/") {
            Some(path) if profile["localhostProfile"] != path => {
                let detail = format!("{what} profile in annotation and field must match");
                return causes.forbidden(&at.field("localhostProfile"), &detail);
            }
            path => path.is_some(),
        },
        _ => true,
    };
    if !fits {
        let detail = format!("{what} type in annotation and field must match");
        causes.forbidden(&at.field("type"), &detail);
    }
}

#[test]
fn costs_are_numbers() {
    assert!(["0", "-5", "2147483647"].into_iter().all(is_cost));
    assert!(!["", "+5", "05", "a", "2147483648"].into_iter().any(is_cost));
}
