//! JSON patch.
//!
//! Our own, not a crate: upstream's implementation accepts a few things that RFC 6902 does
//! not, and answers were recorded that depend on it.

use serde::Deserialize;
use serde_json::Value;

use super::{MAX_OPERATIONS, PatchError};
use crate::json as parser;

/// Bytes that the `copy` operations of one patch may add.
///
/// Source: the default of `JSONPatchMaxCopyBytes` in upstream's `apiserver/pkg/server/config.go`.
const MAX_COPIED: usize = 3 << 20;

#[derive(Deserialize)]
struct Operation {
    #[serde(default)]
    op: String,
    path: Option<String>,
    from: Option<String>,
    /// `None` if absent: not the same as null.
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

pub(super) fn apply(target: &mut Value, patch: &[u8]) -> Result<(), PatchError> {
    let operations = operations(patch)?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let mut result = target.clone();
    let mut copied = 0;
    for operation in operations {
        run(&mut result, operation, &mut copied).ok_or(PatchError::Unprocessable)?;
    }
    *target = result;
    Ok(())
}

fn operations(patch: &[u8]) -> Result<Vec<Operation>, PatchError> {
    let parsed = parser::parse(patch).map_err(|error| PatchError::Decode(error.0))?;
    let list = match parsed.value {
        Value::Array(list) => list,
        Value::Null => Vec::new(),
        other => {
            return Err(PatchError::Decode(format!(
                "json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
                parser::kind(&other)
            )));
        }
    };
    list.into_iter().map(operation).collect()
}

fn operation(value: Value) -> Result<Operation, PatchError> {
    if !value.is_object() && !value.is_null() {
        return Err(PatchError::Decode(format!(
            "json: cannot unmarshal {} into Go value of type handlers.jsonPatchOp",
            parser::kind(&value)
        )));
    }
    for field in ["op", "path", "from"] {
        texts(field, &value[field])?;
    }
    serde_json::from_value(value).map_err(|error| PatchError::Decode(error.to_string()))
}

fn texts(field: &str, value: &Value) -> Result<(), PatchError> {
    if value.is_null() || value.is_string() {
        return Ok(());
    }
    Err(PatchError::Decode(format!(
        "json: cannot unmarshal {} into Go struct field jsonPatchOp.{field} of type string",
        parser::kind(value)
    )))
}

/// `None` if the operation does not fit the document, or makes it too large or too deep. `copied` is what earlier
/// operations have copied, in bytes.
fn run(document: &mut Value, operation: Operation, copied: &mut usize) -> Option<()> {
    let path = segments(operation.path.as_deref()?)?;
    match operation.op.as_str() {
        // Nothing to add is null.
        "add" => add(document, &path, fitting(&path, operation.value.unwrap_or_default())?),
        "remove" => remove(document, &path).map(drop),
        "replace" => replace(document, &path, fitting(&path, operation.value.unwrap_or_default())?),
        "move" => {
            let from = segments(operation.from.as_deref()?)?;
            if path.len() > from.len() && path.starts_with(&from) {
                return None; // Into itself.
            }
            let value = remove(document, &from)?;
            add(document, &path, fitting(&path, value)?)
        }
        "copy" => {
            let from = segments(operation.from.as_deref()?)?;
            let value = found(document, &from)?;
            *copied += serde_json::to_vec(&value).ok()?.len();
            if *copied > MAX_COPIED {
                return None;
            }
            add(document, &path, fitting(&path, value)?)
        }
        "test" => {
            let wanted = operation.value.unwrap_or(Value::Null);
            let found = get(document, &path).unwrap_or(&Value::Null);
            (*found == wanted).then_some(())
        }
        _ => None,
    }
}

/// The value, if the document is still one that can be read when it stands there.
fn fitting(path: &[String], value: Value) -> Option<Value> {
    (path.len() + parser::depth(&value) <= parser::MAX_DEPTH).then_some(value)
}

/// The parts of a JSON pointer, unescaped. Recorded: upstream does not look at what is before the first slash.
fn segments(pointer: &str) -> Option<Vec<String>> {
    if pointer.is_empty() {
        return Some(Vec::new());
    }
    let parts = pointer.split_once('/')?.1.split('/');
    Some(parts.map(|part| part.replace("~1", "/").replace("~0", "~")).collect())
}

/// What is at a place; recorded: a field that is absent is null.
fn found(document: &Value, from: &[String]) -> Option<Value> {
    if let Some(value) = get(document, from) {
        return Some(value.clone());
    }
    let (_, parents) = from.split_last()?;
    get(document, parents)?.is_object().then_some(Value::Null)
}

fn get<'a>(document: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(document, |value, part| match value {
        Value::Object(map) => map.get(part),
        Value::Array(list) => list.get(index(part, list.len())?),
        _ => None,
    })
}

fn get_mut<'a>(document: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(document, |value, part| match value {
        Value::Object(map) => map.get_mut(part),
        Value::Array(list) => {
            let at = index(part, list.len())?;
            list.get_mut(at)
        }
        _ => None,
    })
}

fn add(document: &mut Value, path: &[String], value: Value) -> Option<()> {
    let (last, parents) = path.split_last()?;
    match get_mut(document, parents)? {
        Value::Object(map) => _ = map.insert(last.clone(), value),
        Value::Array(list) => {
            // One past the end is a place too.
            let at = if last == "-" { list.len() } else { index(last, list.len() + 1)? };
            if at > list.len() {
                return None;
            }
            list.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(document: &mut Value, path: &[String]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    match get_mut(document, parents)? {
        Value::Object(map) => map.remove(last),
        Value::Array(list) => {
            let at = index(last, list.len())?;
            (at < list.len()).then(|| list.remove(at))
        }
        _ => None,
    }
}

fn replace(document: &mut Value, path: &[String], value: Value) -> Option<()> {
    let Some((last, parents)) = path.split_last() else {
        *document = value;
        return Some(());
    };
    match get_mut(document, parents)? {
        // Recorded: upstream does not mind if the field is absent.
        Value::Object(map) => _ = map.insert(last.clone(), value),
        Value::Array(list) => {
            let at = index(last, list.len())?;
            *list.get_mut(at)? = value;
        }
        _ => return None,
    }
    Some(())
}

/// An index of a list with `length` places; negative ones count from the end.
fn index(part: &str, length: usize) -> Option<usize> {
    match part.parse::<i64>().ok()? {
        n if n >= 0 => usize::try_from(n).ok(),
        n => length.checked_sub(usize::try_from(n.unsigned_abs()).ok()?),
    }
}
