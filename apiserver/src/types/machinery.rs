//! Types that steer the server itself: fairness.

use schema::Cause;
use serde_json::{Value, json};

use super::check::{At, Causes, default, ensure, part, text};
use super::{Ctx, Strategy};
use crate::status::ApiError;

/// Strategy of `flowschemas`.
pub(super) struct FlowSchemas;

impl Strategy for FlowSchemas {
    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({});
        Ok(())
    }

    fn validate(&self, obj: &Value, _old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource.is_some() {
            return causes.0;
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        let precedence = &spec["matchingPrecedence"];
        if precedence.as_i64().is_some_and(|n| !(1..=10_000).contains(&n)) {
            let detail = "must be a positive value less than or equal to 10000";
            causes.invalid(&at.field("matchingPrecedence"), precedence, detail);
        }
        let level = at.field("priorityLevelConfiguration");
        causes.present(
            &level.field("name"),
            &spec["priorityLevelConfiguration"]["name"],
            "must reference a priority level",
        );
        causes.0
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// Strategy of `prioritylevelconfigurations`.
pub(super) struct PriorityLevels;

impl Strategy for PriorityLevels {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = part(obj, "spec") else { return };
        let kind = text(spec, "type").to_owned();
        if kind == "Exempt" {
            ensure(spec, "exempt");
            default(&mut spec["exempt"], "nominalConcurrencyShares", 0);
            default(&mut spec["exempt"], "lendablePercent", 0);
        }
        let Some(limited) = part(spec, "limited") else { return };
        default(limited, "nominalConcurrencyShares", 30);
        default(limited, "lendablePercent", 0);
        if let Some(queuing) = part(limited, "limitResponse").and_then(|r| part(r, "queuing")) {
            for (field, value) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                if queuing[field].as_i64().unwrap_or_default() == 0 {
                    queuing[field] = value.into();
                }
            }
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({});
        Ok(())
    }

    fn validate(&self, obj: &Value, _old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource.is_some() {
            return causes.0;
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        let kind = text(spec, "type");
        let exempt_name = text(&obj["metadata"], "name") == "exempt";
        if (kind == "Exempt") != exempt_name {
            causes.invalid(
                &at.field("type"),
                &kind.into(),
                "must be 'Exempt' if and only if `name` is 'exempt'",
            );
            return causes.0;
        }
        if kind != "Limited" {
            return causes.0;
        }
        let limited_at = at.field("limited");
        if spec["limited"].is_null() {
            causes.required(&limited_at, "must not be empty when type is Limited");
            return causes.0;
        }
        limited(&mut causes, &limited_at, &spec["limited"]);
        causes.0
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

fn limited(causes: &mut Causes, at: &At<'_>, limited: &Value) {
    let shares = &limited["nominalConcurrencyShares"];
    if shares.as_i64().is_some_and(|n| n < 0) {
        causes.invalid(
            &at.field("nominalConcurrencyShares"),
            shares,
            "must be a non-negative integer",
        );
    }
    causes.between(&at.field("lendablePercent"), &limited["lendablePercent"], 0, 100);
    let borrowing = &limited["borrowingLimitPercent"];
    if borrowing.as_i64().is_some_and(|n| n < 0) {
        causes.invalid(
            &at.field("borrowingLimitPercent"),
            borrowing,
            "if specified, must be a non-negative integer",
        );
    }
    let response = &limited["limitResponse"];
    let response_at = at.field("limitResponse");
    let queuing = &response["queuing"];
    let queuing_at = response_at.field("queuing");
    match text(response, "type") {
        "Reject" if !queuing.is_null() => {
            causes
                .forbidden(&queuing_at, "must be nil if limited.limitResponse.type is not Limited");
        }
        "Queue" if queuing.is_null() => {
            causes.required(
                &queuing_at,
                "must not be empty if limited.limitResponse.type is Limited",
            );
        }
        "Queue" => {
            let number = |field: &str| queuing[field].as_i64().unwrap_or_default();
            for field in ["queueLengthLimit", "queues"] {
                if number(field) <= 0 {
                    causes.invalid(&queuing_at.field(field), &queuing[field], "must be positive");
                }
            }
            let hand = &queuing["handSize"];
            if number("handSize") <= 0 {
                causes.invalid(&queuing_at.field("handSize"), hand, "must be positive");
            } else if number("handSize") > number("queues") {
                let detail = format!("should not be greater than queues ({})", number("queues"));
                causes.invalid(&queuing_at.field("handSize"), hand, &detail);
            }
        }
        _ => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(causes: Vec<Cause>) -> Vec<String> {
        causes.into_iter().map(|c| c.field).collect()
    }

    #[test]
    fn levels_queue_within_bounds() {
        let mut level = json!({"metadata": {"name": "p"}, "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 4}}}}});
        PriorityLevels.default(&mut level);
        assert_eq!(
            level["spec"]["limited"]["limitResponse"]["queuing"],
            json!({"queues": 4, "handSize": 8, "queueLengthLimit": 50})
        );
        assert_eq!(
            fields(PriorityLevels.validate(&level, None, None)),
            ["spec.limited.limitResponse.queuing.handSize"]
        );
        let exempt = json!({"metadata": {"name": "p"}, "spec": {"type": "Exempt"}});
        assert_eq!(fields(PriorityLevels.validate(&exempt, None, None)), ["spec.type"]);
    }
}
