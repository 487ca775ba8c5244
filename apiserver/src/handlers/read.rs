//! GET and LIST: bytes of the watch cache, joined.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use store::Revision;
use store::cache::{Cache, Object, Snapshot};

use super::Call;
use super::negotiate::{Format, Output, Shape};
use super::options::{ListOptions, Match};
use super::respond;
use super::token::{self, Token};
use crate::bytes as text;
use crate::crd::convert;
use crate::registry::{Resource, Selectable};
use crate::status::{ApiError, StatusCause};
use crate::table;

/// Longest wait for a revision that the client has seen elsewhere.
///
/// Source: `blockTimeout` of upstream's watch cache.
const WAIT_FOR_VERSION: Duration = Duration::from_secs(3);
/// Bytes of one chunk of a list: with its frame it fills four TLS records, which are then made, encrypted and sent
/// while they are in the processor's nearer caches.
const CHUNK_BYTES: usize = 64 * 1024 - 16;

/// Answers GET of one object.
///
/// # Errors
/// Not found, a revision that is not reached, or a shape that does not fit.
pub async fn get(call: &Call<'_>) -> Result<Response, ApiError> {
    if call.query.flag("export") == Some(true) {
        let text = "the export parameter, deprecated since v1.14, is no longer supported";
        return Err(ApiError::BadRequest(text.to_owned()));
    }
    let object = get_json(call).await?;
    respond::object(call.resource, &call.output, &call.query, StatusCode::OK, object)
}

/// The text of the object that a request names, as the stored version has it.
///
/// # Errors
/// As [`get`].
pub async fn get_json(call: &Call<'_>) -> Result<Bytes, ApiError> {
    let storage = call.resource.storage()?;
    let (namespace, name) = (call.namespace(), &call.info.name);
    match call.query.get("resourceVersion") {
        None => {
            let key = storage.key(namespace, name);
            let asked = call.core.metrics.timed("get", storage.store().get(&key));
            let entry = asked.await?;
            let entry = entry.ok_or_else(|| call.resource.not_found(name))?;
            let json = text::with_version(&entry.value, entry.revision);
            convert::present_one(call.resource, json).await
        }
        Some(version) => {
            let revision = parse_revision(version).map_err(ApiError::Unknown)?;
            let cache = storage.cache().await?;
            if revision > 0 {
                wait_for(cache, revision).await?;
            }
            let namespace = (!namespace.is_empty()).then_some(namespace);
            let object = cache.get(namespace, name).ok_or_else(|| call.resource.not_found(name))?;
            convert::present_one(call.resource, object.json()).await
        }
    }
}

/// Reads a resourceVersion.
///
/// # Errors
/// In Go's words.
pub fn parse_revision(version: &str) -> Result<Revision, String> {
    version.parse().map_err(|_| {
        let digits = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit());
        let fault = if digits { "value out of range" } else { "invalid syntax" };
        format!(
            "resourceVersion: Invalid value: {version:?}: strconv.ParseUint: parsing {version:?}: {fault}"
        )
    })
}

/// Waits until the cache shows a revision.
///
/// # Errors
/// [`ApiError::Timeout`] if it does not come.
pub async fn wait_for(cache: &Cache, revision: Revision) -> Result<(), ApiError> {
    match tokio::time::timeout(WAIT_FOR_VERSION, cache.wait_for(revision)).await {
        Ok(result) => result.map_err(ApiError::from),
        Err(_elapsed) => Err(ApiError::Timeout {
            message: format!(
                "Timeout: Too large resource version: {revision}, current: {}",
                cache.revision()
            ),
            retry_after: 1,
            causes: vec![StatusCause::new(
                "ResourceVersionTooLarge",
                "",
                "Too large resource version".to_owned(),
            )],
        }),
    }
}

/// The state that a list shows.
pub struct State {
    /// Its objects.
    pub snapshot: Snapshot,
    /// The store key from which on it is listed.
    pub from: Option<String>,
    /// The cache keeps it since an earlier page.
    is_kept: bool,
}

impl State {
    fn new(snapshot: Snapshot) -> Self {
        Self { snapshot, from: None, is_kept: false }
    }
}

/// The state that a list shows.
///
/// # Errors
/// A token or version that makes no sense, or a state that is gone or not reached.
pub async fn state(
    call: &Call<'_>,
    options: &ListOptions,
    cache: &Cache,
) -> Result<State, ApiError> {
    let namespace = call.namespace();
    let namespace = (!namespace.is_empty()).then_some(namespace);
    let version = options.resource_version.as_str();
    if let Some(token) = &options.continue_token {
        let token = Token::decode(token)?;
        if !matches!(version, "" | "0") {
            let text = "specifying resource version is not allowed when using continue";
            return Err(ApiError::BadRequest(text.to_owned()));
        }
        let Some(revision) = token.revision() else {
            // The list's revision must tell this state from that of the pages before.
            cache.caught_up().await?;
            let snapshot = cache.list(namespace);
            return Ok(State { from: Some(token.key(snapshot.scope())), ..State::new(snapshot) });
        };
        if revision > cache.revision() {
            wait_for(cache, revision).await?;
        }
        return match cache.snapshot_at(revision, namespace) {
            Ok(snapshot) => {
                let from = Some(token.key(snapshot.scope()));
                Ok(State { snapshot, from, is_kept: cache.keeps(revision) })
            }
            Err(store::Error::Compacted { .. }) => Err(expired_token(&token)),
            Err(other) => Err(other.into()),
        };
    }
    if version.is_empty() {
        cache.fresh().await?;
        return Ok(State::new(cache.list(namespace)));
    }
    let revision = parse_revision(version)
        .map_err(|text| ApiError::BadRequest(format!("invalid resource version: {text}")))?;
    match revision {
        0 => own_writes(call.resource).await,
        _ => wait_for(cache, revision).await?,
    }
    let exact = match options.version_match {
        Match::Exact => true,
        Match::NotOlderThan => false,
        Match::Unset => options.limit > 0 && revision > 0,
    };
    let now = cache.list(namespace);
    if !exact || revision == now.revision() {
        return Ok(State::new(now));
    }
    match cache.snapshot_at(revision, namespace) {
        Ok(snapshot) => Ok(State::new(snapshot)),
        Err(store::Error::Compacted { .. }) => Err(ApiError::Expired(
            "The resourceVersion for the provided list is too old.".to_owned(),
        )),
        Err(other) => Err(other.into()),
    }
}

/// How long a list of any state waits for the writes that this server has answered.
const OWN_WRITES: Duration = Duration::from_secs(1);

/// Waits for what this server has just answered, if its watch of etcd is a moment behind: any state will do for
/// version 0, but a client expects to see what it wrote.
pub(crate) async fn own_writes(resource: &Resource) {
    if let Ok(storage) = resource.storage()
        && tokio::time::timeout(OWN_WRITES, storage.recent()).await.is_err()
    {
        tracing::debug!(resource = resource.name, "the cache is behind");
    }
}

/// 410 with a token that goes on in the current state.
fn expired_token(token: &Token) -> ApiError {
    let fresh = token.renewed().encode();
    ApiError::ExpiredToken {
        message: "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.".to_owned(),
        token: fresh,
    }
}

/// Turns the labels of field selectors into those of the store, and refuses the ones that the resource does not know.
///
/// # Errors
/// [`ApiError::BadRequest`] in upstream's words.
pub fn fit_fields(resource: &Resource, options: &mut ListOptions) -> Result<(), ApiError> {
    let known = resource.selectable.as_slice();
    // Cluster-scoped types of Kubernetes with fields of their own do not name the namespace among them.
    let placeless = !resource.is_foreign() && !resource.namespaced && !known.is_empty();
    for term in options.fields.terms_mut() {
        let stored = match &resource.conversion {
            Some(conversion) => conversion.stored_field(&term.field),
            None => Some(term.field.clone()),
        };
        let is_known = |field: &String| match field.as_str() {
            "metadata.name" => true,
            "metadata.namespace" => !placeless,
            other => known.iter().any(|selectable| selectable.name == other),
        };
        match stored.filter(is_known) {
            Some(stored) => term.field = stored,
            None => return Err(ApiError::BadRequest(unselectable(resource, known, &term.field))),
        }
    }
    Ok(())
}

fn unselectable(resource: &Resource, known: &[Selectable], field: &str) -> String {
    if let Some(own) = resource.strategy.unselectable(field) {
        return own;
    }
    if resource.kind == "ResourceSlice" && !resource.is_foreign() {
        let (version, kind) = (resource.api_version(), &resource.kind);
        format!("field label not supported for {version}, Kind={kind}: {field}")
    } else if known.is_empty() && !resource.is_foreign() {
        format!(
            "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        )
    } else {
        format!("field label not supported: {field}")
    }
}

/// Whether the selectors choose an object.
pub fn chosen(options: &ListOptions, object: &Object) -> bool {
    options.labels.matches(|key| object.labels().get(key))
        && options.fields.matches(|field| match field {
            "metadata.name" => Some(object.name()),
            "metadata.namespace" => object.namespace(),
            other => object.fields().get(other),
        })
}

/// Answers LIST.
///
/// # Errors
/// Bad options, a state that is gone or not reached, or a shape that does not fit.
pub async fn list(call: &Call<'_>) -> Result<Response, ApiError> {
    let mut options = ListOptions::parse(&call.query, false)?;
    fit_fields(call.resource, &mut options)?;
    let cache = call.resource.storage()?.cache().await?;
    let State { snapshot, from, is_kept } = state(call, &options, cache).await?;
    let stored = convert::asked_of_stored(call.resource, &options);
    let page = Page::look(&snapshot, from.as_deref(), &stored);
    if page.token.is_some() && !is_kept {
        cache.keep(&snapshot);
    }
    let form = Form::agree(call)?;
    if form.streams() && !convert::is_converted(call.resource) {
        let meta = meta(&form, call.resource, snapshot.revision(), &page);
        return Ok(form.stream(call, &meta, snapshot, from, options));
    }
    let objects = matching(&snapshot, from.as_deref(), &stored).cloned().collect();
    let objects = converted(call.resource, &options, objects).await?;
    Ok(form.whole(call, snapshot.revision(), &objects, &page))
}

/// Answers a page of a list: these objects, which have the resource's version.
///
/// # Errors
/// The list cannot take the agreed shape.
pub fn answer_page(
    call: &Call<'_>,
    revision: Revision,
    objects: &[Arc<Object>],
    page: &Page,
) -> Result<Response, ApiError> {
    Ok(Form::agree(call)?.whole(call, revision, objects, page))
}

/// What the options choose of a state, in the resource's version, and what the page says of the rest.
///
/// # Errors
/// The conversion webhook fails.
pub async fn choose_page(
    resource: &Resource,
    options: &ListOptions,
    state: &State,
) -> Result<(Vec<Arc<Object>>, Page), ApiError> {
    let (snapshot, from) = (&state.snapshot, state.from.as_deref());
    let stored = convert::asked_of_stored(resource, options);
    let page = Page::look(snapshot, from, &stored);
    let objects = matching(snapshot, from, &stored).cloned().collect();
    Ok((converted(resource, options, objects).await?, page))
}

/// Those of the stored objects that the selectors choose, in the resource's version.
///
/// # Errors
/// The conversion webhook fails.
pub async fn choose(
    resource: &Resource,
    options: &ListOptions,
    objects: impl Iterator<Item = &Arc<Object>>,
) -> Result<Vec<Arc<Object>>, ApiError> {
    let stored = convert::asked_of_stored(resource, options);
    let objects = objects.filter(|object| chosen(&stored, object)).cloned().collect();
    converted(resource, options, objects).await
}

/// Those that the selectors choose, of objects that were asked what stored ones can be asked.
async fn converted(
    resource: &Resource,
    options: &ListOptions,
    objects: Vec<Arc<Object>>,
) -> Result<Vec<Arc<Object>>, ApiError> {
    let mut objects = convert::objects(resource, objects).await?;
    if convert::is_converted(resource) {
        objects.retain(|object| chosen(options, object));
    }
    Ok(objects)
}

/// The objects of a list or page.
fn matching<'a>(
    snapshot: &'a Snapshot,
    from: Option<&'a str>,
    options: &'a ListOptions,
) -> impl Iterator<Item = &'a Arc<Object>> {
    let objects = snapshot.iter_from(from.unwrap_or_default()).filter(|o| chosen(options, o));
    objects.take(match options.limit {
        0 => usize::MAX,
        limit => limit,
    })
}

/// What a page says of those after it.
#[derive(Default)]
pub struct Page {
    token: Option<String>,
    remaining: Option<usize>,
}

impl Page {
    fn look(snapshot: &Snapshot, from: Option<&str>, options: &ListOptions) -> Self {
        if options.limit == 0 {
            return Self::default();
        }
        // As upstream: there is a next page while there are objects, whether they match or not.
        let last = matching(snapshot, from, options).nth(options.limit - 1);
        let last = last.filter(|last| snapshot.iter_after(last.key()).next().is_some());
        let last = last.filter(|last| !is_single(snapshot, last.key(), options));
        let Some(last) = last else { return Self::default() };
        let remaining = (!options.is_selective()).then(|| snapshot.iter_after(last.key()).count());
        let revision = i64::try_from(snapshot.revision()).unwrap_or(i64::MAX);
        let token = Token::after(revision, last.key(), snapshot.scope());
        Self { token: Some(token.encode()), remaining }
    }
}

/// Whether the one object that can match is read alone: of a name, in a place that is known.
fn is_single(snapshot: &Snapshot, key: &str, options: &ListOptions) -> bool {
    let asks = |field| options.fields.required(field).is_some();
    let is_in_place = key.strip_prefix(snapshot.scope()).is_some_and(|name| !name.contains('/'));
    asks("metadata.name") && (is_in_place || asks("metadata.namespace"))
}

/// `metadata` of a list, as JSON.
fn meta(form: &Form, resource: &Resource, revision: Revision, page: &Page) -> String {
    let mut out = format!("{{\"resourceVersion\":\"{revision}\"");
    // Lists of custom resources always have the field.
    let always = !resource.bare_items && matches!(form, Form::Objects);
    if let Some(token) = page.token.as_deref().or(always.then_some("")) {
        out += &format!(",\"continue\":\"{token}\"");
    }
    if let Some(n) = page.remaining {
        out += &format!(",\"remainingItemCount\":{n}");
    }
    out.push('}');
    out
}

/// How the items of a list are written.
#[derive(Clone)]
enum Form {
    Objects,
    Metadata(String),
    Table(String, table::Include),
}

impl Form {
    fn agree(call: &Call<'_>) -> Result<Self, ApiError> {
        match &call.output.shape {
            Shape::Object => Ok(Self::Objects),
            Shape::MetadataList(version) => Ok(Self::Metadata(version.clone())),
            Shape::Table(version) => {
                Ok(Self::Table(version.clone(), respond::include_object(&call.query)?))
            }
            Shape::Metadata(_) => Err(ApiError::NotAcceptable(format!(
                "you requested PartialObjectMetadata, but the requested object is a list ({})",
                respond::go_type(call.resource, true)
            ))),
        }
    }

    fn streams(&self) -> bool {
        !matches!(self, Self::Table(..))
    }

    /// `{…"items":[` of the list.
    fn open(&self, resource: &Resource, meta: &str) -> Vec<u8> {
        let (kind, version) = match self {
            Self::Metadata(version) => {
                ("PartialObjectMetadataList", format!("meta.k8s.io/{version}"))
            }
            _ => (resource.list_kind.as_str(), resource.api_version()),
        };
        let mut out = text::head(kind, &version);
        out.extend_from_slice(b"\"metadata\":");
        out.extend_from_slice(meta.as_bytes());
        out.extend_from_slice(b",\"items\":[");
        out
    }

    fn write(&self, resource: &Resource, item: &Item<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Metadata(version) => {
                out.extend_from_slice(&respond::partial(resource, version, &item.object.json()))
            }
            _ => item.write(resource, out),
        }
    }

    fn whole(
        &self,
        call: &Call<'_>,
        revision: Revision,
        objects: &[Arc<Object>],
        page: &Page,
    ) -> Response {
        let body: Bytes = if let Self::Table(version, include) = self {
            let items: Vec<Bytes> = objects.iter().map(|o| o.json()).collect();
            let meta = table::ListMeta {
                resource_version: revision.to_string(),
                continue_token: page.token.clone(),
                remaining: page.remaining,
            };
            table::render(call.resource, &items, *include, version, &meta, true)
        } else {
            let mut out = self.open(call.resource, &meta(self, call.resource, revision, page));
            for (n, object) in objects.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                self.write(call.resource, &Item::look(call.resource, object), &mut out);
            }
            out.extend_from_slice(b"]}\n");
            out.into()
        };
        respond::formatted(&call.output, StatusCode::OK, body)
    }

    /// A list or page, made chunk by chunk as the client takes it.
    fn stream(
        self,
        call: &Call<'_>,
        meta: &str,
        snapshot: Snapshot,
        from: Option<String>,
        options: ListOptions,
    ) -> Response {
        let resource = call.resource.clone();
        let (first, done) = (true, false);
        let mut walk = Walk { form: self, resource, snapshot, options, from, first, done };
        let mut first = walk.form.open(&walk.resource, meta);
        walk.fill(&mut first);
        let plain = Output { pretty: false, ..call.output.clone() };
        if walk.done || call.output.pretty || call.output.format != Format::Json {
            while !walk.done {
                walk.fill(&mut first);
            }
            return respond::formatted(&call.output, StatusCode::OK, first.into());
        }
        let rest = futures::stream::unfold((Some(first), walk), |(ready, mut walk)| async move {
            if let Some(ready) = ready {
                return Some((Bytes::from(ready), (None, walk)));
            }
            if walk.done {
                return None;
            }
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            walk.fill(&mut chunk);
            tokio::task::consume_budget().await;
            Some((Bytes::from(chunk), (None, walk)))
        });
        respond::streamed(&plain, rest)
    }
}

/// An item of a list: an object, without kind and version where upstream leaves them out.
struct Item<'a> {
    object: &'a Object,
    /// How many bytes at the start of the stored text are left out; `None` if the item is not what is stored.
    left_out: Option<usize>,
}

impl<'a> Item<'a> {
    /// Looks at the text's first bytes. To look at many texts before any is copied lets the processor fetch them
    /// together; a list of thousands is in no cache of it.
    fn look(resource: &Resource, object: &'a Object) -> Self {
        let as_stored = resource.conversion.is_none() && resource.head == resource.stored_head;
        let left_out = match as_stored {
            true if !resource.bare_items => Some(0),
            true if object.stored().starts_with(&resource.head) => Some(resource.head.len()),
            _ => None,
        };
        Self { object, left_out }
    }

    fn write(&self, resource: &Resource, out: &mut Vec<u8>) {
        let json = match self.left_out {
            Some(0) => return self.object.write_json(out),
            Some(n_left_out) => {
                out.push(b'{');
                return self.object.write_json_after(n_left_out, out);
            }
            None => resource.view(self.object.json()),
        };
        if !resource.bare_items {
            return out.extend_from_slice(&json);
        }
        out.push(b'{');
        out.extend_from_slice(&text::without_head(&json));
    }
}

/// A walk over a snapshot that can pause between objects.
struct Walk {
    form: Form,
    resource: Arc<Resource>,
    snapshot: Snapshot,
    /// Their limit is what is left of it.
    options: ListOptions,
    from: Option<String>,
    first: bool,
    done: bool,
}

impl Walk {
    /// Appends items until the next one would not fit, one at least, or until the list ends.
    fn fill(&mut self, out: &mut Vec<u8>) {
        let (mut chunk, mut size, mut more) = (Vec::new(), out.len(), None);
        for object in matching(&self.snapshot, self.from.as_deref(), &self.options) {
            size += object.json_len();
            if size > CHUNK_BYTES
                && let Some(Item { object: last, .. }) = chunk.last()
            {
                more = Some(token::next_key(last.key()));
                break;
            }
            chunk.push(Item::look(&self.resource, object));
        }
        for item in &chunk {
            if !std::mem::take(&mut self.first) {
                out.push(b',');
            }
            self.form.write(&self.resource, item, out);
        }
        if more.is_none() {
            out.extend_from_slice(b"]}\n");
            self.done = true;
            return;
        }
        // Without a limit it is 0, and stays it.
        self.options.limit = self.options.limit.saturating_sub(chunk.len());
        self.from = more;
    }
}
