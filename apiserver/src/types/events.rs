//! Events: two groups show one stored type.

use schema::Cause;
use schema::print::{Fields, Shown};
use serde_json::{Value, json};

use super::check::{At, Causes, remove, text};
use super::{Conversion, Strategy, words};
use crate::registry::Selectable;
use crate::write::names;

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
pub(super) struct Events {
    /// Whether the group is `events.k8s.io`, which is stricter.
    pub(super) is_new: bool,
}

impl Strategy for Events {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let new = text(obj, "apiVersion").starts_with("events.k8s.io/");
        let object = if new { "regarding" } else { "involvedObject" };
        if obj["eventTime"].is_null() {
            old_style(&mut causes, obj, object);
        } else {
            new_style(&mut causes, obj, object, new);
        }
        match old.filter(|_| new) {
            Some(old) => unchanged(&mut causes, obj, old),
            None if new => strict(&mut causes, obj),
            None => (),
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
        let source = Selectable::new("source.component").labelled("source");
        fields.push(source.or_field("reportingComponent"));
        fields.push(Selectable::new("type"));
        fields
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        if self.is_new { words::subdomain(name) } else { names::path_segment(name) }
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn is_collected(&self) -> bool {
        false
    }
}

/// An event without a time of its own: it is in the namespace of its object.
fn old_style(causes: &mut Causes, event: &Value, object: &str) {
    let (wanted, given) =
        (text(&event["metadata"], "namespace"), text(&event[object], "namespace"));
    // Events about cluster-scoped objects are in the default namespace.
    if given != wanted && !(given.is_empty() && wanted == "default") {
        elsewhere(causes, given);
    }
}

/// An event with a time: it says who tells what.
fn new_style(causes: &mut Causes, event: &Value, object: &str, new: bool) {
    const MOST_BYTES: usize = 128;
    const MOST_NOTE_BYTES: usize = 1024;
    let given = text(&event[object], "namespace");
    if given.is_empty()
        && !matches!(text(&event["metadata"], "namespace"), "default" | "kube-system")
    {
        elsewhere(causes, given);
    }
    let reporter = if new { "reportingController" } else { "reportingComponent" };
    let (at, name) = (At::new(reporter), text(event, reporter));
    causes.present(&at, &event[reporter], "");
    causes.faults(&at, name, words::qualified(name));
    for field in ["reportingInstance", "action", "reason"] {
        causes.present(&At::new(field), &event[field], "");
        too_long(causes, field, text(event, field), MOST_BYTES);
    }
    let note = if new { "note" } else { "message" };
    too_long(causes, "message", text(event, note), MOST_NOTE_BYTES);
}

fn elsewhere(causes: &mut Causes, given: &str) {
    let at = At::new("involvedObject");
    causes.invalid(&at.field("namespace"), &given.into(), "does not match event.namespace");
}

fn too_long(causes: &mut Causes, field: &str, text: &str, most: usize) {
    if text.len() > most {
        let detail = format!("can have at most {most} characters");
        causes.invalid(&At::new(field), &"".into(), &detail);
    }
}

/// A reference to an object as Go shows it.
const REFERENCE: Fields = &[
    ("kind", Shown::Text),
    ("namespace", Shown::Text),
    ("name", Shown::Text),
    ("uid", Shown::Text),
    ("apiVersion", Shown::Text),
    ("resourceVersion", Shown::Text),
    ("fieldPath", Shown::Text),
];

/// What the newer group lets nobody change: everything but the series.
fn unchanged(causes: &mut Causes, event: &Value, old: &Value) {
    if event["series"] != old["series"] {
        series(causes, event);
    }
    let own = ["reason", "type", "eventTime", "action", "related", "reportingInstance", "reason"];
    let shared = NAMES.map(|(name, shown)| match name {
        "reportingComponent" => (shown, shown),
        _ => (name, shown),
    });
    for (name, shown) in shared.into_iter().chain(own.map(|field| (field, field))) {
        let is_text = ["reason", "type", "action", "reportingInstance", "reportingController"];
        let shown_of = |event: &Value| match &event[shown] {
            Value::Null if is_text.contains(&shown) || shown == "note" => "".into(),
            value => value.clone(),
        };
        let (at, event, old) = (At::new(name), shown_of(event), shown_of(old));
        if event.is_object() {
            causes.immutable_part(&at, REFERENCE, &event, &old);
        } else {
            causes.immutable(&at, &event, &old);
        }
    }
}

fn series(causes: &mut Causes, event: &Value) {
    let series = &event["series"];
    if !series.is_null() {
        if series["count"].as_i64().unwrap_or_default() < 2 {
            causes.invalid(&At::new("series.count"), &"".into(), "should be at least 2");
        }
        causes.present(&At::new("series.lastObservedTime"), &series["lastObservedTime"], "");
    }
}

/// What the newer group requires of a new event beyond that.
fn strict(causes: &mut Causes, event: &Value) {
    series(causes, event);
    causes.present(&At::new("eventTime"), &event["eventTime"], "");
    let kind = text(event, "type");
    if !matches!(kind, "Normal" | "Warning") {
        causes.invalid(&At::new("type"), &"".into(), &format!("has invalid value: {kind}"));
    }
    for (name, shown) in [
        ("firstTimestamp", "deprecatedFirstTimestamp"),
        ("lastTimestamp", "deprecatedLastTimestamp"),
        ("count", "deprecatedCount"),
        ("source", "deprecatedSource"),
    ] {
        if !super::check::is_empty(&event[shown]) {
            causes.invalid(&At::new(name), &"".into(), "needs to be unset");
        }
    }
}

/// Between the stored form and that of events.k8s.io/v1.
pub(super) struct NewForm;

impl Conversion for NewForm {
    fn from_stored(&self, obj: &mut Value) {
        for (stored, shown) in NAMES {
            rename(obj, stored, shown);
        }
        // Of the fields that core/v1 always writes the newer form leaves these out.
        for field in ["reportingController", "reportingInstance"] {
            if text(obj, field).is_empty() {
                remove(obj, field);
            }
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

    fn stored_field(&self, label: &str) -> Option<String> {
        if let Some(field) = label.strip_prefix("regarding.") {
            return Some(format!("involvedObject.{field}"));
        }
        match label {
            "reportingController" => Some("reportingComponent".to_owned()),
            "reportingComponent" | "source" => None,
            _ if label.starts_with("involvedObject.") => None,
            other => Some(other.to_owned()),
        }
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
    fn each_form_has_its_own_names_of_fields() {
        let stored = |label| NewForm.stored_field(label);
        assert_eq!(stored("regarding.kind").as_deref(), Some("involvedObject.kind"));
        assert_eq!(stored("reason").as_deref(), Some("reason"));
        assert_eq!(stored("involvedObject.kind"), None);
        assert_eq!(stored("source"), None);
    }

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
        const EVENTS: Events = Events { is_new: false };
        assert!(EVENTS.validate(&event("a", "a"), None, None).is_empty());
        assert!(EVENTS.validate(&event("default", ""), None, None).is_empty());
        assert_eq!(EVENTS.validate(&event("a", ""), None, None).len(), 1);
    }
}
