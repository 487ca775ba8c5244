//! What a ResourceQuota means: how much an object uses of what, and which quotas that concerns. Admission, which
//! charges a quota, and the controller, which counts anew, must agree on that to the last digit.

mod amounts;
pub mod pod;

pub use amounts::{Amount, Amounts};

use serde_json::Value;

/// Entries of a list; none if it is no list.
fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
