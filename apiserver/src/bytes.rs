//! How an object stands in the store, and the cuts that answers make in its text.
//!
//! The text always begins `{"kind":…,"apiVersion":…,"metadata":{`, so that a resourceVersion can be
//! put in and the head taken off without parsing. The store's text has no resourceVersion.

pub use bytes::Bytes;
use bytes::{BufMut, BytesMut};
use memchr::memmem;
use serde_json::{Map, Value};

const METADATA: &[u8] = b"\"metadata\":{";

/// The stored text of an object; its resourceVersion is left out.
pub fn encode(object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    let empty = Map::new();
    let map = object.as_object().unwrap_or(&empty);
    out.push(b'{');
    for key in ["kind", "apiVersion"] {
        member(&mut out, key, map.get(key).unwrap_or(&Value::Null));
        out.push(b',');
    }
    out.extend_from_slice(METADATA);
    if let Some(Value::Object(metadata)) = map.get("metadata") {
        members(&mut out, metadata.iter().filter(|(key, _)| *key != "resourceVersion"));
    }
    out.push(b'}');
    let rest =
        map.iter().filter(|(key, _)| !matches!(key.as_str(), "kind" | "apiVersion" | "metadata"));
    for (key, value) in rest {
        out.push(b',');
        member(&mut out, key, value);
    }
    out.push(b'}');
    // It stays in the store and the cache as long as the object does: without room for more.
    out.into_boxed_slice().into()
}

fn members<'a>(out: &mut Vec<u8>, entries: impl Iterator<Item = (&'a String, &'a Value)>) {
    for (n, (key, value)) in entries.enumerate() {
        if n > 0 {
            out.push(b',');
        }
        member(out, key, value);
    }
}

fn member(out: &mut Vec<u8>, key: &str, value: &Value) {
    write_json(out, &key);
    out.push(b':');
    write_json(out, value);
}

/// Appends JSON; writing into memory cannot fail for the values that occur here.
pub fn write_json(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, GoNumbers);
    if value.serialize(&mut serializer).is_err() {
        out.extend_from_slice(b"null");
    }
}

/// Compact JSON in which `1.0` is `1`, so that whoever reads it again has an integer, as upstream's clients do.
struct GoNumbers;

impl serde_json::ser::Formatter for GoNumbers {
    fn write_f64<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        value: f64,
    ) -> std::io::Result<()> {
        writer.write_all(schema::print::json_float(value).as_bytes())
    }
}

/// The text of a stored object with its resourceVersion.
pub fn with_version(stored: &[u8], revision: u64) -> Bytes {
    with_version_text(stored, &revision.to_string())
}

/// As [`with_version`], of a version that may be none.
pub fn with_version_text(stored: &[u8], version: &str) -> Bytes {
    let Some(at) = memmem::find(stored, METADATA).map(|at| at + METADATA.len()) else {
        return Bytes::copy_from_slice(stored);
    };
    let mut out = Vec::with_capacity(stored.len() + version.len() + 24);
    out.extend_from_slice(&stored[..at]);
    member(&mut out, "resourceVersion", &version.into());
    if stored.get(at) != Some(&b'}') {
        out.push(b',');
    }
    out.extend_from_slice(&stored[at..]);
    out.into()
}

/// The text after the head: it begins with `"metadata"`. `{` before it makes an object without kind
/// and version, as items of typed lists are.
pub fn without_head(object: &Bytes) -> Bytes {
    match memmem::find(object, METADATA) {
        Some(at) => object.slice(at..),
        None => object.slice(object.len().min(1)..),
    }
}

/// The head of an object: everything before `"metadata"`.
pub fn head(kind: &str, api_version: &str) -> Vec<u8> {
    let mut out = b"{\"kind\":".to_vec();
    write_json(&mut out, kind);
    out.extend_from_slice(b",\"apiVersion\":");
    write_json(&mut out, api_version);
    out.push(b',');
    out
}

/// The object under another kind or version.
pub fn with_head(head: &[u8], object: &Bytes) -> Bytes {
    if object.starts_with(head) {
        return object.clone();
    }
    let tail = without_head(object);
    let mut out = BytesMut::with_capacity(head.len() + tail.len());
    out.put_slice(head);
    out.put_slice(&tail);
    out.freeze()
}

/// The object's metadata alone, as `PartialObjectMetadata` has it: `{…}`.
pub fn metadata(object: &Bytes) -> Bytes {
    let Some(at) = memmem::find(object, METADATA) else { return Bytes::from_static(b"{}") };
    let start = at + METADATA.len() - 1;
    object.slice(start..start + value_len(&object[start..]))
}

/// Length of the JSON object that begins at the first byte.
fn value_len(text: &[u8]) -> usize {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, &byte) in text.iter().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => (),
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => (),
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_head_comes_first_and_the_version_goes_in() {
        let object = json!({"data":{"a":"}\""},"apiVersion":"v1","kind":"ConfigMap",
            "metadata":{"name":"c","resourceVersion":"7","labels":{"x":"{"}}});
        let stored = encode(&object);
        assert!(stored.starts_with(br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"#));
        let full = with_version(&stored, 42);
        let back: Value = serde_json::from_slice(&full).unwrap();
        assert_eq!(back["metadata"]["resourceVersion"], "42");
        assert_eq!(back["data"], object["data"]);
        let meta: Value = serde_json::from_slice(&metadata(&full)).unwrap();
        assert_eq!(meta, back["metadata"]);
        let other = with_head(&head("X", "g/v2"), &full);
        let other: Value = serde_json::from_slice(&other).unwrap();
        assert_eq!((&other["kind"], &other["apiVersion"]), (&json!("X"), &json!("g/v2")));
    }
}
