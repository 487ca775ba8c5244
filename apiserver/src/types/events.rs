//! Events: two groups show one stored type.

use schema::Cause;
use serde_json::{Value, json};

use super::check::{At, Causes, remove, text};
use super::{Conversion, Strategy, words};
use crate::registry::Selectable;

/// Names in core/v1, which is what is stored, and in events.k8s.io/v1.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Strategy of `events` of both groups.
pub(super) struct Events;

impl Strategy for Events {
    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        let new = text(obj, "apiVersion").starts_with("events.k8s.io/");
        let object = if new { "regarding" } else { "involvedObject" };
        let wanted = text(&obj["metadata"], "namespace");
        let given = text(&obj[object], "namespace");
        // Events about cluster-scoped objects are in the default namespace.
        if given != wanted && !(given.is_empty() && wanted == "default") {
            let at = At::new("involvedObject");
            causes.invalid(&at.field("namespace"), &given.into(), "does not match event.namespace");
        }
        if new {
            strict(&mut causes, obj);
        }
        causes.0
    }

    fn selectable(&self) -> Vec<Selectable> {
        let mut fields: Vec<Selectable> =
            ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"]
                .iter()
                .map(|field| Selectable::new(&format!("involvedObject.{field}")))
                .collect();
        fields.push(Selectable::new("reason"));
        fields.push(Selectable::new("reportingComponent"));
        fields.push(Selectable::new("source.component").labelled("source"));
        fields.push(Selectable::new("type"));
        fields
    }

    fn creates_on_update(&self) -> bool {
        true
    }
}

/// What the newer group requires.
fn strict(causes: &mut Causes, event: &Value) {
    if event["eventTime"].is_null() {
        causes.required(&At::new("eventTime"), "");
    }
    let controller = text(event, "reportingController");
    let at = At::new("reportingController");
    if controller.is_empty() {
        causes.required(&at, "");
    } else {
        causes.faults(&at, controller, words::qualified(controller));
    }
    for field in ["reportingInstance", "action", "reason"] {
        let limit = 128;
        if causes.present(&At::new(field), &event[field], "") && text(event, field).len() > limit {
            causes.invalid(
                &At::new(field),
                &"".into(),
                &format!("can have at most {limit} characters"),
            );
        }
    }
    if text(event, "note").len() > 1024 {
        causes.invalid(&At::new("note"), &"".into(), "can have at most 1024 characters");
    }
    causes.one_of(&At::new("type"), &event["type"], &["Normal", "Warning"]);
}

/// Between the stored form and that of events.k8s.io/v1.
pub(super) struct NewForm;

impl Conversion for NewForm {
    fn from_stored(&self, obj: &mut Value) {
        for (stored, shown) in NAMES {
            rename(obj, stored, shown);
        }
        obj["apiVersion"] = "events.k8s.io/v1".into();
        obj["kind"] = "Event".into();
    }

    fn to_stored(&self, obj: &mut Value) {
        for (stored, shown) in NAMES {
            rename(obj, shown, stored);
        }
        // What core/v1 always writes.
        for field in ["source", "involvedObject"] {
            super::check::default(obj, field, json!({}));
        }
        for field in ["firstTimestamp", "lastTimestamp", "eventTime"] {
            if obj.get(field).is_none() {
                obj[field] = Value::Null;
            }
        }
        obj["apiVersion"] = "v1".into();
        obj["kind"] = "Event".into();
    }
}

fn rename(object: &mut Value, from: &str, to: &str) {
    if let Some(value) = remove(object, from) {
        object[to] = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_convert_back_and_forth() {
        let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": {"name": "x"}, "note": "n",
            "reportingController": "c", "deprecatedSource": {}, "deprecatedFirstTimestamp": null, "deprecatedLastTimestamp": null, "eventTime": null});
        let mut obj = new.clone();
        NewForm.to_stored(&mut obj);
        assert_eq!((&obj["message"], &obj["involvedObject"]["name"]), (&json!("n"), &json!("x")));
        NewForm.from_stored(&mut obj);
        assert_eq!(obj, new);
    }

    #[test]
    fn events_are_in_the_namespace_of_their_object() {
        let event = |namespace: &str, object: &str| json!({"apiVersion": "v1", "metadata": {"namespace": namespace}, "involvedObject": {"namespace": object}});
        assert!(Events.validate(&event("a", "a"), None, None).is_empty());
        assert!(Events.validate(&event("default", ""), None, None).is_empty());
        assert_eq!(Events.validate(&event("a", ""), None, None).len(), 1);
    }
}
