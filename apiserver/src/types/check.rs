//! Small checks on JSON values, in upstream's words, and the paths that they report.

mod values;

use std::collections::HashSet;
use std::fmt;

use schema::Cause;
use schema::print::{self, Fields};
use serde_json::Value;

pub(crate) use values::{
    copy, default, ensure, flag, is_empty, items, items_mut, members, nano, part, percent,
    port_name, push, remove, remove_new, shown, text,
};

use super::words as names;

/// What a condition's status may be.
pub(crate) const CONDITION_STATUSES: [&str; 3] = ["False", "True", "Unknown"];

/// A field's place, kept on the stack and written out only when something is wrong.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> At<'a> {
    /// A field of the object; dots are taken as they are.
    pub(crate) const fn new(field: &'a str) -> At<'a> {
        At { parent: None, step: Step::Field(field) }
    }

    /// A field of this value.
    pub(crate) const fn field(&'a self, name: &'a str) -> At<'a> {
        At { parent: Some(self), step: Step::Field(name) }
    }

    /// Another field of the object that has this one.
    pub(crate) const fn sibling(&self, name: &'a str) -> At<'a> {
        At { parent: self.parent, step: Step::Field(name) }
    }

    /// An entry of this list.
    pub(crate) const fn index(&'a self, index: usize) -> At<'a> {
        At { parent: Some(self), step: Step::Index(index) }
    }

    /// A value of this map.
    pub(crate) const fn key(&'a self, key: &'a str) -> At<'a> {
        At { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        match self.step {
            // So upstream shows a field without a name.
            Step::Field("") => f.write_str("[]"),
            Step::Field(name) if self.parent.is_some() => write!(f, ".{name}"),
            Step::Field(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// The causes that were found so far.
#[derive(Default)]
pub(crate) struct Causes(pub(crate) Vec<Cause>);

impl Causes {
    pub(crate) fn required(&mut self, at: &At<'_>, detail: &str) {
        self.0.push(Cause::required(at.to_string(), detail));
    }

    pub(crate) fn invalid(&mut self, at: &At<'_>, value: &Value, detail: &str) {
        self.0.push(Cause::invalid(at.to_string(), value, detail));
    }

    pub(crate) fn forbidden(&mut self, at: &At<'_>, detail: &str) {
        self.0.push(Cause::forbidden(at.to_string(), detail));
    }

    pub(crate) fn duplicate(&mut self, at: &At<'_>, value: &Value) {
        self.0.push(Cause::duplicate(at.to_string(), value));
    }

    /// As [`Causes::invalid`], with a part that Go shows as its internal struct.
    pub(crate) fn invalid_part(&mut self, at: &At<'_>, fields: Fields, part: &Value, detail: &str) {
        self.0.push(Cause::invalid_as(at.to_string(), &print::internal(fields, part), detail));
    }

    /// As [`Causes::duplicate`], with a part that Go shows as its internal struct.
    pub(crate) fn duplicate_part(&mut self, at: &At<'_>, fields: Fields, part: &Value) {
        self.0.push(Cause::duplicate_as(at.to_string(), &print::internal(fields, part)));
    }

    /// As [`Causes::not_supported`], with a part that Go shows as its internal struct.
    pub(crate) fn not_supported_part(
        &mut self,
        at: &At<'_>,
        fields: Fields,
        part: &Value,
        supported: &[&str],
    ) {
        let shown = print::internal(fields, part);
        let supported = supported.iter().copied();
        self.0.push(Cause::not_supported_as(at.to_string(), &shown, supported));
    }

    pub(crate) fn not_found(&mut self, at: &At<'_>, value: &Value) {
        self.0.push(Cause::not_found(at.to_string(), value));
    }

    pub(crate) fn not_supported(&mut self, at: &At<'_>, value: &Value, supported: &[&str]) {
        self.0.push(Cause::not_supported(at.to_string(), value, supported.iter().copied()));
    }

    /// A cause a fault.
    pub(crate) fn faults(&mut self, at: &At<'_>, value: &str, faults: Vec<String>) {
        for fault in faults {
            self.invalid(at, &value.into(), &fault);
        }
    }

    /// The value must be one of these; an absent one is left to others.
    pub(crate) fn one_of(&mut self, at: &At<'_>, value: &Value, supported: &[&str]) {
        if let Some(text) = value.as_str()
            && !supported.contains(&text)
        {
            self.not_supported(at, value, supported);
        }
    }

    /// The value must be there, and one of these.
    pub(crate) fn one_of_needed(&mut self, at: &At<'_>, value: &Value, supported: &[&str]) {
        if is_empty(value) {
            let quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
            return self.required(at, &format!("valid values: [{}]", quoted.join(" ")));
        }
        self.one_of(at, value, supported);
    }

    /// A list of `n` entries must not have more than `most`.
    pub(crate) fn at_most(&mut self, at: &At<'_>, n: usize, most: u64) {
        if n as u64 > most {
            self.0.push(Cause::too_many(at.to_string(), n, most));
        }
    }

    /// A path below a domain: `example.com/a`.
    pub(crate) fn domain_path(&mut self, at: &At<'_>, path: &str) {
        if path.is_empty() {
            return self.required(at, "");
        }
        let parts =
            path.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty());
        let Some((host, path)) = parts else {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            return self.invalid(at, &path.into(), detail);
        };
        self.faults(at, host, names::subdomain(host));
        let good = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
        if !path.chars().all(good) {
            let detail =
                "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
            self.invalid(at, &path.into(), detail);
        }
    }

    /// The value must not be empty.
    pub(crate) fn present(&mut self, at: &At<'_>, value: &Value, detail: &str) -> bool {
        let there = !is_empty(value);
        if !there {
            self.required(at, detail);
        }
        there
    }

    /// An integer that is there must not be negative.
    pub(crate) fn not_negative(&mut self, at: &At<'_>, value: &Value) {
        if value.as_i64().is_some_and(|n| n < 0) {
            self.invalid(at, value, "must be greater than or equal to 0");
        }
    }

    /// An integer that is there must be positive.
    pub(crate) fn positive(&mut self, at: &At<'_>, value: &Value) {
        if value.as_i64().is_some_and(|n| n <= 0) {
            self.invalid(at, value, "must be greater than 0");
        }
    }

    /// An integer that is there must lie between these, both included.
    pub(crate) fn between(&mut self, at: &At<'_>, value: &Value, low: i64, high: i64) {
        if value.as_i64().is_some_and(|n| n < low || n > high) {
            self.invalid(at, value, &format!("must be between {low} and {high}, inclusive"));
        }
    }

    /// A port number or the name of one.
    pub(crate) fn port_or_name(&mut self, at: &At<'_>, value: &Value) {
        match value {
            Value::String(name) => self.faults(at, name, port_name(name)),
            number => self.between(at, number, 1, 65535),
        }
    }

    /// A name that is there must be a DNS subdomain.
    pub(crate) fn subdomain(&mut self, at: &At<'_>, value: &Value) {
        if let Some(text) = value.as_str() {
            self.faults(at, text, names::subdomain(text));
        }
    }

    /// A name that is there must be a DNS label.
    pub(crate) fn label(&mut self, at: &At<'_>, value: &Value) {
        if let Some(text) = value.as_str() {
            self.faults(at, text, names::label(text));
        }
    }

    /// A name that is there must fit into one segment of a path.
    pub(crate) fn path_segment(&mut self, at: &At<'_>, value: &Value) {
        if let Some(text) = value.as_str() {
            self.faults(at, text, crate::write::names::path_segment(text));
        }
    }

    /// A DNS name with at least two parts.
    pub(crate) fn full_name(&mut self, at: &At<'_>, name: &str) {
        if name.is_empty() {
            return self.required(at, "");
        }
        let bare = name.strip_suffix('.').unwrap_or(name);
        let faults = names::subdomain(bare);
        if !faults.is_empty() {
            return self.faults(at, bare, faults);
        }
        if !bare.contains('.') {
            self.invalid(
                at,
                &name.into(),
                "should be a domain with at least two segments separated by dots",
            );
        }
        let long = bare.split('.').find(|label| label.len() > 63);
        if let Some(label) = long {
            self.invalid(at, &label.into(), "must be no more than 63 characters");
        }
    }

    /// Keys and values of a map of labels.
    pub(crate) fn labels(&mut self, at: &At<'_>, labels: &Value) {
        for (key, value) in members(labels) {
            self.faults(at, key, names::qualified(key));
            let value = value.as_str().unwrap_or_default();
            self.faults(at, value, names::label_value(value));
        }
    }

    /// Keys of a map of annotations, and the size of all.
    pub(crate) fn annotations(&mut self, at: &At<'_>, annotations: &Value) {
        const MOST_BYTES: usize = 256 * 1024;
        let mut bytes = 0;
        for (key, value) in members(annotations) {
            self.faults(at, key, names::qualified(&key.to_lowercase()));
            bytes += key.len() + value.as_str().map_or(0, str::len);
        }
        if bytes > MOST_BYTES {
            self.0.push(Cause::too_long(at.to_string(), MOST_BYTES as u64));
        }
    }

    /// The name of a signer: a domain and a path.
    pub(crate) fn signer_name(&mut self, at: &At<'_>, name: &str) {
        if name.is_empty() {
            return self.required(at, "");
        }
        let (domain, path) = match name.split('/').collect::<Vec<_>>().as_slice() {
            [domain, path] => (*domain, *path),
            _ => {
                let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
                return self.invalid(at, &name.into(), detail);
            }
        };
        if domain.len() > 253 {
            self.0.push(Cause::too_long(at.to_string(), 253));
        }
        self.first_bad_label(at, domain, names::label);
        if !domain.contains('.') {
            let detail = "should be a domain with at least two segments separated by dots";
            self.invalid(at, &domain.into(), detail);
        }
        self.first_bad_label(at, path, names::subdomain);
        if name.len() > 253 + 1 + 253 + 1 + 63 {
            self.0.push(Cause::too_long(at.to_string(), 253 + 1 + 253 + 1 + 63));
        }
    }

    /// What is wrong with the first bad one of labels that dots separate.
    fn first_bad_label(&mut self, at: &At<'_>, text: &str, faults: impl Fn(&str) -> Vec<String>) {
        let bad = text.split('.').find(|label| !faults(label).is_empty());
        for fault in bad.iter().flat_map(|label| faults(label)) {
            let label = bad.unwrap_or_default();
            self.invalid(at, &text.into(), &format!("validating label {label:?}: {fault}"));
        }
    }

    /// `metav1.LabelSelector`.
    pub(crate) fn selector(&mut self, at: &At<'_>, selector: &Value) {
        self.labels(&at.field("matchLabels"), &selector["matchLabels"]);
        let at = at.field("matchExpressions");
        for (n, expression) in items(&selector["matchExpressions"]).iter().enumerate() {
            let at = at.index(n);
            let values = items(&expression["values"]);
            match text(expression, "operator") {
                "In" | "NotIn" if values.is_empty() => self.required(
                    &at.field("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                ),
                "Exists" | "DoesNotExist" if !values.is_empty() => self.forbidden(
                    &at.field("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ),
                "In" | "NotIn" | "Exists" | "DoesNotExist" => (),
                other => self.invalid(
                    &at.field("operator"),
                    &other.into(),
                    "not a valid selector operator",
                ),
            }
            let key = text(expression, "key");
            self.faults(&at.field("key"), key, names::qualified(key));
            for (n, value) in values.iter().enumerate() {
                let value = value.as_str().unwrap_or_default();
                self.faults(&at.field("values").index(n), value, names::label_value(value));
            }
        }
    }

    /// `metav1.Condition`s: each type once, with all that a condition must say.
    pub(crate) fn conditions(&mut self, at: &At<'_>, conditions: &Value) {
        const REASON_BYTES: usize = 1024;
        const MESSAGE_BYTES: usize = 32 * 1024;
        let mut seen = HashSet::new();
        for (n, condition) in items(conditions).iter().enumerate() {
            let at = at.index(n);
            let kind = text(condition, "type");
            if !seen.insert(kind) {
                self.duplicate(&at.field("type"), &kind.into());
            }
            self.faults(&at.field("type"), kind, names::qualified(kind));
            let status = text(condition, "status");
            if !CONDITION_STATUSES.contains(&status) {
                self.not_supported(&at.field("status"), &status.into(), &CONDITION_STATUSES);
            }
            let seen = &condition["observedGeneration"];
            if seen.as_i64().is_some_and(|n| n < 0) {
                let detail = "must be greater than or equal to zero";
                self.invalid(&at.field("observedGeneration"), seen, detail);
            }
            self.present(&at.field("lastTransitionTime"), &condition["lastTransitionTime"], "");
            let reason = text(condition, "reason");
            if self.present(&at.field("reason"), &reason.into(), "") {
                self.faults(&at.field("reason"), reason, names::condition_reason(reason));
            }
            for (field, most) in [("reason", REASON_BYTES), ("message", MESSAGE_BYTES)] {
                if text(condition, field).len() > most {
                    self.0.push(Cause::too_long(at.field(field).to_string(), most as u64));
                }
            }
        }
    }

    /// The value must equal the old one.
    pub(crate) fn immutable(&mut self, at: &At<'_>, value: &Value, old: &Value) {
        if value != old {
            self.invalid(at, value, "field is immutable");
        }
    }

    /// The same, of a part that Go shows as its internal struct, or as null where there is none.
    pub(crate) fn immutable_part(
        &mut self,
        at: &At<'_>,
        fields: Fields,
        value: &Value,
        old: &Value,
    ) {
        if value.is_null() {
            self.immutable(at, value, old);
        } else if value != old {
            self.invalid_part(at, fields, value, "field is immutable");
        }
    }

    /// An absolute path, or one within a volume.
    pub(crate) fn no_backsteps(&mut self, at: &At<'_>, path: &str) {
        if path.split('/').any(|part| part == "..") {
            self.invalid(at, &path.into(), "must not contain '..'");
        }
    }

    /// A path that stays below the place it is joined to.
    pub(crate) fn local_path(&mut self, at: &At<'_>, path: &str) {
        if path.starts_with('/') {
            self.invalid(at, &path.into(), "must be a relative path");
        }
        self.no_backsteps(at, path);
    }

    /// A number, or a percentage where strings are allowed; neither may be negative.
    pub(crate) fn count_or_percent(&mut self, at: &At<'_>, value: &Value) {
        match value {
            Value::String(text) if percent(text).is_none() => self.invalid(
                at,
                value,
                "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            ),
            other => self.not_negative(at, other),
        }
    }

    /// A percentage must not be above 100 %.
    pub(crate) fn at_most_all(&mut self, at: &At<'_>, value: &Value) {
        if value.as_str().and_then(percent).is_some_and(|p| p > 100) {
            self.invalid(at, value, "must not be greater than 100%");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_upstream_writes_them() {
        let spec = At::new("spec");
        let list = spec.field("containers");
        let entry = list.index(2);
        let limits = entry.field("limits");
        assert_eq!(limits.key("cpu").to_string(), "spec.containers[2].limits[cpu]");
    }
}
