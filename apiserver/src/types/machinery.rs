//! Types that steer the server itself: fairness.
//!
//! Source: upstream's `pkg/apis/flowcontrol/validation`; KEP-1040.

mod flows;

use std::collections::HashSet;
use std::sync::LazyLock;

use schema::Cause;
use serde_json::{Value, json};

use super::check::{At, Causes, copy, default, ensure, items, part, text};
use super::{Ctx, Strategy};
use crate::bootstrap::plan::FIXED;
use crate::status::ApiError;

pub(super) use flows::FlowSchemas;

/// The objects without which the server cannot work; nobody may change what they say.
const MANDATORY: [&str; 2] = ["catch-all", "exempt"];

/// What the mandatory object of this kind and name says.
fn mandatory(kind: &str, name: &str) -> Option<&'static Value> {
    static OBJECTS: LazyLock<Vec<&Value>> = LazyLock::new(|| {
        let mandatory = |o: &&Value| MANDATORY.contains(&text(&o["metadata"], "name"));
        FIXED.iter().filter(mandatory).collect()
    });
    let object = OBJECTS.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name)?;
    Some(&object["spec"])
}

/// Conditions have a type, and each type once.
fn conditions(causes: &mut Causes, object: &Value) {
    let at = At::new("status");
    let at = at.field("conditions");
    let mut seen = HashSet::new();
    for (n, condition) in items(&object["status"]["conditions"]).iter().enumerate() {
        let at = at.index(n);
        let at = at.field("type");
        if !seen.insert(text(condition, "type")) {
            causes.duplicate(&at, &text(condition, "type").into());
        }
        causes.present(&at, &condition["type"], "");
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
        conditions(&mut causes, obj);
        if subresource.is_some() {
            return causes.0;
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        let name = text(&obj["metadata"], "name");
        level(&mut causes, &at, spec, name);
        if let Some(fixed) = mandatory("PriorityLevelConfiguration", name) {
            let mut expected = fixed.clone();
            let mut except = "";
            if name == "exempt" {
                copy(&mut expected, spec, "exempt");
                except = " except the 'spec.exempt' field";
            }
            if *spec != expected {
                let detail = format!("spec of '{name}'{except} must equal the fixed value");
                causes.invalid(&at, spec, &detail);
            }
        }
        causes.0
    }

    fn kept_by_status(&self) -> &'static [&'static str] {
        &super::METADATA
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

fn level(causes: &mut Causes, at: &At<'_>, spec: &Value, name: &str) {
    let kind = text(spec, "type");
    if (kind == "Exempt") != (name == "exempt") {
        let detail = "must be 'Exempt' if and only if `name` is 'exempt'";
        causes.invalid(&at.field("type"), &kind.into(), detail);
    }
    let (limited_at, exempt_at) = (at.field("limited"), at.field("exempt"));
    match kind {
        "Exempt" => {
            if !spec["limited"].is_null() {
                causes.forbidden(&limited_at, "must be nil if the type is not Limited");
            }
            shares(causes, &exempt_at, &spec["exempt"]);
        }
        "Limited" => {
            if !spec["exempt"].is_null() {
                causes.forbidden(&exempt_at, "must be nil if the type is Limited");
            }
            match &spec["limited"] {
                Value::Null => {
                    causes.required(&limited_at, "must not be empty when type is Limited");
                }
                limits => limited(causes, &limited_at, limits),
            }
        }
        _ => causes.not_supported(&at.field("type"), &kind.into(), &["Exempt", "Limited"]),
    }
}

/// What a level gets of the server, and what it lends to others.
fn shares(causes: &mut Causes, at: &At<'_>, level: &Value) {
    let shares = &level["nominalConcurrencyShares"];
    if shares.as_i64().is_some_and(|n| n < 0) {
        let detail = "must be a non-negative integer";
        causes.invalid(&at.field("nominalConcurrencyShares"), shares, detail);
    }
    causes.between(&at.field("lendablePercent"), &level["lendablePercent"], 0, 100);
}

fn limited(causes: &mut Causes, at: &At<'_>, limited: &Value) {
    shares(causes, at, limited);
    let borrowing = &limited["borrowingLimitPercent"];
    if borrowing.as_i64().is_some_and(|n| n < 0) {
        causes.invalid(
            &at.field("borrowingLimitPercent"),
            borrowing,
            "if specified, must be a non-negative integer",
        );
    }
    let response = &limited["limitResponse"];
    let at = at.field("limitResponse");
    let (kind, queuing, queuing_at) =
        (text(response, "type"), &response["queuing"], at.field("queuing"));
    match kind {
        "Reject" if !queuing.is_null() => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            causes.forbidden(&queuing_at, detail);
        }
        "Reject" => (),
        "Queue" if queuing.is_null() => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            causes.required(&queuing_at, detail);
        }
        "Queue" => queues(causes, &queuing_at, queuing),
        _ => causes.not_supported(&at.field("type"), &kind.into(), &["Queue", "Reject"]),
    }
}

fn queues(causes: &mut Causes, at: &At<'_>, queuing: &Value) {
    const MOST: i64 = 10_000_000;
    /// Bits of the hash that deals a flow its queues.
    const HASH_BITS: u32 = 60;
    let number = |field: &str| queuing[field].as_i64().unwrap_or_default();
    let (queues, hand) = (number("queues"), number("handSize"));
    let mut invalid =
        |field: &str, detail: &str| causes.invalid(&at.field(field), &queuing[field], detail);
    if number("queueLengthLimit") <= 0 {
        invalid("queueLengthLimit", "must be positive");
    }
    if queues <= 0 {
        invalid("queues", "must be positive");
    } else if queues > MOST {
        invalid("queues", &format!("must not be greater than {MOST}"));
    }
    if hand <= 0 {
        invalid("handSize", "must be positive");
    } else if hand > queues {
        invalid("handSize", &format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > f64::from(HASH_BITS) {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        invalid("handSize", &detail);
    }
}

/// Bits that it takes to draw `hand` cards, each from a whole deck.
fn entropy_bits(deck: i64, hand: i64) -> f64 {
    let number = |n: i64| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    (number(deck).log2() * number(hand)).ceil()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(causes: Vec<Cause>) -> Vec<String> {
        causes.into_iter().map(|c| c.field).collect()
    }

    #[test]
    fn a_hand_needs_no_more_bits_than_the_hash_has() {
        assert!(entropy_bits(64, 8) <= 60.0);
        assert!(entropy_bits(1024, 8) > 60.0);
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
