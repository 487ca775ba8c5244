//! The one road for every write: decode, default, admit, validate, store.

mod apply;
mod create;
pub mod decode;
mod delete;
mod embedded;
mod kind;
mod meta;
pub mod names;
mod own;
mod pairs;
mod patch;
mod scale;
pub mod subresource;
mod update;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};
use store::{Entry, Expect, Revision};

use crate::audit;
use crate::bytes as text;
use crate::crd::convert;
use crate::handlers::accept::error_format;
use crate::handlers::options::{self, FieldValidation, WriteOptions};
use crate::handlers::{Call, respond};
use crate::registry::Resource;
use crate::request::{RequestInfo, User};
use crate::server::Core;
use crate::status::{ApiError, Cause};
use crate::types::Ctx;
use crate::types::pod::privileged;

pub use create::create;
pub(crate) use delete::returns_object;
pub use delete::{DeleteOptions, Deleted, Propagation, delete};
use kind::Part;
pub use meta::now;
pub(crate) use own::{MANAGER, Own, delete_all};
pub use update::{Change, Plan, update};

/// How often a write is tried again when somebody else was faster.
const ATTEMPTS: usize = 64;

/// One write: what is written by whom, and what they are to be told.
pub struct Writer<'a> {
    /// The server.
    pub core: &'a Arc<Core>,
    /// The resource.
    pub resource: &'a Arc<Resource>,
    /// What was asked for.
    pub info: &'a RequestInfo,
    /// By whom.
    pub user: &'a User,
    /// Parameters.
    pub options: WriteOptions,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// When the request must be answered.
    pub deadline: Instant,
    /// The client gave the object that is to be created no labels.
    pub unlabelled: bool,
    /// Admission has seen the request as a whole and is not asked about this write, which is a part of it.
    pub admitted: bool,
}

/// What became of one attempt at a write.
enum Outcome<T> {
    /// It is committed.
    Written(T),
    /// There was nothing to write.
    Unchanged(T),
    /// Somebody else was faster: this is there now.
    Stale(Option<Entry>),
}

/// What a write finds in its place.
struct Found {
    entry: Option<Entry>,
    is_guess: bool,
}

impl Found {
    /// Whether the entry was a guess and a wrong one; then it is the stored one now.
    ///
    /// Asked before anything but a commit is concluded from it: a commit fails if the guess was wrong.
    async fn was_wrong(&mut self, writer: &Writer<'_>, name: &str) -> Result<bool, ApiError> {
        if !std::mem::take(&mut self.is_guess) {
            return Ok(false);
        }
        let guessed = self.entry.take();
        self.entry = writer.load(name).await?;
        let revision = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.revision);
        Ok(revision(&guessed) != revision(&self.entry))
    }
}

impl From<Option<Entry>> for Found {
    fn from(entry: Option<Entry>) -> Self {
        Self { entry, is_guess: false }
    }
}

/// Upstream prunes custom objects, and tells of it by name.
fn sorted(mut paths: Vec<String>) -> Vec<String> {
    paths.sort_by_cached_key(|path| (!path.starts_with("metadata."), path.clone()));
    paths
}

impl<'a> Writer<'a> {
    /// A write for a request.
    pub fn new(call: &Call<'a>, options: WriteOptions) -> Self {
        Self {
            core: call.core,
            resource: call.resource,
            info: call.info,
            user: call.user,
            options,
            warnings: Vec::new(),
            deadline: options::deadline(&call.query, call.core.config.fairness.request_timeout),
            unlabelled: false,
            admitted: false,
        }
    }

    /// What strategies may look at.
    pub fn ctx(&self) -> Ctx<'_> {
        Ctx {
            core: self.core,
            user: self.user,
            request: self.info,
            dry_run: self.options.dry_run,
            unlabelled: self.unlabelled,
        }
    }

    /// Namespace of the object; empty for cluster-scoped ones.
    pub fn namespace(&self) -> &str {
        if self.resource.namespaced { &self.info.namespace } else { "" }
    }

    /// Who owns the fields of this write.
    pub fn manager(&self, agent: &str) -> String {
        if !self.options.field_manager.is_empty() {
            return self.options.field_manager.clone();
        }
        let agent = agent.split('/').next().unwrap_or_default();
        if agent.is_empty() { "unknown".to_owned() } else { agent.chars().take(128).collect() }
    }

    /// The stored entry of an object.
    ///
    /// # Errors
    /// The store fails.
    pub async fn load(&self, name: &str) -> Result<Option<Entry>, ApiError> {
        let storage = self.resource.storage()?;
        let key = storage.key(self.namespace(), name);
        let asked = self.core.metrics.timed("get", storage.store().get(&key));
        Ok(asked.await?)
    }

    /// As [`Writer::load`], but where the store is far away what the cache has will do.
    async fn find(&self, name: &str) -> Result<Found, ApiError> {
        let storage = self.resource.storage()?;
        let cache = storage.started().filter(|_| !self.options.dry_run); // Those commit nothing.
        match cache.and_then(|cache| cache.guess(&storage.key(self.namespace(), name))) {
            Some(entry) => Ok(Found { entry: Some(entry), is_guess: true }),
            None => Ok(self.load(name).await?.into()),
        }
    }

    /// Parses a stored entry into the version of this request.
    ///
    /// # Errors
    /// The stored text is no object, or cannot be converted.
    pub async fn parse(&self, entry: &Entry) -> Result<Value, ApiError> {
        let mut value: Value = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
        value["metadata"]["resourceVersion"] = entry.revision.to_string().into();
        let mut value = convert::from_stored(self.resource, value).await?;
        match &self.resource.conversion {
            Some(conversion) => conversion.from_stored(&mut value),
            None => {
                value["kind"] = self.resource.kind.clone().into();
                value["apiVersion"] = self.resource.api_version().into();
            }
        }
        Ok(value)
    }

    /// The text that is stored.
    ///
    /// # Errors
    /// The object cannot be converted.
    pub async fn encode(&self, value: &Value) -> Result<Bytes, ApiError> {
        let head = &self.resource.stored_head;
        if convert::is_converted(self.resource) {
            return Ok(text::encode(&convert::to_stored(self.resource, value).await?));
        }
        Ok(match &self.resource.conversion {
            Some(conversion) => {
                let mut stored = value.clone();
                conversion.to_stored(&mut stored);
                text::encode(&stored)
            }
            None => text::with_head(head, &text::encode(value)),
        })
    }

    /// Commits, unless this is a dry run; answers the text with its resourceVersion.
    ///
    /// # Errors
    /// Whatever the store says, conflicts included.
    pub async fn commit(
        &self,
        name: &str,
        expect: Expect,
        stored: Bytes,
    ) -> Result<Bytes, store::Error> {
        if self.options.dry_run {
            // A dry run shows the version that the object has now; a new object has none.
            return Ok(match expect {
                Expect::At(revision) => text::with_version(&stored, revision),
                Expect::Absent => stored,
            });
        }
        let Some(storage) = &self.resource.storage else { return Err(store::Error::Closed) };
        let key = storage.key(self.namespace(), name);
        let operation = if expect == Expect::Absent { "create" } else { "update" };
        let written = storage.commit(&key, expect, Some(stored.clone()));
        let revision = self.core.metrics.timed(operation, written).await?;
        self.settle(revision).await;
        Ok(text::with_version(&stored, revision))
    }

    /// Lets what depends on a type inside the server see the write before the client does.
    pub async fn settle(&self, revision: Revision) {
        self.core.settle(self.resource, revision).await;
    }

    /// Decodes a body into an object of this resource's version.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn decode(&mut self, body: &[u8], format: decode::BodyFormat) -> Result<Value, ApiError> {
        let resource = self.resource;
        let mut decoded = read_body(&resource.kind, body, format)?;
        let mut value = decoded.value.take();
        let overwritten = std::mem::take(&mut decoded.overwritten);
        kind::insist(&mut value, &overwritten);
        let is_lenient = self.options.field_validation == FieldValidation::Ignore;
        kind::fit(resource, &self.core.registry(), &mut value, body, is_lenient)?;
        meta::mark_reset(&mut value);
        let unknown = match resource.schema.get() {
            Some(schema) => schema
                .decode_text(&mut value, body, overwritten)
                .map_err(|fault| kind::undecoded(resource, &fault.to_string()))?,
            None => Vec::new(),
        };
        let complaints = self.complaints(decoded, unknown, (body, format));
        self.complain(complaints).map_err(|fault| kind::undecoded(resource, &fault))?;
        Ok(value)
    }

    /// As [`Writer::decode`], of a kind that is sent to a subresource.
    fn decode_part(
        &mut self,
        part: &Part,
        body: &[u8],
        format: decode::BodyFormat,
    ) -> Result<Value, ApiError> {
        let mut decoded = read_body(part.kind, body, format)?;
        let mut value = decoded.value.take();
        let overwritten = std::mem::take(&mut decoded.overwritten);
        kind::insist(&mut value, &overwritten);
        part.fit(&self.core.registry(), &mut value, body)?;
        let unknown = match part.schema() {
            Some(schema) => schema
                .decode_text(&mut value, body, overwritten)
                .map_err(|fault| part.undecoded(&fault.to_string()))?,
            None => Vec::new(),
        };
        let complaints = self.complaints(decoded, unknown, (body, format));
        self.complain(complaints).map_err(|fault| part.undecoded(&fault))?;
        Ok(value)
    }

    /// What a strict reader says of a body.
    fn complaints(
        &self,
        decoded: decode::Decoded,
        unknown: Vec<String>,
        (body, format): (&[u8], decode::BodyFormat),
    ) -> Vec<String> {
        let mut complaints = match (format, self.options.field_validation) {
            (decode::BodyFormat::Yaml, FieldValidation::Strict)
                if !decoded.complaints.is_empty() =>
            {
                vec![decode::yaml_complaints(&decoded.complaints)]
            }
            _ => decoded.complaints,
        };
        if self.resource.is_foreign() {
            complaints.extend(sorted(unknown).iter().map(|path| decode::unknown_field(path)));
        } else if format == decode::BodyFormat::Json {
            complaints = decode::in_order(&decoded.duplicates, &unknown, body);
        } else {
            complaints.extend(unknown.iter().map(|path| decode::unknown_field(path)));
        }
        complaints
    }

    /// Warns, or answers the fault of a client that wants no warnings.
    fn complain(&mut self, mut complaints: Vec<String>) -> Result<(), String> {
        match self.options.field_validation {
            _ if complaints.is_empty() => (),
            FieldValidation::Ignore => (),
            FieldValidation::Warn => self.warnings.append(&mut complaints),
            FieldValidation::Strict => {
                return Err(format!("strict decoding error: {}", complaints.join(", ")));
            }
        }
        Ok(())
    }

    /// Everything that is wrong with an object.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] with every cause.
    pub fn validate(
        &self,
        value: &Value,
        old: Option<&Value>,
        subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        let strategy = &self.resource.strategy;
        let mut causes = meta::validate(self.resource, value, old, subresource);
        let own = strategy.validate(value, old, subresource);
        let mut by_schema =
            self.resource.schema.get().map(|s| s.validate(value, old)).unwrap_or_default();
        // Owners are judged with the metadata.
        by_schema.retain(|cause| {
            !cause.field.starts_with("metadata.ownerReferences") && !strategy.judges(&cause.field)
        });
        let others = schema::cause::merge(by_schema, own);
        if old.is_none() && !others.is_empty() && meta::is_judged_last(self.resource) {
            causes.clear();
        }
        causes.extend(others);
        let makes_pods = matches!(&*self.resource.group, "" | "apps" | "batch");
        if makes_pods && !self.core.config.allow_privileged && subresource != Some("status") {
            causes.extend(privileged(value));
        }
        if self.resource.is_foreign()
            && let Some(schema) = self.resource.schema.get()
        {
            let objects = schema.embedded(value).into_iter();
            causes.extend(objects.flat_map(|(path, object)| embedded::validate(&path, object)));
        }
        self.refuse(value, causes)
    }

    /// Refuses an object if there are causes.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] with every cause.
    pub fn refuse(&self, value: &Value, causes: Vec<Cause>) -> Result<(), ApiError> {
        if causes.is_empty() {
            return Ok(());
        }
        let name = value["metadata"]["name"].as_str().unwrap_or_default();
        let name = if name.is_empty() { &self.info.name } else { name };
        Err(ApiError::Invalid {
            kind: self.resource.group_kind(),
            name: name.to_owned(),
            causes: causes.into_iter().map(Into::into).collect(),
        })
    }

    /// Static and conditional defaults.
    pub fn default(&self, value: &mut Value) {
        self.resource.strategy.default_absent(value);
        if let Some(schema) = self.resource.schema.get() {
            schema.default(value);
        }
        self.resource.strategy.default(value);
    }

    /// Stale or otherwise not as the client believes.
    pub fn conflict(&self, name: &str) -> ApiError {
        ApiError::Conflict {
            resource: self.resource.group_resource(),
            name: name.to_owned(),
            message: "the object has been modified; please apply your changes to the latest version and try again"
                .to_owned(),
        }
    }
}

/// Reads the body of an object of a kind.
fn read_body(
    kind: &str,
    body: &[u8],
    format: decode::BodyFormat,
) -> Result<decode::Decoded, ApiError> {
    let mut decoded = decode::decode(body, format)
        .map_err(|fault| kind::unrecognized(kind, body, &decode::unreadable(format, fault)))?;
    // Nothing at all is an object in YAML.
    let is_empty = format == decode::BodyFormat::Yaml || !body.trim_ascii().is_empty();
    if decoded.value.is_null() && is_empty {
        decoded.value = Value::Object(Map::new());
    }
    Ok(decoded)
}

/// Answers every request that is not a read.
///
/// # Errors
/// Why nothing was written.
pub async fn handle(call: &Call<'_>, body: Body) -> Result<Response, ApiError> {
    let body = read(body, call.core.config.max_body_bytes).await?;
    audit::request_body(&body, call.headers);
    if let Some(response) = subresource::handle(call, &body).await? {
        return Ok(response);
    }
    match call.info.verb.as_str() {
        "create" => create::handle(call, &body).await,
        "update" => update::handle(call, &body).await,
        "patch" => patch::handle(call, &body).await,
        "delete" => delete::handle(call, &body).await,
        "deletecollection" => delete::collection(call, &body).await,
        _ => Err(ApiError::MethodNotAllowed),
    }
}

/// Reads a whole body.
///
/// # Errors
/// [`ApiError::TooLarge`] above the limit, [`ApiError::BadRequest`] if the client stops in the middle.
pub async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(ApiError::TooLarge(format!("Request entity too large: limit is {limit}")))
        }
        Err(error) => {
            Err(ApiError::BadRequest(format!("failed to read the request body: {error}")))
        }
    }
}

/// A written object, or why there is none, as the answer of its request; warnings come with both.
///
/// # Errors
/// The object cannot take the agreed shape.
pub fn answer(
    call: &Call<'_>,
    writer: &Writer<'_>,
    status: StatusCode,
    written: Result<Bytes, ApiError>,
) -> Result<Response, ApiError> {
    let done = match written {
        Ok(json) => Ok(respond::object(call.resource, &call.output, &call.query, status, json)?),
        Err(refusal) => Err(refusal),
    };
    told(call, &writer.warnings, done)
}

/// An answer, or a refusal, with warnings.
fn told(
    call: &Call<'_>,
    warnings: &[String],
    done: Result<Response, ApiError>,
) -> Result<Response, ApiError> {
    let format = error_format(call.headers.get(header::ACCEPT));
    let mut response = done.unwrap_or_else(|refusal| respond::error(refusal, format));
    respond::warn(&mut response, warnings);
    Ok(response)
}

/// Metadata of an object, made if it is not there.
pub(crate) fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    crate::types::check::ensure(value, "metadata")
}
