//! Conditions that the server itself reads and sets.

use serde_json::{Value, json};

/// Whether the object has the condition, and it is `True`.
pub(crate) fn is_true(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter(|c| c["type"] == kind).any(|c| c["status"] == "True")
}

/// Puts a condition into a status; its transition time moves only with its own status.
pub(crate) fn set(status: &mut Value, mut condition: Value) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_time_moves_with_its_status() {
        let ready = |status: &str, reason: &str, time: u32| {
            json!({ "type": "Ready", "status": status, "reason": reason,
                "lastTransitionTime": time })
        };
        let mut pod = json!({});
        set(&mut pod["status"], ready("False", "Starts", 1));
        assert!(!is_true(&pod, "Ready"));
        set(&mut pod["status"], ready("False", "StillStarts", 2));
        assert_eq!(pod["status"]["conditions"], json!([ready("False", "StillStarts", 1)]));
        set(&mut pod["status"], ready("True", "Started", 3));
        assert_eq!(pod["status"]["conditions"], json!([ready("True", "Started", 3)]));
        assert!(is_true(&pod, "Ready") && !is_true(&pod, "Initialized"));
    }
}
