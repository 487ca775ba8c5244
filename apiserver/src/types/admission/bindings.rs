//! Bindings of policies.

use std::collections::HashSet;

use schema::Cause;
use serde_json::Value;

use super::{criteria, mutated};
use crate::types::Strategy;
use crate::types::check::{At, Causes, is_empty, items, text};

/// Strategy of the bindings of both kinds of policies.
pub(in crate::types) struct Bindings {
    /// Whether a binding says what is to be done about violations.
    pub(in crate::types) has_actions: bool,
}

impl Strategy for Bindings {
    fn unconditional_updates(&self) -> bool {
        false
    }

    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        if causes.present(&at.field("policyName"), &spec["policyName"], "") {
            causes.subdomain(&at.field("policyName"), &spec["policyName"]);
        }
        if !spec["paramRef"].is_null() {
            param_ref(&spec["paramRef"], &at.field("paramRef"), &mut causes);
        }
        if !spec["matchResources"].is_null() {
            criteria(&spec["matchResources"], &at.field("matchResources"), &mut causes);
        }
        if !self.has_actions {
            mutated(&spec["matchResources"], &at.field("matchResources"), &mut causes);
        }
        if self.has_actions {
            actions(&spec["validationActions"], &at.field("validationActions"), &mut causes);
        }
        causes.0
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

fn param_ref(reference: &Value, at: &At<'_>, causes: &mut Causes) {
    let named = !text(reference, "name").is_empty();
    causes.path_segment(&at.field("name"), &reference["name"]);
    match (named, reference["selector"].is_null()) {
        (true, false) => {
            let detail = "name and selector are mutually exclusive";
            causes.forbidden(&at.field("name"), detail);
            causes.forbidden(&at.field("selector"), detail);
        }
        (false, true) => causes.required(at, "one of name or selector must be specified"),
        _ => (),
    }
    causes.selector(&at.field("selector"), &reference["selector"]);
    let (action_at, action) =
        (at.field("parameterNotFoundAction"), &reference["parameterNotFoundAction"]);
    if is_empty(action) {
        return causes.required(&action_at, "");
    }
    causes.one_of(&action_at, action, &["Deny", "Allow"]);
}

fn actions(actions: &Value, at: &At<'_>, causes: &mut Causes) {
    causes.present(at, actions, "at least one validation action is required");
    let mut seen = HashSet::new();
    for (n, action) in items(actions).iter().enumerate() {
        causes.one_of(&at.index(n), action, &["Audit", "Deny", "Warn"]);
        if !seen.insert(action) {
            causes.duplicate(&at.index(n), action);
        }
    }
    let listed = |name: &str| items(actions).iter().any(|a| a == name);
    if listed("Deny") && listed("Warn") {
        causes.invalid(at, actions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
    }
}
