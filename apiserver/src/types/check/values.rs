//! What rules read of JSON values, and how they change them.

use schema::quantity;
use serde_json::{Map, Value};

/// The number before the sign of a percentage.
pub(crate) fn percent(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

/// Whether the value is absent or a zero value of its kind.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A string member, or an empty one.
pub(crate) fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

/// Whether a member is `true`.
pub(crate) fn flag(value: &Value, name: &str) -> bool {
    value[name].as_bool().unwrap_or_default()
}

/// Entries of a list; none if it is absent.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Entries of a member's list, to be changed; none if it is absent.
pub(crate) fn items_mut<'v>(
    value: &'v mut Value,
    name: &str,
) -> impl Iterator<Item = &'v mut Value> {
    value.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

/// A member that is an object, to be changed.
///
/// Indexing would put a null in the place of an absent one.
pub(crate) fn part<'v>(value: &'v mut Value, name: &str) -> Option<&'v mut Value> {
    value.get_mut(name).filter(|v| v.is_object())
}

/// Adds to a member's list, made if it is absent.
pub(crate) fn push(value: &mut Value, name: &str, entry: impl Into<Value>) {
    match value.get_mut(name).and_then(Value::as_array_mut) {
        Some(list) => list.push(entry.into()),
        None => value[name] = Value::Array(vec![entry.into()]),
    }
}

/// Members of a map; none if it is absent.
pub(crate) fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The object's map under this name, made if it is absent.
pub(crate) fn ensure<'v>(value: &'v mut Value, name: &str) -> &'v mut Map<String, Value> {
    if !value[name].is_object() {
        value[name] = Value::Object(Map::new());
    }
    match &mut value[name] {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object above"),
    }
}

/// Sets a member that is absent.
pub(crate) fn default(value: &mut Value, name: &str, absent: impl Into<Value>) {
    if let Some(map) = value.as_object_mut()
        && map.get(name).is_none_or(Value::is_null)
    {
        map.insert(name.to_owned(), absent.into());
    }
}

/// Removes a member.
pub(crate) fn remove(value: &mut Value, name: &str) -> Option<Value> {
    value.as_object_mut()?.remove(name)
}

/// Removes what JSON pointers lead to, unless an older object has it.
pub(crate) fn remove_new(value: &mut Value, old: Option<&Value>, pointers: &[&str]) {
    for pointer in pointers {
        let had = old.and_then(|old| old.pointer(pointer)).is_some_and(|old| !old.is_null());
        if !had
            && let Some((parent, name)) = pointer.rsplit_once('/')
            && let Some(parent) = value.pointer_mut(parent)
        {
            remove(parent, name);
        }
    }
}

/// Takes a member over from another object, absence included.
pub(crate) fn copy(to: &mut Value, from: &Value, name: &str) {
    match from.get(name) {
        Some(value) => to[name] = value.clone(),
        None => {
            remove(to, name);
        }
    }
}

/// Faults of the name of a port.
pub(crate) fn port_name(name: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if name.len() > 15 {
        faults.push("must be no more than 15 characters".to_owned());
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || !name.bytes().all(allowed) {
        faults.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

/// A quantity in nano-units, for comparing; what is none counts as zero.
pub(crate) fn nano(value: &Value) -> i128 {
    let parsed = match value {
        Value::String(text) => quantity::parse(text),
        other => quantity::parse(&other.to_string()),
    };
    parsed.map_or(0, quantity::Quantity::nano)
}

/// A quantity as messages show it.
pub(crate) fn shown(value: &Value) -> Value {
    match value {
        Value::String(_) => value.clone(),
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_compare_over_suffixes() {
        assert!(nano(&json!("1Gi")) > nano(&json!("1G")));
        assert_eq!(nano(&json!("1000m")), nano(&json!(1)));
        assert!(nano(&json!("-1")) < 0);
        assert!(nano(&json!("100E")) > nano(&json!("99E")));
    }

    #[test]
    fn percentages() {
        assert_eq!(percent("25%"), Some(25));
        assert!(["%", "x%", "25", "-1%"].iter().all(|p| percent(p).is_none()));
    }

    #[test]
    fn port_names() {
        assert!(port_name("http-2").is_empty());
        for bad in ["", "Bad_Name", "80", "a--b", "-a", "averyverylongname"] {
            assert!(!port_name(bad).is_empty(), "{bad}");
        }
    }
}
