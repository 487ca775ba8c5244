//! What differs from run to run becomes the same: names, uids, versions, times, allocations.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use regex::{Captures, Regex};
use serde_json::{Map, Value};

/// A time is taken for one of this run if it is no further away.
const RUN: SignedDuration = SignedDuration::from_hours(48);

/// Longest `generateName` that is kept in front of the random letters.
const GENERATED: usize = 58;

fn regex(text: &str) -> Regex {
    Regex::new(text).expect("the expression is right")
}

static UUID: LazyLock<Regex> =
    LazyLock::new(|| regex(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"));
static WHOLE_UUID: LazyLock<Regex> = LazyLock::new(|| regex(&format!("^{}$", UUID.as_str())));
static JWT: LazyLock<Regex> = LazyLock::new(|| regex(r"eyJ[\w-]+\.[\w-]+\.[\w-]+"));
static TIME: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d| [+-]\d{4} UTC)")
});
static RANDOM: LazyLock<Regex> = LazyLock::new(|| regex("^[a-z0-9]{5}$"));
static LISTED: LazyLock<Regex> = LazyLock::new(|| regex(r"(?s)^(.*? is invalid: |.*?: )\[(.*)\]$"));
static DUMPS: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"(?:Invalid|Unsupported|Duplicate) value: (\{|\[\{|"\{)"#));
static MESSAGES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"(resource version: )\d+ \(\d+\)", "${1}<rv> (<rv>)"),
        (r"(resource version: \d+, current: )\d+", "${1}<rv>"),
        (r"(ResourceVersion in object meta: )\d+", "${1}<rv>"),
        (r"(ResourceVersion in record \()\d+", "${1}<rv>"),
        (r"kube-api-access-[a-z0-9]{5}\b", "kube-api-access-<rand>"),
        (r"X509SHA256=[0-9a-f]{64}", "X509SHA256=<hash>"),
        (r#"(in scheme \\?")[^"\\]*"#, "${1}<scheme>"),
        (r#"(dial tcp [^ ]+: )[^"]*"#, "${1}<reason>"),
    ]
    .into_iter()
    .map(|(pattern, replacement)| (regex(pattern), replacement))
    .collect()
});

/// What this run's answers are brought to.
pub(crate) struct Normaliser<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) variables: &'a BTreeMap<String, Value>,
    pub(crate) managed_fields: bool,
}

impl Normaliser<'_> {
    /// A text of a body or a header.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut text = text.replace(self.namespace, "$NS");
        for (name, value) in self.variables {
            if let Some(value) = value.as_str()
                && value.len() >= 8
                && !is_digits(value)
                && !WHOLE_UUID.is_match(value)
            {
                text = text.replace(value, &format!("${{{name}}}"));
            }
        }
        text = UUID.replace_all(&text, "<uid>").into_owned();
        text = JWT.replace_all(&text, "<jwt>").into_owned();
        text = TIME.replace_all(&text, time).into_owned();
        for (pattern, replacement) in MESSAGES.iter() {
            text = pattern.replace_all(&text, *replacement).into_owned();
        }
        cut_dumps(text)
    }

    /// A whole body.
    pub(crate) fn body(&self, value: &Value) -> Value {
        self.node(value, "")
    }

    fn node(&self, value: &Value, key: &str) -> Value {
        match value {
            Value::String(text) => self.string(text, key).into(),
            Value::Number(n)
                if matches!(key, "nodePort" | "healthCheckNodePort")
                    && n.as_i64().is_some_and(|n| n >= 30000) =>
            {
                "<nodePort>".into()
            }
            Value::Array(items) => items.iter().map(|item| self.node(item, key)).collect(),
            Value::Object(fields) => self.object(fields, key),
            other => other.clone(),
        }
    }

    fn string(&self, text: &str, key: &str) -> String {
        match key {
            "resourceVersion" if is_digits(text) => "<rv>".to_owned(),
            "resourceVersion" => text.to_owned(),
            "continue" if !text.is_empty() => "<continue>".to_owned(),
            "storageVersionHash" => "<hash>".to_owned(),
            "cells" if is_moment(text) => "0s".to_owned(),
            "clusterIP" | "clusterIPs" if !matches!(text, "" | "None") => "<clusterIP>".to_owned(),
            _ => self.text(text),
        }
    }

    fn object(&self, fields: &Map<String, Value>, key: &str) -> Value {
        let stem = fields.get("generateName").and_then(Value::as_str);
        let stem = stem.map(|stem| stem.get(..GENERATED).unwrap_or(stem));
        let mut out = Map::new();
        for (name, value) in fields {
            match (name.as_str(), key) {
                ("managedFields", "metadata") if !self.managed_fields => continue,
                ("description", "columnDefinitions") => continue,
                _ => (),
            }
            let suffix = stem.and_then(|stem| value.as_str()?.strip_prefix(stem));
            if name == "name" && suffix.is_some_and(|suffix| RANDOM.is_match(suffix)) {
                let generated = format!("{}<rand>", self.text(stem.unwrap_or_default()));
                out.insert(name.clone(), generated.into());
                continue;
            }
            let mut value = self.node(value, name);
            if name == "managedFields"
                && let Value::Array(entries) = &mut value
            {
                entries.sort_by_key(Value::to_string);
            }
            out.insert(self.text(name), value);
        }
        if out.get("kind").is_some_and(|kind| kind == "Status") {
            status(&mut out);
        }
        out.into()
    }
}

/// An age of some seconds, which is another one second later.
fn is_moment(text: &str) -> bool {
    text.strip_suffix('s').is_some_and(|seconds| seconds.len() == 1 && is_digits(seconds))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A time of this run; others are data, and stay.
fn time(found: &Captures<'_>) -> String {
    let whole = &found[0];
    let readable = whole.strip_suffix(" UTC").map(|rest| rest.replacen(" +", "+", 1));
    let Ok(time) = readable.as_deref().unwrap_or(whole).parse::<Timestamp>() else {
        return whole.to_owned();
    };
    if time.duration_since(Timestamp::now()).abs() > RUN {
        return whole.to_owned();
    }
    if found.get(1).is_some() { "<microtime>" } else { "<time>" }.to_owned()
}

/// Dumps of whole objects in field errors follow Go's memory layout; they are not compared.
fn cut_dumps(mut text: String) -> String {
    let mut from = 0;
    while let Some(found) = DUMPS.captures_at(&text, from) {
        let start = found.get(1).map_or(0, |value| value.start());
        let opener = found[1].chars().next();
        from = start;
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
        let Some(Ok(value)) = values.next() else { continue };
        let end = start + values.byte_offset();
        let dump = match (opener, &value) {
            (Some('{'), _) => "{<dump>}",
            (Some('['), _) => "[<dump>]",
            (_, Value::String(inner)) if serde_json::from_str::<Value>(inner).is_ok() => {
                "\"<dump>\""
            }
            _ => continue,
        };
        text.replace_range(start..end, dump);
    }
    text
}

/// Causes have no order, and messages are compared up to their first line break.
fn status(status: &mut Map<String, Value>) {
    let mut causes = match status.get_mut("details").and_then(|d| d.get_mut("causes")) {
        Some(Value::Array(causes)) => std::mem::take(causes),
        _ => Vec::new(),
    };
    causes.iter_mut().filter_map(Value::as_object_mut).for_each(first_line);
    if causes.len() > 1 {
        sort_message(status, &causes);
        causes.sort_by_key(|c| {
            ["field", "reason", "message"].map(|f| c[f].as_str().unwrap_or("None").to_owned())
        });
    }
    first_line(status);
    if !causes.is_empty() {
        status["details"]["causes"] = causes.into();
    }
}

fn first_line(object: &mut Map<String, Value>) {
    if let Some(Value::String(message)) = object.get_mut("message")
        && let Some((first, _)) = message.split_once('\n')
    {
        *message = format!("{first}<more lines>");
    }
}

/// The message lists the causes; so it has no order either.
fn sort_message(status: &mut Map<String, Value>, causes: &[Value]) {
    let Some(Value::String(message)) = status.get_mut("message") else { return };
    let Some(found) = LISTED.captures(message).filter(|_| !message.contains('\n')) else { return };
    let text = |value: &Value| value.as_str().unwrap_or("None").to_owned();
    let mut parts: Vec<String> =
        causes.iter().map(|c| format!("{}: {}", text(&c["field"]), text(&c["message"]))).collect();
    parts.sort();
    parts.dedup();
    let joined = parts.join(", ");
    let listed = &found[2];
    if letters(listed) == letters(&joined) && parts.iter().all(|part| listed.contains(part)) {
        *message = format!("{}[{joined}]", &found[1]);
    }
}

fn letters(text: &str) -> Vec<char> {
    let mut letters: Vec<char> = text.chars().collect();
    letters.sort_unstable();
    letters
}

#[test]
fn what_differs_becomes_the_same() {
    use serde_json::json;
    let variables = BTreeMap::from([("token".to_owned(), json!("some-token"))]);
    let normaliser = Normaliser { namespace: "pt-x", variables: &variables, managed_fields: false };
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let given = json!({
        "metadata": {"generateName": "a-", "name": "a-bcdfg", "namespace": "pt-x", "managedFields": [], "creationTimestamp": now, "resourceVersion": "12"},
        "spec": {"clusterIP": "10.0.0.1", "time": "2020-01-01T00:00:00Z", "t": "some-token"},
    });
    let expected = json!({
        "metadata": {"generateName": "a-", "name": "a-<rand>", "namespace": "$NS", "creationTimestamp": "<time>", "resourceVersion": "<rv>"},
        "spec": {"clusterIP": "<clusterIP>", "time": "2020-01-01T00:00:00Z", "t": "${token}"},
    });
    assert_eq!(normaliser.body(&given), expected);
    let row = json!({"cells": ["a", "3s", "30s", 3]});
    assert_eq!(normaliser.body(&row), json!({"cells": ["a", "0s", "30s", 3]}));
    let dumped = normaliser.text(r#"spec: Invalid value: {"a":[1]}: is bad"#);
    assert_eq!(dumped, "spec: Invalid value: {<dump>}: is bad");
    let status = json!({"kind": "Status", "message": "x is invalid: [b: 2, a: 1]", "details": {"causes": [{"field": "b", "message": "2"}, {"field": "a", "message": "1"}]}});
    assert_eq!(normaliser.body(&status)["message"], "x is invalid: [a: 1, b: 2]");
}
