//! Whether a definition may have its names, and the conditions that tell so. Pure.

use serde_json::{Value, json};

use crate::types::conditions;

/// Names that other definitions of the group hold.
pub(super) fn conflicts(definition: &Value, others: &[&Value]) -> Option<(&'static str, String)> {
    let names = &definition["spec"]["names"];
    let taken = |key: &str, name: &str| {
        others.iter().any(|other| {
            let accepted = &other["status"]["acceptedNames"];
            let held: Vec<&str> = match key {
                "kind" | "listKind" => {
                    ["kind", "listKind"].iter().filter_map(|k| accepted[*k].as_str()).collect()
                }
                _ => {
                    let mut held: Vec<&str> = ["plural", "singular"]
                        .iter()
                        .filter_map(|k| accepted[*k].as_str())
                        .collect();
                    held.extend(
                        accepted["shortNames"]
                            .as_array()
                            .into_iter()
                            .flatten()
                            .filter_map(Value::as_str),
                    );
                    held
                }
            };
            held.contains(&name)
        })
    };
    let mut found = None;
    let checks = [
        ("plural", "PluralConflict"),
        ("singular", "SingularConflict"),
        ("kind", "KindConflict"),
        ("listKind", "ListKindConflict"),
    ];
    for (key, reason) in checks {
        if let Some(name) = names[key].as_str().filter(|n| !n.is_empty() && taken(key, n)) {
            found = Some((reason, format!("\"{name}\" is already in use")));
        }
    }
    for name in names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if taken("shortNames", name) {
            found = Some(("ShortNamesConflict", format!("\"{name}\" is already in use")));
        }
    }
    found
}

/// The status that a definition should have; equal to its own if nothing is to be done.
pub(super) fn wanted_status(definition: &Value, others: &[&Value], now: &str) -> Value {
    let names = &definition["spec"]["names"];
    let mut status = definition["status"].clone();
    let conflict = conflicts(definition, others);
    let accepted = if conflict.is_none() {
        status["acceptedNames"] = names.clone();
        condition("NamesAccepted", true, "NoConflicts", "no conflicts found", now)
    } else {
        let (reason, message) = conflict.clone().unwrap_or_default();
        let mut held = status["acceptedNames"].clone();
        for key in ["plural", "singular", "kind", "listKind"] {
            let mine = names[key].as_str().unwrap_or_default();
            let free = !others.iter().any(|o| {
                ["plural", "singular", "kind", "listKind"]
                    .iter()
                    .any(|k| o["status"]["acceptedNames"][*k] == mine)
            });
            if free && !mine.is_empty() {
                held[key] = mine.into();
            }
        }
        status["acceptedNames"] = held;
        condition("NamesAccepted", false, reason, &message, now)
    };
    conditions::set(&mut status, accepted);
    if let Some(approval) = approval(definition) {
        let (is_approved, reason) = match approval {
            Approval::Given(_) => (true, "ApprovedAnnotation"),
            Approval::Bypassed(_) => (false, "UnapprovedAnnotation"),
            Approval::Invalid(_) => (false, "InvalidAnnotation"),
            Approval::Missing(_) => (false, "MissingAnnotation"),
        };
        let kind = "KubernetesAPIApprovalPolicyConformant";
        conditions::set(&mut status, condition(kind, is_approved, reason, approval.text(), now));
    }
    let established = conditions::is_true(definition, "Established");
    if !established {
        let (reason, message) = match conflict {
            None => ("InitialNamesAccepted", "the initial names have been accepted"),
            Some(_) => ("NotAccepted", "not all names are accepted"),
        };
        let established = condition("Established", conflict.is_none(), reason, message, now);
        conditions::set(&mut status, established);
    }
    status
}

pub(super) fn condition(kind: &str, status: bool, reason: &str, message: &str, now: &str) -> Value {
    let status = if status { "True" } else { "False" };
    json!({"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message})
}

/// Where the approval of a group under `k8s.io` stands.
pub(super) const APPROVED: &str = "api-approved.kubernetes.io";

/// Whether a group that belongs to Kubernetes was approved; each with the text of its condition.
///
/// Source: `GetAPIApprovalState` in upstream's `apiextensions-apiserver/pkg/apihelpers`.
pub(super) enum Approval {
    Given(String),
    Bypassed(String),
    Invalid(String),
    Missing(String),
}

impl Approval {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Given(text)
            | Self::Bypassed(text)
            | Self::Invalid(text)
            | Self::Missing(text) => text,
        }
    }
}

/// The approval of a definition; none if its group needs none.
pub(super) fn approval(definition: &Value) -> Option<Approval> {
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let owned = |owner: &str| group == owner || group.ends_with(&format!(".{owner}"));
    // Types that upstream has built in arrive as definitions here.
    let is_known = crate::registry::facts::FACTS.groups.contains_key(group);
    if is_known || !(owned("k8s.io") || owned("kubernetes.io")) {
        return None;
    }
    let needs = format!("protected groups must have approval annotation {APPROVED:?}");
    let text = definition["metadata"]["annotations"][APPROVED].as_str().unwrap_or_default();
    let is_url = text.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty() && !rest.trim_start_matches('/').is_empty()
    });
    Some(match text {
        "" => Approval::Missing(format!("{needs}, {SEE}")),
        text if text.starts_with("unapproved") => {
            Approval::Bypassed(format!("not approved: {text:?}"))
        }
        text if is_url => Approval::Given(format!("approved in {text}")),
        _ => Approval::Invalid(format!(
            "{needs} with either a URL or a reason starting with \"unapproved\", {SEE}"
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_kubernetes_need_approval() {
        let text = |group: &str, note: &str| {
            let definition = json!({"spec": {"group": group},
                "metadata": {"annotations": {APPROVED: note}}});
            approval(&definition).map(|approval| approval.text().to_owned())
        };
        assert_eq!(text("example.com", ""), None);
        assert_eq!(text("networking.k8s.io", ""), None);
        assert!(text("gateway.networking.k8s.io", "").is_some_and(|t| t.contains("must have")));
        let url = "https://github.com/x/y/1";
        assert_eq!(text("metrics.k8s.io.x-k8s.io", url), None);
        assert_eq!(text("gateway.networking.k8s.io", url), Some(format!("approved in {url}")));
    }
}
