//! Calls to the API server that fail, and what that means.

use kube::api::{DeleteParams, Preconditions};

use crate::{ReconcileError, chain};

/// The error of players that can fail in one way only: a call to the API server does.
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
}

/// The server's own words, or the whole chain of what kept us from hearing them.
#[must_use]
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
}

/// A deletion of the object of this uid alone: a later namesake is left alone.
#[must_use]
pub fn only(uid: Option<String>) -> DeleteParams {
    DeleteParams::default().preconditions(Preconditions { uid, ..Preconditions::default() })
}

/// Whether what a call was about is not there any more, or has changed: another one has its name, or
/// somebody else was faster.
#[must_use]
pub fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found() || status.is_conflict())
}

/// Whether nothing can be created because the namespace is being deleted.
#[must_use]
pub fn is_namespace_ending(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let details = status.details.as_ref();
    details.is_some_and(|details| {
        details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
    })
}

/// Whether `error`, or a cause of it, is a call that others outran: the object changed, is there
/// already or is gone, or its namespace is being deleted. If it still matters, their change wakes
/// the next reconcile.
#[must_use]
pub fn was_outrun(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|error| {
        let boxed = error.downcast_ref::<Box<kube::Error>>().map(|boxed| &**boxed);
        boxed.or_else(|| error.downcast_ref()).is_some_and(is_outrun)
    })
}

fn is_outrun(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    is_gone(error) || status.is_already_exists() || is_namespace_ending(error)
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

    #[test]
    fn nobody_is_to_blame_that_a_namespace_ends() {
        let answer = r#"{"code": 403, "reason": "Forbidden", "details": {"causes": [
            {"reason": "NamespaceTerminating", "message": "", "field": "metadata.namespace"}]}}"#;
        let status: Status = serde_json::from_str(answer).unwrap();
        let error = CallError::new("create", "pod", kube::Error::Api(Box::new(status)));
        assert!(error.is_expected());
    }
}
