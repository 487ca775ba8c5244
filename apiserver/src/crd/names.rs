//! Whether a definition may have its names, and the conditions that tell so. Pure.

use serde_json::{Value, json};

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
    set(&mut status, accepted);
    let established = super::has_condition(definition, "Established");
    if conflict.is_none() && !established {
        let message = "the initial names have been accepted";
        set(&mut status, condition("Established", true, "InitialNamesAccepted", message, now));
    } else if conflict.is_some() && !established {
        set(
            &mut status,
            condition("Established", false, "NotAccepted", "not all names are accepted", now),
        );
    }
    status
}

pub(super) fn condition(kind: &str, status: bool, reason: &str, message: &str, now: &str) -> Value {
    let status = if status { "True" } else { "False" };
    json!({"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message})
}

/// Puts a condition in; its transition time moves only with its status.
pub(super) fn set(status: &mut Value, mut condition: Value) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    match conditions.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(old) => {
            if old["status"] == condition["status"] {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
}
