//! The error of players whose reconciles can fail in one way only: a call does.

use crate::ReconcileError;

/// A call to the API server that failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation} {what}")]
pub struct CallError {
    operation: &'static str,
    what: String,
    source: Box<kube::Error>,
}

impl CallError {
    /// `operation` completes "failed to", and is the error's kind; `what` names the object.
    #[must_use]
    pub fn new(operation: &'static str, what: impl Into<String>, source: kube::Error) -> Self {
        Self { operation, what: what.into(), source: Box::new(source) }
    }
}

impl ReconcileError for CallError {
    fn kind(&self) -> &'static str {
        self.operation
    }

    /// Conflicts, and objects that are gone: the cache was behind.
    fn is_expected(&self) -> bool {
        matches!(&*self.source, kube::Error::Api(s) if s.is_conflict() || s.is_not_found())
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn it_says_what_failed_and_expects_that_others_were_faster() {
        let answered = |code, reason: &str| {
            let status = Status { code, reason: reason.to_owned(), ..Status::default() };
            CallError::new("sign", "request a", kube::Error::Api(Box::new(status)))
        };
        assert_eq!(answered(409, "Conflict").to_string(), "failed to sign request a");
        assert_eq!(answered(409, "Conflict").kind(), "sign");
        assert!(answered(409, "Conflict").is_expected());
        assert!(answered(404, "NotFound").is_expected());
        assert!(!answered(403, "Forbidden").is_expected());
    }
}
