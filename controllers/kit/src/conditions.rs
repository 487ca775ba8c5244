//! Status conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// Puts `next` into `conditions`; `lastTransitionTime` moves only when `status` does.
///
/// Source: kubernetes/community `api-conventions.md`, "Typical status properties".
pub fn set_condition(conditions: &mut Vec<Condition>, mut next: Condition) {
    match conditions.iter_mut().find(|c| c.type_ == next.type_) {
        None => conditions.push(next),
        Some(old) => {
            if old.status == next.status {
                next.last_transition_time = old.last_transition_time.clone();
            }
            *old = next;
        }
    }
}

/// Whether the condition of that type is `True`.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn ready(status: &str, reason: &str, second: i64) -> Condition {
        Condition {
            type_: "Ready".into(),
            status: status.into(),
            reason: reason.into(),
            last_transition_time: Time(Timestamp::from_second(second).unwrap()),
            message: String::new(),
            observed_generation: None,
        }
    }

    #[test]
    fn transition_time_moves_with_the_status_only() {
        let mut conditions = vec![ready("False", "Starting", 1)];
        set_condition(&mut conditions, ready("False", "Waiting", 2));
        assert_eq!(conditions, [ready("False", "Waiting", 1)]);
        set_condition(&mut conditions, ready("True", "Done", 3));
        assert_eq!(conditions, [ready("True", "Done", 3)]);
        assert!(is_true(&conditions, "Ready"));
    }
}
