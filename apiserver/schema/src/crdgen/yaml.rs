//! YAML of generated files: sorted keys, short parts on one line.

use std::fmt::Write as _;

use serde_json::Value;

/// Columns that a line may fill before its value is spread over several.
const WIDTH: usize = 100;

/// A YAML document of `value`, with a line that says where it came from.
pub(super) fn document(value: &Value) -> String {
    let mut out = String::from("# Made by `improv generate`; do not edit.\n");
    block(&mut out, value, 0);
    out
}

fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = text(key);
                _ = write!(out, "{:indent$}{key}:", "");
                // A list of maps may start at the column of its key.
                after(out, value, indent + key.len() + 1, indent + 2);
            }
        }
        Value::Array(list) => {
            for value in list {
                let flow = flow(value);
                if fits(value, &flow, indent + 2) {
                    _ = writeln!(out, "{:indent$}- {flow}", "");
                    continue;
                }
                let mut entry = String::new();
                block(&mut entry, value, indent + 2);
                _ = write!(out, "{:indent$}- {}", "", entry.trim_start());
            }
        }
        scalar => _ = writeln!(out, "{:indent$}{}", "", flow(scalar)),
    }
}

fn after(out: &mut String, value: &Value, column: usize, indent: usize) {
    let flow = flow(value);
    if fits(value, &flow, column) {
        _ = writeln!(out, " {flow}");
    } else {
        out.push('\n');
        block(out, value, indent);
    }
}

/// Whether the value goes on one line: scalars always, collections if short.
fn fits(value: &Value, flow: &str, column: usize) -> bool {
    match value {
        Value::Object(map) if map.is_empty() => true,
        Value::Array(list) if list.is_empty() => true,
        Value::Object(_) | Value::Array(_) => column + flow.len() < WIDTH,
        _ => true,
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(key, value)| format!("{}: {}", text(key), flow(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Array(list) => {
            format!("[{}]", list.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        Value::String(string) => text(string),
        other => other.to_string(),
    }
}

/// A string, quoted unless it is plainly one.
fn text(string: &str) -> String {
    let plain = string.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '.' | '/'))
        && string.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !matches!(
            string.to_ascii_lowercase().as_str(),
            "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
        )
        && string.parse::<f64>().is_err()
        && !string.starts_with(".inf")
        && !string.starts_with(".nan");
    if plain || string.starts_with("https://") && !string.contains([' ', '#']) {
        string.to_owned()
    } else {
        Value::String(string.to_owned()).to_string()
    }
}
