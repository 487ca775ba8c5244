//! Query parameters of every verb, read and checked.
//!
//! Source: kubernetes.io, "API Concepts"; faults in the words of the recorded answers.

mod list;
mod query;
mod write;

use crate::status::{ApiError, GroupResource, StatusCause};

pub use list::{ListOptions, Match};
pub use query::{Query, deadline, is_on};
pub use write::{FieldValidation, WriteOptions, dry_run};

/// The refusal of bad options.
pub fn invalid_options(kind: &str, causes: Vec<StatusCause>) -> ApiError {
    ApiError::Invalid { kind: GroupResource::new("meta.k8s.io", kind), name: String::new(), causes }
}
