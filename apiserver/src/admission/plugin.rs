//! What a plugin is.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

use super::attributes::{Attributes, Operation};
use crate::status::ApiError;

/// What an admission plugin answers with.
pub type Admitted<'a> = BoxFuture<'a, Result<(), ApiError>>;

/// The resources that a plugin looks at.
#[derive(Debug, Clone, Copy)]
pub enum Resources {
    /// Every one.
    All,
    /// Pairs of group (empty for core) and plural name; their subresources come along.
    Only(&'static [(&'static str, &'static str)]),
}

impl Resources {
    /// Whether `resource` of `group` is one of them.
    pub fn contain(&self, group: &str, resource: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(list) => list.contains(&(group, resource)),
        }
    }
}

/// One admission plugin. It is made once, at start, and sees every request for its resources and operations: first,
/// after defaulting, to change it; then, after validation, to refuse it.
///
/// Source: `MutationInterface` and `ValidationInterface` in upstream `apiserver/pkg/admission/interfaces.go`.
pub trait Plugin: Send + Sync {
    /// As the flags spell it.
    fn name(&self) -> &'static str;

    /// Whether the plugin has anything to do with such requests.
    fn handles(&self, operation: Operation) -> bool;

    /// The resources that it looks at.
    fn resources(&self) -> Resources {
        Resources::All
    }

    /// The mutating phase. It runs again if the write is retried, and must then come to the same result.
    fn admit<'a>(
        &'a self,
        _attributes: &'a mut Attributes<'_>,
        _object: &'a mut Value,
    ) -> Admitted<'a> {
        admitted()
    }

    /// The validating phase.
    fn validate<'a>(
        &'a self,
        _attributes: &'a mut Attributes<'_>,
        _object: &'a Value,
    ) -> Admitted<'a> {
        admitted()
    }
}

/// The answer of a plugin that has nothing against it.
pub fn admitted<'a>() -> Admitted<'a> {
    answer(Ok(()))
}

/// The answer of a plugin that had to wait for nothing.
pub fn answer<'a>(answer: Result<(), ApiError>) -> Admitted<'a> {
    std::future::ready(answer).boxed()
}
