//! What is gathered about one request while it is on its road.
//!
//! Whoever has something to say about the request that is being answered says it by [`annotate`] and the
//! like; where nothing is recorded, that is one look at the task.

use std::sync::Arc;

use http::HeaderMap;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use super::event::{Event, Level, ObjectRef, ResponseStatus, Stage};
use super::policy::Decision;
use crate::request::User;
use crate::status::Status;
use crate::write::decode;

tokio::task_local! {
    /// The request that this task answers, if it is recorded.
    pub(super) static CURRENT: Arc<Context>;
}

/// One request's event as it grows, and what the policy says about it.
#[derive(Debug)]
pub struct Context {
    level: Level,
    omit_managed_fields: bool,
    omitted: Vec<Stage>,
    event: Mutex<Event>,
}

impl Context {
    /// Begins with what the request itself says.
    pub fn new(event: Event, decision: &Decision<'_>) -> Self {
        let stages =
            [Stage::RequestReceived, Stage::ResponseStarted, Stage::ResponseComplete, Stage::Panic];
        Self {
            level: event.level,
            omit_managed_fields: decision.omit_managed_fields,
            omitted: stages.into_iter().filter(|stage| decision.omits(*stage)).collect(),
            event: Mutex::new(event),
        }
    }

    /// How much is recorded.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The event of a stage, unless the policy leaves it out.
    pub fn at(&self, stage: Stage) -> Option<Event> {
        if self.omitted.contains(&stage) {
            return None;
        }
        let mut event = self.event.lock().clone();
        event.stage = stage;
        if stage != Stage::RequestReceived {
            event.stage_timestamp = Timestamp::now();
        }
        Some(event)
    }

    /// The answer has this code, and is a refusal if there is a `status`.
    pub fn answered(&self, code: u16, status: Option<&Status>) {
        let mut event = self.event.lock();
        let secret = event.object_ref.as_ref().is_some_and(ObjectRef::is_secret);
        event.response_status = Some(match status {
            Some(status) => ResponseStatus::of(status, secret),
            None => ResponseStatus::of_code(code),
        });
    }

    /// The answer broke off.
    pub fn broken(&self, status: ResponseStatus) {
        self.event.lock().response_status = Some(status);
    }

    /// Whether an answer's head is known.
    pub fn is_answered(&self) -> bool {
        self.event.lock().response_status.is_some()
    }

    /// The object that was answered.
    pub fn response_object(&self, object: Value) {
        let object = self.without_managed_fields(object);
        self.event.lock().response_object = Some(Arc::new(object));
    }

    /// A fact about the request.
    pub fn annotate(&self, key: &str, value: &str) {
        self.event.lock().annotations.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }

    fn request_object(&self, object: Value) {
        let mut event = self.event.lock();
        if let Some(reference) = &mut event.object_ref
            && object.is_object()
        {
            reference.complete(&object);
        }
        if self.level >= Level::Request {
            event.request_object = Some(Arc::new(self.without_managed_fields(object)));
        }
    }

    fn without_managed_fields(&self, mut object: Value) -> Value {
        if self.omit_managed_fields {
            let strip = |object: &mut Value| {
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("managedFields");
                }
            };
            strip(&mut object);
            for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten()
            {
                strip(item);
            }
            for row in object.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
                row.get_mut("object").map(strip);
            }
        }
        object
    }
}

/// Adds a fact to the record of the request that this task answers, such as what a policy had to say.
/// `value` is made only if there is a record.
pub fn annotate<V: AsRef<str>>(key: &str, value: impl FnOnce() -> V) {
    // An error means that nothing is recorded.
    let _ = CURRENT.try_with(|context| context.annotate(key, value().as_ref()));
}

/// The request is answered as if this user had sent it.
pub fn impersonated(user: &User) {
    // As above.
    let _ = CURRENT.try_with(|context| {
        context.event.lock().impersonated_user = Some(user.into());
    });
}

/// The body of a change, whose object names what the path does not.
pub fn request_body(body: &[u8], headers: &HeaderMap) {
    // As above.
    let _ = CURRENT.try_with(|context| {
        let format = match decode::media_type(headers).as_str() {
            media if media.contains("yaml") => decode::BodyFormat::Yaml,
            media if media.contains("protobuf") => decode::BodyFormat::Protobuf,
            _ => decode::BodyFormat::Json,
        };
        if !body.is_empty()
            && let Ok(decoded) = decode::decode(body, format)
        {
            context.request_object(decoded.value);
        }
    });
}
