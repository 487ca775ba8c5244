//! Disruption budgets, priority classes, runtime classes and leases.

use schema::Cause;
use schema::print::{Fields, Shown};
use serde_json::{Value, json};

use super::check::{At, Causes, default, is_empty, items, part, remove, text};
use super::{Ctx, Strategy, words};
use crate::status::{ApiError, GroupResource};
use crate::write::names;

/// Strategy of `poddisruptionbudgets`.
pub(crate) struct Budgets;

impl Strategy for Budgets {
    fn unconditional_updates(&self) -> bool {
        false
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        Ok(())
    }

    fn default(&self, obj: &mut Value) {
        default(obj, "spec", json!({}));
    }

    fn validate(&self, obj: &Value, _old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource.is_some() {
            let (status, at) = (&obj["status"], At::new("status"));
            causes.conditions(&at.field("conditions"), &status["conditions"]);
            for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"]
            {
                causes.not_negative(&at.field(field), &status[field]);
            }
            return causes.0;
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        let limits = ["minAvailable", "maxUnavailable"];
        if limits.iter().all(|f| !spec[*f].is_null()) {
            causes.invalid(&at, spec, "minAvailable and maxUnavailable cannot be both set");
        }
        for field in limits {
            causes.count_or_percent(&at.field(field), &spec[field]);
            causes.at_most_all(&at.field(field), &spec[field]);
        }
        let policy = at.field("unhealthyPodEvictionPolicy");
        causes.one_of(
            &policy,
            &spec["unhealthyPodEvictionPolicy"],
            &["AlwaysAllow", "IfHealthyBudget"],
        );
        causes.selector(&at.field("selector"), &spec["selector"]);
        causes.0
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// Strategy of `priorityclasses`.
pub(crate) struct Priorities;

const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;
/// Classes that the server makes itself.
const SYSTEM_CLASSES: [&str; 2] = ["system-node-critical", "system-cluster-critical"];

impl Strategy for Priorities {
    fn prepare_delete(&self, ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        let name = text(&obj["metadata"], "name");
        if !SYSTEM_CLASSES.contains(&name) || ctx.request.verb == "deletecollection" {
            return Ok(());
        }
        let about = GroupResource::new("scheduling.k8s.io", "priorityclasses");
        let why = "this is a system priority class and cannot be deleted";
        Err(ApiError::forbidden_object(about, name, why))
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let policy = &obj["preemptionPolicy"];
        if let Some(old) = old {
            if obj["value"] != old["value"] {
                causes.forbidden(&At::new("value"), "may not be changed in an update.");
            }
            causes.immutable(&At::new("preemptionPolicy"), policy, &old["preemptionPolicy"]);
            return causes.0;
        }
        match policy.as_str() {
            Some("") => causes.required(&At::new("preemptionPolicy"), ""),
            _ => {
                let known = ["PreemptLowerPriority", "Never"];
                causes.one_of(&At::new("preemptionPolicy"), policy, &known);
            }
        }
        let name = text(&obj["metadata"], "name");
        let value = obj["value"].as_i64().unwrap_or_default();
        let known = match name {
            "system-cluster-critical" => Some(2_000_000_000),
            "system-node-critical" => Some(2_000_001_000),
            _ => None,
        };
        let fault = match known {
            None => Some(format!("{name} is not a known system priority class")),
            Some(wanted) if value != wanted => {
                Some(format!("value of {name} PriorityClass must be {wanted}"))
            }
            Some(_) if obj["globalDefault"] == true => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        let meta = At::new("metadata");
        if let Some(fault) = fault.filter(|_| name.starts_with("system-")) {
            let why = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {fault}"
            );
            causes.forbidden(&meta.field("name"), &why);
        }
        if value > HIGHEST_USER_PRIORITY && !name.starts_with("system-") {
            let why = format!(
                "maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
            );
            causes.forbidden(&At::new("value"), &why);
        }
        causes.0
    }

    fn starts_generation(&self) -> bool {
        true
    }
}

/// Strategy of `runtimeclasses`.
pub(crate) struct Runtimes;

impl Strategy for Runtimes {
    fn creates_on_update(&self) -> bool {
        true
    }

    fn unconditional_updates(&self) -> bool {
        false
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let handler = text(obj, "handler");
        if causes.present(&At::new("handler"), &handler.into(), "") {
            causes.faults(&At::new("handler"), handler, words::label(handler));
        }
        if let Some(old) = old {
            causes.immutable(&At::new("handler"), &obj["handler"], &old["handler"]);
        }
        super::pod::overhead(&mut causes, &At::new("overhead"), &obj["overhead"]["podFixed"]);
        let at = At::new("scheduling");
        causes.labels(&at.field("nodeSelector"), &obj["scheduling"]["nodeSelector"]);
        let tolerations = &obj["scheduling"]["tolerations"];
        let list_at = at.field("tolerations");
        super::pod::tolerations(&mut causes, &list_at, tolerations);
        let list = items(tolerations);
        for (n, toleration) in list.iter().enumerate().filter(|(n, t)| list[..*n].contains(t)) {
            causes.duplicate_part(&list_at.index(n), TOLERATION, toleration);
        }
        causes.0
    }
}

/// A toleration as Go shows it.
const TOLERATION: Fields = &[
    ("key", Shown::Text),
    ("operator", Shown::Text),
    ("value", Shown::Text),
    ("effect", Shown::Text),
    ("tolerationSeconds", Shown::Any),
];

/// Strategy of `leases`.
pub(crate) struct Leases;

impl Strategy for Leases {
    fn unconditional_updates(&self) -> bool {
        false
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        drop_election(obj, &Value::Null);
        Ok(())
    }

    fn prepare_update(
        &self,
        _ctx: &Ctx<'_>,
        obj: &mut Value,
        old: &Value,
        _subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        drop_election(obj, old);
        Ok(())
    }

    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        causes.positive(&at.field("leaseDurationSeconds"), &spec["leaseDurationSeconds"]);
        causes.not_negative(&at.field("leaseTransitions"), &spec["leaseTransitions"]);
        if let Some(holder) = spec["holderIdentity"].as_str()
            && holder.is_empty()
            && !is_empty(&spec["strategy"])
        {
            causes.required(&at.field("holderIdentity"), "");
        }
        causes.0
    }

    fn creates_on_update(&self) -> bool {
        true
    }
}

/// Coordinated leader election is off by default: what belongs to it stays only where it is already.
fn drop_election(lease: &mut Value, old: &Value) {
    for field in ["strategy", "preferredHolder"] {
        if old["spec"][field].is_null()
            && let Some(spec) = part(lease, "spec")
        {
            remove(spec, field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(causes: Vec<Cause>) -> Vec<String> {
        causes.into_iter().map(|c| c.field).collect()
    }

    #[test]
    fn budgets_have_one_limit() {
        let budget = json!({"spec": {"minAvailable": -1, "maxUnavailable": "150%"}});
        assert_eq!(
            fields(Budgets.validate(&budget, None, None)),
            ["spec", "spec.minAvailable", "spec.maxUnavailable"]
        );
    }

    #[test]
    fn system_priorities_are_reserved() {
        let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
        assert_eq!(
            fields(Priorities.validate(&class("system-x", 1), None, None)),
            ["metadata.name"]
        );
        let known = class("system-node-critical", 2_000_001_000);
        assert!(Priorities.validate(&known, None, None).is_empty());
        assert_eq!(fields(Priorities.validate(&class("x", 2_000_000_000), None, None)), ["value"]);
    }
}
