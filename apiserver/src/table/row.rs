//! Reading an object while its row is made: every accessor has an answer for what is absent.

use jiff::Timestamp;
use schema::print;
use serde_json::Value;

use super::age;

/// Shown where there is nothing.
pub(super) const NONE: &str = "<none>";
/// Shown where nothing was set.
pub(super) const UNSET: &str = "<unset>";

/// An object (or a part of one), and the time at which it is shown.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) object: &'a Value,
    pub(super) now: Timestamp,
}

impl<'a> Row<'a> {
    /// The value at `pointer` (RFC 6901); `null` counts as absent.
    pub(super) fn get(self, pointer: &str) -> Option<&'a Value> {
        self.object.pointer(pointer).filter(|value| !value.is_null())
    }

    /// The text at `pointer`, empty if there is none.
    pub(super) fn text(self, pointer: &str) -> &'a str {
        self.get(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// The text at `pointer`, or `missing`.
    pub(super) fn text_or(self, pointer: &str, missing: &'a str) -> &'a str {
        Some(self.text(pointer)).filter(|text| !text.is_empty()).unwrap_or(missing)
    }

    /// The number at `pointer`, 0 if there is none.
    pub(super) fn number(self, pointer: &str) -> i64 {
        self.get(pointer).and_then(Value::as_i64).unwrap_or_default()
    }

    /// The truth at `pointer`, false if there is none.
    pub(super) fn flag(self, pointer: &str) -> bool {
        self.get(pointer).and_then(Value::as_bool).unwrap_or_default()
    }

    /// The number, text or truth at `pointer` as text.
    pub(super) fn shown(self, pointer: &str) -> Option<String> {
        self.get(pointer).map(shown)
    }

    /// The items at `pointer`, each with the same clock.
    pub(super) fn items(self, pointer: &str) -> impl DoubleEndedIterator<Item = Row<'a>> + 'a {
        let items = self.get(pointer).and_then(Value::as_array).map(Vec::as_slice);
        let now = self.now;
        items.unwrap_or_default().iter().map(move |object| Row { object, now })
    }

    /// How many items or entries there are at `pointer`.
    pub(super) fn count(self, pointer: &str) -> usize {
        match self.get(pointer) {
            Some(Value::Array(items)) => items.len(),
            Some(Value::Object(entries)) => entries.len(),
            _ => 0,
        }
    }

    /// The texts in the list at `pointer`.
    pub(super) fn texts(self, pointer: &str) -> Vec<&'a str> {
        self.items(pointer).filter_map(|item| item.object.as_str()).collect()
    }

    /// The part at `pointer` as a row of its own.
    pub(super) fn at(self, pointer: &str) -> Row<'a> {
        Row { object: self.get(pointer).unwrap_or(&Value::Null), now: self.now }
    }

    /// Name of the object.
    pub(super) fn name(self) -> &'a str {
        self.text("/metadata/name")
    }

    /// Age of the object.
    pub(super) fn age(self) -> String {
        self.since("/metadata/creationTimestamp")
    }

    /// Time since what stands at `pointer`.
    pub(super) fn since(self, pointer: &str) -> String {
        age::since(self.get(pointer), self.now)
    }

    /// The condition of a type.
    pub(super) fn condition(self, name: &str) -> Option<Row<'a>> {
        self.items("/status/conditions").find(|condition| condition.text("/type") == name)
    }

    /// Whether the condition of a type is `True`.
    pub(super) fn is_true(self, name: &str) -> bool {
        self.condition(name).is_some_and(|condition| condition.text("/status") == "True")
    }

    /// Whether the object is being deleted.
    pub(super) fn deleted(self) -> bool {
        self.get("/metadata/deletionTimestamp").is_some()
    }

    /// The map at `pointer` as `a=b,c=d`, or `<none>`.
    pub(super) fn labels(self, pointer: &str) -> String {
        let entries = self.get(pointer).and_then(Value::as_object);
        let pairs: Vec<String> = entries
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        or_none(sorted(pairs).join(","))
    }

    /// The label selector at `pointer` as text, or `<none>`.
    pub(super) fn selector(self, pointer: &str) -> String {
        let selector = self.at(pointer);
        let mut terms = Vec::new();
        if selector.count("/matchLabels") > 0 {
            terms.push(selector.labels("/matchLabels"));
        }
        for expression in selector.items("/matchExpressions") {
            let (key, values) = (expression.text("/key"), sorted(expression.texts("/values")));
            terms.push(match expression.text("/operator") {
                "In" => format!("{key} in ({})", values.join(",")),
                "NotIn" => format!("{key} notin ({})", values.join(",")),
                "Exists" => key.to_owned(),
                _ => format!("!{key}"),
            });
        }
        or_none(terms.join(","))
    }

    /// Names and images of the containers of the pod template's spec at `pointer`.
    pub(super) fn containers(self, pointer: &str) -> [Value; 2] {
        let spec = self.at(pointer);
        let list = |field: &str| {
            spec.items("/containers").map(|c| c.text(field)).collect::<Vec<_>>().join(",")
        };
        [list("/name").into(), list("/image").into()]
    }
}

/// `text`, or `<none>` if it is empty.
pub(super) fn or_none(text: String) -> String {
    if text.is_empty() { NONE.to_owned() } else { text }
}

/// In order.
pub(super) fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}

/// A JSON value as Go prints it: text without quotes, lists and maps as JSON.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match (print::whole(number), number.as_f64()) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(float)) => print::float(float),
            (None, None) => number.to_string(),
        },
        other => html_safe(&other.to_string()),
    }
}

/// JSON as Go writes it, that can stand in a page.
fn html_safe(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// The first `most` of `items`, and how many more there are; `missing` if there are none.
pub(super) fn first<S: AsRef<str>>(items: &[S], most: usize, missing: &str) -> String {
    let shown: Vec<&str> = items.iter().take(most).map(AsRef::as_ref).collect();
    let shown = shown.join(",");
    match items.len().saturating_sub(most) {
        0 if shown.is_empty() => missing.to_owned(),
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_printed_as_go_does() {
        for (value, expected) in [
            (json!(null), "<no value>"),
            (json!("a"), "a"),
            (json!(1.0), "1"),
            (json!(1.5), "1.5"),
            (json!(1e-7), "1e-07"),
            (json!(1e21), "1e+21"),
            (json!(123_456_789.5), "1.234567895e+08"),
            (json!(9_007_199_254_740_993_i64), "9007199254740993"),
            (json!(["<a>", 1]), r#"["\u003ca\u003e",1]"#),
        ] {
            assert_eq!(shown(&value), expected);
        }
    }
}
