//! Where an answer differs from the recorded one.

use serde_json::Value;

/// Letters of a value that a difference shows.
const SHOWN: usize = 400;

/// One line a difference. Absent, null and empty are three different things.
pub(crate) fn differences(expected: &Value, actual: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(expected, actual, "", &mut found);
    found
}

fn compare(expected: &Value, actual: &Value, at: &str, found: &mut Vec<String>) {
    match (expected, actual) {
        (Value::String(any), _) if any == "<any>" => (),
        (Value::Object(expected), Value::Object(actual)) => {
            for (key, value) in expected {
                match actual.get(key) {
                    Some(other) => compare(value, other, &format!("{at}.{key}"), found),
                    None => found.push(format!("{at}.{key}: missing, expected {}", short(value))),
                }
            }
            for (key, value) in actual.iter().filter(|(key, _)| !expected.contains_key(*key)) {
                found.push(format!("{at}.{key}: unexpected {}", short(value)));
            }
        }
        (Value::Array(expected), Value::Array(actual)) => {
            if expected.len() != actual.len() {
                let (n, wanted) = (actual.len(), expected.len());
                found.push(format!("{at}: {n} entries, expected {wanted}"));
            }
            for (n, (expected, actual)) in expected.iter().zip(actual).enumerate() {
                compare(expected, actual, &format!("{at}[{n}]"), found);
            }
        }
        (Value::Number(expected), Value::Number(actual))
            if expected.as_f64() == actual.as_f64() => {}
        _ if expected == actual => (),
        _ => found.push(format!("{at}: expected {}, got {}", short(expected), short(actual))),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[test]
fn every_difference_is_found() {
    use serde_json::json;
    let expected = json!({"a": 1, "b": null, "c": [1, 2], "d": "<any>", "e": 1.0});
    assert_eq!(differences(&expected, &expected), [""; 0]);
    let actual = json!({"a": 2, "c": [1, 3, 4], "d": {}, "e": 1, "f": ""});
    assert_eq!(
        differences(&expected, &actual),
        [
            ".a: expected 1, got 2",
            ".b: missing, expected null",
            ".c: 3 entries, expected 2",
            ".c[1]: expected 2, got 3",
            ".f: unexpected \"\"",
        ]
    );
}
