//! `mutatingadmissionpolicies`.

use schema::Cause;
use schema::cel::ExpressionScope;
use serde_json::Value;

use super::{expression, policy};
use crate::types::Strategy;
use crate::types::check::{At, Causes, items, text};

/// Strategy of `mutatingadmissionpolicies`.
pub(in crate::types) struct MutatingPolicies;

impl Strategy for MutatingPolicies {
    fn unconditional_updates(&self) -> bool {
        false
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        if old.is_some_and(|old| old["spec"] == *spec) {
            return causes.0;
        }
        let scope = policy(spec, &at, true, &mut causes).with_variables();
        let mutations_at = at.field("mutations");
        causes.present(
            &mutations_at,
            &spec["mutations"],
            "mutations must contain at least one item",
        );
        for (n, mutation) in items(&spec["mutations"]).iter().enumerate() {
            let at = mutations_at.index(n);
            let kinds = ["ApplyConfiguration", "JSONPatch"];
            if !causes.present(&at.field("patchType"), &mutation["patchType"], "") {
                continue;
            }
            causes.one_of(&at.field("patchType"), &mutation["patchType"], &kinds);
            self::mutation(&mut causes, &at, mutation, &scope);
        }
        let again = at.field("reinvocationPolicy");
        if causes.present(&again, &spec["reinvocationPolicy"], "") {
            causes.one_of(&again, &spec["reinvocationPolicy"], &["IfNeeded", "Never"]);
        }
        causes.0
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// The expression of a mutation, which is that of its kind of patch and no other.
fn mutation(causes: &mut Causes, at: &At<'_>, mutation: &Value, scope: &ExpressionScope) {
    let (kind, key, other, wanted) = match text(mutation, "patchType") {
        "JSONPatch" => ("JSONPatch", "jsonPatch", "applyConfiguration", "list(JSONPatch)"),
        "ApplyConfiguration" => ("ApplyConfiguration", "applyConfiguration", "jsonPatch", "Object"),
        _ => return,
    };
    if mutation[key].is_null() {
        let detail = format!("must be specified when patchType is {kind}");
        causes.required(&at.field(key), &detail);
    } else {
        let place = (&at.field(key), scope);
        expression(&mutation[key], "expression", "", &[wanted], place, causes);
    }
    if !mutation[other].is_null() {
        let detail = format!("must not be specified when patchType is {kind}");
        causes.invalid(&at.field(other), &format!("{{{other}}}").into(), &detail);
    }
}
