//! How sets of tolerations compare.

use serde_json::Value;

use crate::types::check::text;

/// Both sets as one, without those that another one covers; of equal ones the first stays.
///
/// Source: `MergeTolerations` in upstream `pkg/util/tolerations`.
pub(super) fn merge(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (n, toleration) in all.iter().enumerate() {
        let before = merged.iter().any(|kept| covers(kept, toleration));
        let after =
            all[n + 1..].iter().any(|other| other != toleration && covers(other, toleration));
        if !before && !after {
            merged.push((*toleration).clone());
        }
    }
    merged
}

/// Whether every toleration is covered by one that is allowed; an empty list allows all.
pub(super) fn are_allowed(tolerations: &[Value], allowed: &[Value]) -> bool {
    allowed.is_empty() || tolerations.iter().all(|t| allowed.iter().any(|a| covers(a, t)))
}

/// Whether whatever `narrow` tolerates, `wide` tolerates too, for at least as long.
fn covers(wide: &Value, narrow: &Value) -> bool {
    if wide == narrow {
        return true;
    }
    let (operator, every_key) = (text(wide, "operator"), text(wide, "key").is_empty());
    if text(wide, "key") != text(narrow, "key") && !(every_key && operator == "Exists") {
        return false;
    }
    let effect = text(wide, "effect");
    if !effect.is_empty() && effect != text(narrow, "effect") {
        return false;
    }
    if let Some(most) = wide["tolerationSeconds"].as_i64().filter(|_| effect == "NoExecute")
        && narrow["tolerationSeconds"].as_i64().is_none_or(|seconds| seconds > most)
    {
        return false;
    }
    match operator {
        "" | "Equal" => {
            text(narrow, "operator") == "Equal" && text(wide, "value") == text(narrow, "value")
        }
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_wider_toleration_stays() {
        let all = json!({"operator": "Exists"});
        let one = json!({"key": "a", "operator": "Exists"});
        let value = json!({"key": "a", "operator": "Equal", "value": "b"});
        let other = json!({"key": "c", "operator": "Equal", "value": "b"});
        let ones = [one];
        assert_eq!(merge(&ones, &[value.clone(), other.clone()]), [ones[0].clone(), other]);
        assert_eq!(merge(&[value], &ones), ones);
        assert_eq!(merge(&ones, &ones), ones);
        assert!(are_allowed(&ones, &[all]));
        assert!(!are_allowed(&[json!({"key": "x", "operator": "Exists"})], &ones));
    }

    #[test]
    fn less_time_covers_less() {
        let for_seconds = |seconds: i64| json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        assert!(covers(&for_seconds(10), &for_seconds(5)));
        assert!(!covers(&for_seconds(5), &for_seconds(10)));
        assert!(!covers(
            &for_seconds(5),
            &json!({"key": "a", "operator": "Exists", "effect": "NoExecute"})
        ));
    }
}
