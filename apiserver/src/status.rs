//! Answers that are not objects: [`ApiError`] is the only place that knows codes and reasons.
//!
//! Source: kubernetes/community `api-conventions.md`, "Response Status Kind".

use std::collections::HashSet;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
pub use schema::Cause;
use serde::{Deserialize, Serialize};

/// One entry of `details.causes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusCause {
    /// Such as `FieldValueInvalid`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What is wrong, without the field's path.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path of the field, such as `spec.containers[0].name`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl StatusCause {
    /// All three parts.
    pub fn new(reason: &str, field: &str, message: String) -> Self {
        Self { reason: reason.to_owned(), message, field: field.to_owned() }
    }
}

impl From<Cause> for StatusCause {
    fn from(cause: Cause) -> Self {
        Self {
            reason: cause.reason.as_str().to_owned(),
            message: cause.message,
            field: cause.field,
        }
    }
}

/// Group and plural name of a resource, as messages spell them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupResource {
    /// Empty for the core group.
    pub group: String,
    /// Plural name, or the kind where a message names the kind.
    pub resource: String,
}

impl GroupResource {
    /// Both parts.
    pub fn new(group: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { group: group.into(), resource: resource.into() }
    }
}

impl std::fmt::Display for GroupResource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.resource)
        } else {
            write!(f, "{}.{}", self.resource, self.group)
        }
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    /// The body, a parameter or a header makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// No valid credentials.
    #[error("Unauthorized")]
    Unauthorized,
    /// Not allowed; the message says who may not do what.
    #[error("{message}")]
    Forbidden {
        /// What the request was about.
        resource: Option<GroupResource>,
        /// Object, may be empty.
        name: String,
        /// The whole sentence.
        message: String,
        /// Single fields that are forbidden, may be empty.
        causes: Vec<StatusCause>,
    },
    /// No such object.
    #[error("{resource} \"{name}\" not found")]
    NotFound {
        /// Its type.
        resource: GroupResource,
        /// Its name.
        name: String,
    },
    /// The path names no served resource.
    #[error("the server could not find the requested resource")]
    NoResource,
    /// The path is nobody's.
    #[error("404 page not found")]
    NoPath,
    /// The resource does not have this verb.
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    /// None of the shapes in `Accept` can be produced.
    #[error("{0}")]
    NotAcceptable(String),
    /// None of the formats in `Accept` can be produced.
    #[error("{0}")]
    NotAcceptableMedia(String),
    /// The type of the body is not understood.
    #[error("{0}")]
    UnsupportedMediaType(String),
    /// The type of the body is no language of patches.
    #[error("415: Unsupported Media Type")]
    UnsupportedPatch,
    /// An object of that name exists.
    #[error("{}{resource} \"{name}\" already exists", if *.deleting { "object is being deleted: " } else { "" })]
    AlreadyExists {
        /// Its type.
        resource: GroupResource,
        /// Its name.
        name: String,
        /// It waits for its end.
        deleting: bool,
    },
    /// The object has changed, or a precondition does not hold.
    #[error("Operation cannot be fulfilled on {resource} \"{name}\": {message}")]
    Conflict {
        /// Its type.
        resource: GroupResource,
        /// Its name.
        name: String,
        /// What does not hold.
        message: String,
    },
    /// Server-side apply met fields of other managers.
    #[error("{message}")]
    ApplyConflict {
        /// The whole sentence.
        message: String,
        /// One a field.
        causes: Vec<StatusCause>,
    },
    /// Fields are wrong.
    #[error("{}", invalid_message(.kind, .name, .causes))]
    Invalid {
        /// Group and kind.
        kind: GroupResource,
        /// Name of the object, may be empty.
        name: String,
        /// At least one.
        causes: Vec<StatusCause>,
    },
    /// A well-formed body that cannot be processed, without bad fields to name.
    #[error("{0}")]
    Unprocessable(String),
    /// The revision is no longer kept.
    #[error("{0}")]
    Expired(String),
    /// A continue token whose state is no longer kept.
    #[error("{message}")]
    ExpiredToken {
        /// The whole sentence.
        message: String,
        /// A token that goes on in the current state.
        token: String,
    },
    /// The resource can be listed, not watched.
    #[error("watch is not supported on resources of kind \"{0}\"")]
    NotWatchable(GroupResource),
    /// The revision is no longer kept, as watches say it.
    #[error("{0}")]
    Gone(String),
    /// The body is too large.
    #[error("{0}")]
    TooLarge(String),
    /// Come back later.
    #[error("{message}")]
    TooManyRequests {
        /// Why.
        message: String,
        /// Seconds to wait.
        retry_after: u32,
        /// For example a disruption budget that has no room.
        causes: Vec<StatusCause>,
    },
    /// A revision that the server has not reached in time, or a slow backend.
    #[error("{message}")]
    Timeout {
        /// Why.
        message: String,
        /// Seconds to wait.
        retry_after: u32,
        /// May be empty.
        causes: Vec<StatusCause>,
    },
    /// The store does not answer; the same request may succeed later.
    #[error("{0}")]
    ServerTimeout(String),
    /// A backend (node, service, webhook) does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// A bug, or a store that fails.
    #[error("Internal error occurred: {0}")]
    Internal(String),
    /// A failure that upstream answers with code 500 and no reason.
    #[error("{0}")]
    Unknown(String),
    /// A patch that cannot be applied to what is there.
    #[error("the server rejected our request due to an error in our request")]
    PatchFailed,
    /// A status that somebody else made.
    #[error("{}", .0.message)]
    Other(Box<Status>),
}

/// `metav1.Status` as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Always `Status`.
    #[serde(default)]
    pub kind: String,
    /// Always `v1`.
    #[serde(default, rename = "apiVersion")]
    pub api_version: String,
    /// Always empty.
    #[serde(default)]
    pub metadata: Metadata,
    /// `Success` or `Failure`.
    #[serde(default)]
    pub status: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For programs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// HTTP status code; 0 is left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// Metadata of a status; empty but for expired continue tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// A token that goes on in the current state.
    #[serde(default, rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
}

/// What a status is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// Name of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Its resource, or its kind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Single fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// Seconds to wait.
    #[serde(default, skip_serializing_if = "is_zero32", rename = "retryAfterSeconds")]
    pub retry_after_seconds: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &u16) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero32(n: &u32) -> bool {
    *n == 0
}

impl Status {
    /// A failure without further words.
    pub fn failure() -> Self {
        Self { status: "Failure".into(), details: None, ..Self::success(Details::default()) }
    }

    /// A success about one object, as DELETE answers it.
    pub fn success(details: Details) -> Self {
        Self {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: Metadata::default(),
            status: "Success".into(),
            message: String::new(),
            reason: String::new(),
            details: Some(details),
            code: 0,
        }
    }
}

fn invalid_message(kind: &GroupResource, name: &str, causes: &[StatusCause]) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut known = HashSet::new();
    for cause in causes {
        let text = if cause.field.is_empty() || cause.field == "<nil>" {
            format!("<nil>: {}", cause.message)
        } else {
            format!("{}: {}", cause.field, cause.message)
        };
        if known.insert(text.clone()) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [one] => format!("{kind} \"{name}\" is invalid: {one}"),
        many => format!("{kind} \"{name}\" is invalid: [{}]", many.join(", ")),
    }
}

impl ApiError {
    /// Whatever went wrong inside; the text is for the log of a client's user.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(error.to_string())
    }

    /// A refusal that names no resource.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::Forbidden {
            resource: None,
            name: String::new(),
            message: message.into(),
            causes: Vec::new(),
        }
    }

    /// HTTP status code.
    pub fn code(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::NotFound { .. } | Self::NoResource | Self::NoPath => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed | Self::NotWatchable(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable(_) | Self::NotAcceptableMedia(_) => StatusCode::NOT_ACCEPTABLE,
            Self::UnsupportedMediaType(_) | Self::UnsupportedPatch => {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            }
            Self::AlreadyExists { .. } | Self::Conflict { .. } | Self::ApplyConflict { .. } => {
                StatusCode::CONFLICT
            }
            Self::Invalid { .. } | Self::Unprocessable(_) | Self::PatchFailed => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::Expired(_) | Self::Gone(_) | Self::ExpiredToken { .. } => StatusCode::GONE,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyRequests { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) | Self::Unknown(_) | Self::ServerTimeout(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Other(status) => {
                StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }

    /// Reason for programs; empty where upstream has none.
    pub fn reason(&self) -> &str {
        match self {
            Self::BadRequest(_) => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden { .. } => "Forbidden",
            Self::NotFound { .. } | Self::NoResource | Self::NoPath => "NotFound",
            Self::MethodNotAllowed | Self::NotWatchable(_) => "MethodNotAllowed",
            Self::NotAcceptable(_) | Self::NotAcceptableMedia(_) => "NotAcceptable",
            Self::UnsupportedMediaType(_) | Self::UnsupportedPatch => "UnsupportedMediaType",
            Self::AlreadyExists { .. } => "AlreadyExists",
            Self::Conflict { .. } | Self::ApplyConflict { .. } => "Conflict",
            Self::Invalid { .. } | Self::Unprocessable(_) | Self::PatchFailed => "Invalid",
            Self::Expired(_) | Self::ExpiredToken { .. } => "Expired",
            Self::Gone(_) => "Gone",
            Self::TooLarge(_) => "RequestEntityTooLarge",
            Self::TooManyRequests { .. } => "TooManyRequests",
            Self::Timeout { .. } => "Timeout",
            Self::Unavailable(_) => "ServiceUnavailable",
            Self::ServerTimeout(_) => "ServerTimeout",
            Self::Internal(_) => "InternalError",
            Self::Unknown(_) => "",
            Self::Other(status) => &status.reason,
        }
    }

    /// The refusal of a request about one object, which nobody may make.
    pub fn forbidden_object(resource: GroupResource, name: &str, why: &str) -> Self {
        Self::Forbidden {
            message: format!("{resource} {name:?} is forbidden: {why}"),
            resource: Some(resource),
            name: name.to_owned(),
            causes: Vec::new(),
        }
    }

    /// The refusal of an object that names another namespace than the path.
    pub fn other_namespace() -> Self {
        let fault =
            "the namespace of the provided object does not match the namespace sent on the request";
        Self::BadRequest(fault.to_owned())
    }

    /// The status that is sent.
    pub fn status(&self) -> Status {
        if let Self::Other(status) = self {
            return (**status).clone();
        }
        Status {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: match self {
                Self::ExpiredToken { token, .. } => Metadata { continue_token: token.clone() },
                _ => Metadata::default(),
            },
            status: "Failure".into(),
            message: self.to_string(),
            reason: self.reason().into(),
            details: self.details(),
            code: self.code().as_u16(),
        }
    }

    fn details(&self) -> Option<Details> {
        let about = |resource: &GroupResource, name: &str, causes: &[StatusCause]| {
            Some(Details {
                name: name.to_owned(),
                group: resource.group.clone(),
                kind: resource.resource.clone(),
                causes: causes.to_vec(),
                ..Details::default()
            })
        };
        match self {
            Self::NotFound { resource, name }
            | Self::AlreadyExists { resource, name, .. }
            | Self::Conflict { resource, name, .. } => about(resource, name, &[]),
            Self::Invalid { kind, name, causes } => about(kind, name, causes),
            Self::NotWatchable(resource) => about(resource, "", &[]),
            Self::Forbidden { resource: Some(resource), name, causes, .. } => {
                about(resource, name, causes)
            }
            Self::ApplyConflict { causes, .. } => {
                Some(Details { causes: causes.clone(), ..Details::default() })
            }
            Self::Forbidden { .. }
            | Self::NoResource
            | Self::MethodNotAllowed
            | Self::NotAcceptableMedia(_)
            | Self::UnsupportedPatch
            | Self::PatchFailed => Some(Details::default()),
            Self::TooManyRequests { retry_after, causes, .. }
            | Self::Timeout { retry_after, causes, .. } => Some(Details {
                causes: causes.clone(),
                retry_after_seconds: *retry_after,
                ..Details::default()
            }),
            Self::ServerTimeout(_) => {
                Some(Details { retry_after_seconds: 1, ..Details::default() })
            }
            Self::Internal(message) => Some(Details {
                causes: vec![StatusCause {
                    reason: String::new(),
                    message: message.clone(),
                    field: String::new(),
                }],
                ..Details::default()
            }),
            _ => None,
        }
    }
}

/// What the store said, for clients.
impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::TooLarge { size, limit, .. } => Self::TooLarge(format!(
                "the object has {size} bytes, more than the limit of {limit}"
            )),
            store::Error::Unavailable { .. } => {
                tracing::warn!(error = &error as &dyn std::error::Error, "store does not answer");
                Self::ServerTimeout(error.to_string())
            }
            other => {
                tracing::error!(error = &other as &dyn std::error::Error, "store failed");
                Self::internal(other)
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Self::NoPath = self {
            let plain = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
            return (StatusCode::NOT_FOUND, plain, "404 page not found\n").into_response();
        }
        let status = self.status();
        let body = serde_json::to_vec(&status).unwrap_or_default();
        // For the layers above, which do not read bodies.
        let recorded = std::sync::Arc::new(status.clone());
        let mut response =
            (self.code(), [(header::CONTENT_TYPE, "application/json")], body).into_response();
        if let Some(seconds) = status.details.map(|d| d.retry_after_seconds).filter(|&s| s > 0) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(recorded);
        response
    }
}
