//! The four kinds of PATCH but apply: JSON patch, merge patch, strategic merge patch.
//!
//! Each takes the text of the patch and changes a copy of the live object; decoding, defaults
//! and validation of the result follow as for every write.

mod json;
mod strategic;

use serde_json::{Map, Value};

use crate::json::SyntaxError;
use crate::{Schema, json as parser};

/// Why a patch cannot be applied; each variant is another status code upstream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The text is no patch: 400 BadRequest.
    #[error("error decoding patch: {0}")]
    Decode(String),
    /// A patch, or a directive of one, that is not written as it must be: 400 BadRequest.
    #[error("{0}")]
    Format(String),
    /// More operations than a JSON patch may have: 413 RequestEntityTooLarge.
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// A JSON patch does not fit the object: 422 Invalid without causes.
    #[error("the server rejected our request due to an error in our request")]
    Unprocessable,
    /// A strategic merge patch contradicts itself or the schema: 500 without a reason.
    #[error("{0}")]
    Strategic(String),
    /// The result cannot be the type: 422 Invalid with a cause for the field `patch`, whose
    /// value is the patch as [`print::plain`](crate::print::plain) writes it.
    #[error("{0}")]
    Restore(String),
}

/// Operations that one JSON patch may have.
///
/// Source: `maxJSONPatchOperations` in upstream's `handlers/patch.go`.
const MAX_OPERATIONS: usize = 10_000;

/// Applies a JSON patch (RFC 6902) with upstream's leniency: `replace` adds an absent field,
/// negative indexes count from the end.
///
/// # Errors
/// [`PatchError::Decode`], [`PatchError::TooManyOperations`], [`PatchError::Unprocessable`];
/// `target` is unchanged then.
pub fn json(target: &mut Value, patch: &[u8]) -> Result<(), PatchError> {
    json::apply(target, patch)
}

/// Applies a merge patch (RFC 7386).
///
/// # Errors
/// [`PatchError::Decode`] if the patch is no JSON object.
pub fn merge(target: &mut Value, patch: &[u8]) -> Result<(), PatchError> {
    if patch.trim_ascii() == b"null" {
        return Err(PatchError::Format("Invalid JSON Patch".to_owned()));
    }
    let patch = object(patch)?;
    merge_map(target, &patch);
    Ok(())
}

/// Fields that a merge patch has twice; the last one counts.
#[must_use]
pub fn duplicates(patch: &[u8]) -> Vec<String> {
    parser::parse(patch).map(|parsed| parsed.duplicates).unwrap_or_default()
}

/// The JSON object that a merge patch is.
///
/// # Errors
/// [`PatchError::Decode`] if it is none.
pub fn object(patch: &[u8]) -> Result<Map<String, Value>, PatchError> {
    parser::object(patch).map_err(|SyntaxError(text)| PatchError::Decode(text))
}

fn merge_map(target: &mut Value, patch: &Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (name, value) in patch {
        match value {
            Value::Null => _ = map.remove(name),
            Value::Object(inner) => {
                merge_map(map.entry(name.clone()).or_insert(Value::Null), inner);
            }
            other => _ = map.insert(name.clone(), without_nulls(other)),
        }
    }
}

/// A list as it is put in: objects in it have no nulls, as upstream's library does it.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Array(list) => Value::Array(list.iter().map(without_nulls).collect()),
        Value::Object(map) => {
            let told = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(told.map(|(name, value)| (name.clone(), without_nulls(value))).collect())
        }
        other => other.clone(),
    }
}

impl Schema {
    /// Applies a strategic merge patch: lists merge by their keys, directives are obeyed.
    ///
    /// # Errors
    /// [`PatchError::Strategic`] for contradictions, [`PatchError::Restore`] if the result has
    /// text where a struct must be; `target` may be half changed then.
    pub fn strategic_merge(
        &self,
        target: &mut Value,
        patch: &Map<String, Value>,
    ) -> Result<(), PatchError> {
        strategic::apply(&self.root, target, patch)
    }
}

#[cfg(test)]
mod tests;
