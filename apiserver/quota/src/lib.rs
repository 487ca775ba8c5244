//! What a ResourceQuota means: how much an object uses of what, and which quotas that concerns. Admission, which
//! charges a quota, and the controller, which counts anew, must agree on that to the last digit.

mod amounts;
mod evaluator;
pub mod pod;
pub mod scope;

pub use amounts::{Amount, Amounts};
pub use evaluator::{Evaluator, is_extended, is_ignored};
pub use scope::Selector;

use serde_json::Value;

/// Entries of a list; none if it is no list.
fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A text member; empty if it is none.
fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}
