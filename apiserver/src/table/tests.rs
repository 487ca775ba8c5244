use serde_json::{Map, Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

fn recorded(key: &str) -> Format {
    let parts: Vec<&str> = key.split('/').collect();
    match parts[..] {
        [version, name] => Format::new("", version, name, &[]),
        [group, version, name] => Format::new(group, version, name, &[]),
        _ => panic!("{key}"),
    }
}

fn row(format: &Format, object: &Value) -> Value {
    format.row(object.clone(), Include::None, "v1", now())
}

/// Makes a recorded object real: placeholders become values that a server could have.
fn revive(value: &mut Value) {
    match value {
        Value::String(text) if text == "<time>" => *text = "2026-05-31T23:59:55Z".into(),
        Value::Array(items) => items.iter_mut().for_each(revive),
        Value::Object(entries) => entries.values_mut().for_each(revive),
        _ => {}
    }
}

/// Puts `<age>` where the recording has it, if there is an age.
fn mask(cell: &Value, expected: &Value) -> Value {
    let (Some(text), Some(pattern)) = (cell.as_str(), expected.as_str()) else {
        return cell.clone();
    };
    let Some((before, after)) = pattern.split_once("<age>") else { return cell.clone() };
    let inner = text.strip_prefix(before).and_then(|t| t.strip_suffix(after)).unwrap_or("");
    let is_age = inner.starts_with(|c: char| c.is_ascii_digit())
        && inner.ends_with(['s', 'm', 'h', 'd', 'y']);
    if is_age { expected.clone() } else { cell.clone() }
}

#[test]
fn the_recorded_rows_come_out() {
    let examples: Map<String, Value> =
        serde_json::from_str(include_str!("../../data/table-examples.json")).unwrap();
    let mut wrong = Vec::new();
    for (key, rows) in &examples {
        let format = recorded(key);
        for example in rows.as_array().unwrap() {
            let mut object = example["object"].clone();
            revive(&mut object);
            let row = row(&format, &object);
            let expected = example["cells"].as_array().unwrap();
            let cells = row["cells"].as_array().unwrap();
            let masked: Vec<Value> = cells.iter().zip(expected).map(|(c, e)| mask(c, e)).collect();
            if cells.len() != expected.len() || masked != *expected {
                wrong.push(format!("{key}: {} != {}", json!(cells), example["cells"]));
            }
            let mut conditions = row.get("conditions").cloned().unwrap_or_default();
            for condition in conditions.as_array_mut().into_iter().flatten() {
                condition.as_object_mut().unwrap().remove("message");
            }
            if conditions != example.get("rowConditions").cloned().unwrap_or_default() {
                wrong.push(format!("{key}: conditions {conditions}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_known_type_has_a_cell_for_each_column() {
    for (key, columns) in &*COLUMNS {
        let format = recorded(key);
        assert!(matches!(format.cells, Cells::Known { .. }), "{key}");
        let row = row(&format, &json!({ "metadata": { "name": "a" } }));
        // Upstream has no column for the age of an IPAddress, and a cell of it.
        let n_more = usize::from(key == "networking.k8s.io/v1/ipaddresses");
        let n_columns = columns.as_array().unwrap().len();
        assert_eq!(row["cells"].as_array().unwrap().len(), n_columns + n_more, "{key}");
    }
}

#[test]
fn custom_types_show_their_columns_in_their_type() {
    let column = |name: &str, kind: &str, json_path: &str| Column {
        name: name.into(),
        kind: kind.into(),
        json_path: json_path.into(),
        ..Column::default()
    };
    let columns = [
        column("Phase", "string", ".status.phase"),
        column("Ports", "string", ".spec.ports"),
        column("N", "integer", ".spec.n"),
        column("Wrong", "integer", ".status.phase"),
        column("Ready", "boolean", ".status.ready"),
        column("Missing", "string", ".status.missing"),
        column("Since", "date", ".metadata.creationTimestamp"),
    ];
    let format = Format::new("example.com", "v1", "widgets", &columns);
    let object = json!({
        "metadata": { "name": "w", "creationTimestamp": "2026-05-31T23:00:00Z" },
        "spec": { "n": 2.0, "ports": [1, 2] },
        "status": { "phase": "Up", "ready": true },
    });
    let row = row(&format, &object);
    assert_eq!(row["cells"], json!(["w", "Up", "[1,2]", 2, null, true, null, "60m"]));
}

#[test]
fn a_custom_type_without_columns_shows_its_age() {
    let format = Format::new("example.com", "v1", "widgets", &[]);
    assert_eq!(format.columns[1]["type"], "date");
    let object = json!({ "metadata": { "name": "w" }, "spec": {} });
    let row = format.row(object, Include::Metadata, "v1", now());
    assert_eq!(row["cells"], json!(["w", null]));
    assert_eq!(
        row["object"],
        json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": { "name": "w" } })
    );
}
