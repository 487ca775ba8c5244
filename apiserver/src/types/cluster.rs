//! Namespaces and nodes.

use std::collections::HashSet;

use schema::Cause;
use serde_json::{Value, json};

use super::check::{At, Causes, copy, ensure, is_empty, items, members, part, text};
use super::{Ctx, Strategy, addresses, words};
use crate::registry::Selectable;
use crate::status::ApiError;

/// Label with the namespace's own name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Strategy of `namespaces`.
pub(crate) struct Namespaces;

impl Strategy for Namespaces {
    fn default(&self, obj: &mut Value) {
        let name = text(&obj["metadata"], "name").to_owned();
        if !name.is_empty() {
            ensure(&mut obj["metadata"], "labels").insert(NAME_LABEL.to_owned(), name.into());
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({"phase": "Active"});
        let spec = ensure(obj, "spec");
        let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
        if !finalizers.is_array() {
            *finalizers = json!([]);
        }
        if let Some(list) = finalizers.as_array_mut()
            && !list.iter().any(|f| f == "kubernetes")
        {
            list.push("kubernetes".into());
        }
        Ok(())
    }

    fn prepare_update(
        &self,
        _ctx: &Ctx<'_>,
        obj: &mut Value,
        old: &Value,
        subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        match subresource {
            // Only these two parts may end a namespace.
            None => {
                copy(obj, old, "spec");
                copy(obj, old, "status");
            }
            Some("status") => copy(obj, old, "spec"),
            Some("finalize") => {
                copy(obj, old, "status");
                if is_empty(&obj["spec"]["finalizers"]) {
                    obj["spec"] = json!({});
                }
            }
            Some(_) => (),
        }
        Ok(())
    }

    fn validate(&self, obj: &Value, _old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource == Some("status") {
            phase(&mut causes, obj);
            return causes.0;
        }
        let spec = At::new("spec");
        let list = spec.field("finalizers");
        for (n, finalizer) in items(&obj["spec"]["finalizers"]).iter().enumerate() {
            // Which one it is, upstream says only where they are all that can change.
            let at = if subresource == Some("finalize") { list.index(n) } else { list };
            let name = finalizer.as_str().unwrap_or_default();
            causes.faults(&at, name, words::qualified(name));
            if !name.contains('/') && name != "kubernetes" {
                let fault = "name is neither a standard finalizer name nor is it fully qualified";
                causes.invalid(&at, finalizer, fault);
            }
        }
        causes.0
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        words::label(name)
    }

    fn selectable(&self) -> Vec<Selectable> {
        vec![Selectable::new("status.phase")]
    }

    fn prepare_delete(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        ensure(obj, "status").insert("phase".to_owned(), "Terminating".into());
        Ok(())
    }

    fn deletes_plainly(&self) -> bool {
        true
    }

    fn holds(&self, obj: &Value) -> bool {
        !items(&obj["spec"]["finalizers"]).is_empty()
    }
}

/// The phase says whether the namespace is being deleted, and nothing else.
fn phase(causes: &mut Causes, namespace: &Value) {
    let (wanted, when) = match namespace["metadata"]["deletionTimestamp"].is_null() {
        true => ("Active", "empty"),
        false => ("Terminating", "not empty"),
    };
    let phase = &namespace["status"]["phase"];
    if phase != wanted {
        let status = At::new("status");
        let detail = format!("may only be '{wanted}' if `deletionTimestamp` is {when}");
        causes.invalid(&status.field("Phase"), phase, &detail);
    }
}

/// Strategy of `nodes`.
pub(crate) struct Nodes;

impl Strategy for Nodes {
    fn default(&self, obj: &mut Value) {
        // Two names of the first range.
        if let Some(spec) = part(obj, "spec") {
            let one = text(spec, "podCIDR").to_owned();
            let first = items(&spec["podCIDRs"]).first().cloned();
            match first {
                Some(first) if one.is_empty() => spec["podCIDR"] = first,
                // If they differ, the single one counts.
                first if !one.is_empty() && first != Some(json!(one)) => {
                    spec["podCIDRs"] = json!([one]);
                }
                _ => (),
            }
        }
        if let Some(status) = part(obj, "status")
            && !is_empty(&status["capacity"])
            && is_empty(&status["allocatable"])
        {
            status["allocatable"] = status["capacity"].clone();
        }
    }

    fn refused_fields(&self) -> &'static [&'static str] {
        &["/spec/configSource", "/status/config"]
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        resources(&mut causes, &obj["status"], old.is_some());
        declared_features(&mut causes, &obj["status"]["declaredFeatures"]);
        if subresource.is_some() {
            return causes.0;
        }
        let spec = &obj["spec"];
        taints(&mut causes, &spec["taints"]);
        if old.is_some() {
            // Upstream judges them twice.
            taints(&mut causes, &spec["taints"]);
        }
        let at = At::new("spec");
        let ranges = at.field("podCIDRs");
        for (n, range) in items(&spec["podCIDRs"]).iter().enumerate() {
            causes.range(&ranges.index(n), range);
        }
        if items(&spec["podCIDRs"]).len() > 1 {
            pair(&mut causes, &ranges, &spec["podCIDRs"]);
        }
        if let Some(old) = old.map(|o| &o["spec"]) {
            if !is_empty(&old["podCIDRs"]) && spec["podCIDRs"] != old["podCIDRs"] {
                causes.forbidden(
                    &ranges,
                    "node updates may not change podCIDR except from \"\" to valid",
                );
            }
            if spec["externalID"] != old["externalID"] {
                causes.forbidden(&at.field("externalID"), "may not be updated");
            }
            if !is_empty(&old["providerID"]) && spec["providerID"] != old["providerID"] {
                let detail = "node updates may not change providerID except from \"\" to valid";
                causes.forbidden(&at.field("providerID"), detail);
            }
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let unused = !is_empty(&obj["spec"]["externalID"]);
        let text = "spec.externalID: this field is deprecated, and is unused by Kubernetes";
        unused.then(|| text.to_owned()).into_iter().collect()
    }

    fn selectable(&self) -> Vec<Selectable> {
        vec![Selectable::new("spec.unschedulable").or("false")]
    }
}

/// Amounts and addresses that a node tells of itself.
/// Names of features, each once and in order.
fn declared_features(causes: &mut Causes, features: &Value) {
    const MOST_BYTES: usize = 253;
    const RULE: &str = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes";
    let at = At::new("status");
    let at = at.field("declaredFeatures");
    let segment = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let names: Vec<&str> = items(features).iter().filter_map(Value::as_str).collect();
    for (n, name) in names.iter().enumerate() {
        let good =
            name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(segment);
        if name.len() > MOST_BYTES {
            let why = format!(
                "invalid feature name {name:?}: must be no more than {MOST_BYTES} characters"
            );
            causes.invalid(&at.index(n), &(*name).into(), &why);
        } else if !good {
            let why = format!("invalid feature name {name:?}: {RULE}");
            causes.invalid(&at.index(n), &(*name).into(), &why);
        }
        match names.get(n + 1) {
            Some(next) if next == name => causes.duplicate(&at.index(n + 1), &(*next).into()),
            Some(next) if *next < *name => {
                let why = "list must be sorted alphabetically";
                causes.invalid(&at.index(n + 1), &(*next).into(), why);
            }
            _ => (),
        }
    }
}

fn resources(causes: &mut Causes, status: &Value, updated: bool) {
    let at = At::new("status");
    for part in ["capacity", "allocatable"] {
        let at = at.field(part);
        for (name, amount) in members(&status[part]) {
            super::pod::amount(causes, &at.field(name), name, amount);
        }
    }
    let list = at.field("addresses");
    let mut seen = HashSet::new();
    for (n, address) in items(&status["addresses"]).iter().enumerate() {
        if !seen.insert(address) && updated {
            causes.duplicate(&list.index(n), address);
        }
    }
}

/// Two ranges must be of two families.
fn pair(causes: &mut Causes, at: &At<'_>, ranges: &Value) {
    let list = items(ranges);
    let bad = list.iter().position(|r| addresses::range(r.as_str().unwrap_or_default()).is_err());
    if let Some(n) = bad {
        let text = list[n].as_str().unwrap_or_default();
        causes.0.push(Cause {
            reason: schema::Reason::InternalError,
            field: at.to_string(),
            message: format!(
                "Internal error: invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{n}]: <nil> (invalid CIDR address: {text})"
            ),
        });
    }
    let v6 = list.iter().filter(|r| r.as_str().unwrap_or_default().contains(':')).count();
    if list.len() > 2 || v6 != 1 {
        causes.invalid(at, ranges, "may specify no more than one CIDR for each IP family");
    }
}

/// Upstream reports taints below `metadata`.
fn taints(causes: &mut Causes, taints: &Value) {
    let at = At::new("metadata");
    let at = at.field("taints");
    let mut seen = HashSet::new();
    for (n, taint) in items(taints).iter().enumerate() {
        let at = at.index(n);
        let (key, effect) = (text(taint, "key"), text(taint, "effect"));
        causes.faults(&at.field("key"), key, words::qualified(key));
        let value = text(taint, "value");
        causes.faults(&at.field("value"), value, words::label_value(value));
        causes.present(&at.field("effect"), &taint["effect"], "");
        super::pod::taint_effect(causes, &at.field("effect"), effect);
        if !seen.insert((key, effect)) {
            let mut cause = Cause::duplicate(at.to_string(), taint);
            cause.message += ": taints must be unique by key and effect pair";
            causes.0.push(cause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_carries_its_name() {
        let mut namespace =
            json!({"metadata": {"name": "x", "labels": {NAME_LABEL: "other", "a": "b"}}});
        Namespaces.default(&mut namespace);
        assert_eq!(namespace["metadata"]["labels"], json!({"a": "b", NAME_LABEL: "x"}));
        assert!(Namespaces.holds(&json!({"spec": {"finalizers": ["kubernetes"]}})));
        assert!(!Namespaces.holds(&json!({"spec": {}})));
    }

    #[test]
    fn nodes_keep_their_range() {
        let node = |range: &str| json!({"spec": {"podCIDRs": [range]}});
        assert!(Nodes.validate(&node("10.9.0.0/24"), Some(&json!({"spec": {}})), None).is_empty());
        assert_eq!(Nodes.validate(&node("10.9.1.0/24"), Some(&node("10.9.0.0/24")), None).len(), 1);
    }

    #[test]
    fn taints_are_unique() {
        let taint = json!({"key": "k", "effect": "NoSchedule"});
        let node = json!({"spec": {"taints": [taint, taint, {"key": "k", "effect": "Odd"}]}});
        let fields: Vec<String> =
            Nodes.validate(&node, None, None).into_iter().map(|c| c.field).collect();
        assert_eq!(fields, ["metadata.taints[1]", "metadata.taints[2].effect"]);
    }
}
