//! Watches: a stream of frames that all watchers of a change share.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, header};
use prometheus_client::metrics::counter::Counter;
use rand::Rng as _;
use store::Revision;
use store::cache::{Cache, CacheEvent, Interest, Kind, Object, Snapshot, Subscription};
use tokio::time::{Instant, Sleep};

use crate::bytes as text;
use crate::crd::convert;
use crate::handlers::negotiate::{Format, Shape};
use crate::handlers::options::ListOptions;
use crate::handlers::read::{choose, chosen, fit_fields, parse_revision};
use crate::handlers::{Call, respond};
use crate::protobuf;
use crate::registry::Resource;
use crate::status::ApiError;
use crate::table;

/// Pause between two bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Most bytes of waiting frames that are sent as one piece.
const BATCH_BYTES: usize = 64 * 1024;

/// Answers WATCH.
///
/// # Errors
/// Bad options. A revision that is gone is told inside the stream.
pub async fn watch(call: &Call<'_>) -> Result<Response, ApiError> {
    let mut options = ListOptions::parse(&call.query, true)?;
    fit_fields(call.resource, &mut options)?;
    if !call.info.name.is_empty() && call.info.path_name == call.info.name {
        options.fields.require("metadata.name", &call.info.name);
    }
    let encoder = Encoder::agree(call)?;
    let format = encoder.format;
    let cache = call.resource.storage()?.cache().await?;
    let start = begin(call, &options, cache).await?;
    let timeout = options.timeout_seconds.map_or_else(
        || {
            let least = call.core.config.fairness.min_request_timeout;
            least.mul_f64(1.0 + rand::rng().random::<f64>())
        },
        Duration::from_secs,
    );
    let options = Arc::new(options);
    let sent = call.core.metrics.watch_events(call.resource);
    let feed = match start {
        Start::From(revision) => match cache.subscribe(revision, interest(call, &options)) {
            Ok(subscription) => Feed::new(encoder, options, subscription, timeout, sent),
            Err(_) => return Ok(stream(format, futures::stream::iter([gone(format)]))),
        },
        Start::State => {
            let namespace = (!call.namespace().is_empty()).then_some(call.namespace());
            let (list, subscription) =
                cache.list_and_subscribe(namespace, interest(call, &options));
            let mut feed = Feed::new(encoder, options, subscription, timeout, sent);
            feed.initial = Some((list, None));
            feed
        }
    };
    Ok(stream(
        format,
        futures::stream::unfold(feed, |mut feed| async move {
            let frame = feed.next().await?;
            Some((frame, feed))
        }),
    ))
}

/// Where a watch begins.
enum Start {
    /// With the changes after a revision.
    From(Revision),
    /// With the state, as ADDED events.
    State,
}

async fn begin(call: &Call<'_>, options: &ListOptions, cache: &Cache) -> Result<Start, ApiError> {
    let version = options.resource_version.as_str();
    let revision =
        if version.is_empty() { 0 } else { parse_revision(version).map_err(ApiError::Unknown)? };
    if options.send_initial_events == Some(true)
        || (revision == 0 && options.send_initial_events.is_none())
    {
        if version.is_empty() {
            cache.fresh().await?;
        } else if revision > 0 {
            crate::handlers::read::wait_for(cache, revision).await?;
        } else {
            crate::handlers::read::own_writes(call.resource).await;
        }
        return Ok(Start::State);
    }
    if options.send_initial_events == Some(false) && revision == 0 {
        cache.fresh().await?;
        return Ok(Start::From(cache.revision()));
    }
    Ok(Start::From(revision)) // Of a later one: silent until the store gets there.
}

fn interest(call: &Call<'_>, options: &ListOptions) -> Interest {
    let namespace = call.namespace();
    let options = convert::asked_of_stored(call.resource, options);
    if !options.is_selective() {
        return if namespace.is_empty() {
            Interest::All
        } else {
            Interest::Namespace(namespace.into())
        };
    }
    let (namespace, options) = (namespace.to_owned(), options.into_owned());
    Interest::Only(Arc::new(move |event| {
        (namespace.is_empty() || event.object.namespace() == Some(&namespace))
            && (chosen(&options, &event.object)
                || event.previous.as_ref().is_some_and(|p| chosen(&options, p)))
    }))
}

fn stream(format: Format, frames: impl futures::Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(frames.map(Ok::<_, std::convert::Infallible>));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let kind = match format {
        Format::Protobuf => protobuf::STREAM_MEDIA_TYPE,
        _ => format.media_type(),
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// The event that tells a watcher to list again.
fn gone(format: Format) -> Bytes {
    error_event(format, &ApiError::Expired("too old resource version".to_owned()))
}

fn error_event(format: Format, error: &ApiError) -> Bytes {
    let (mut status, mut out) = (Vec::new(), Vec::new());
    text::write_json(&mut status, &error.status());
    write_event(format, "ERROR", &status, &mut out);
    out.into()
}

/// Appends the frame of an event: a line of JSON, or a protobuf message and before it its length.
fn write_event(format: Format, kind: &str, object: &[u8], out: &mut Vec<u8>) {
    if format == Format::Protobuf {
        let object = serde_json::from_slice(object).unwrap_or_default();
        out.extend_from_slice(&protobuf::event(kind, &object));
        return;
    }
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}

/// How the objects of a watch are written.
struct Encoder {
    resource: Arc<Resource>,
    format: Format,
    form: Form,
    columns_sent: bool,
}

enum Form {
    /// The frame that all watchers share.
    Shared,
    /// Another version of the object.
    Converted,
    Metadata(String),
    Table(String, table::Include),
}

impl Encoder {
    fn agree(call: &Call<'_>) -> Result<Self, ApiError> {
        let resource = call.resource.clone();
        let form = match &call.output.shape {
            Shape::Object
                if call.output.format == Format::Json
                    && resource.conversion.is_none()
                    && resource.head == resource.stored_head
                    && !convert::is_converted(&resource) =>
            {
                Form::Shared
            }
            Shape::Object => Form::Converted,
            Shape::Metadata(version) | Shape::MetadataList(version) => {
                Form::Metadata(version.clone())
            }
            Shape::Table(version) => {
                Form::Table(version.clone(), respond::include_object(&call.query)?)
            }
        };
        Ok(Self { resource, format: call.output.format, form, columns_sent: false })
    }

    /// One event about an object.
    fn event(&mut self, kind: Kind, json: &Bytes, out: &mut Vec<u8>) {
        let object = self.object(json);
        write_event(self.format, kind.as_str(), &object, out);
    }

    fn object(&mut self, json: &Bytes) -> Bytes {
        match &self.form {
            Form::Shared => json.clone(),
            Form::Converted => self.resource.view(json.clone()),
            Form::Metadata(version) => respond::partial(&self.resource, version, json),
            Form::Table(version, include) => {
                let meta = table::ListMeta::at(&respond::revision_of(json));
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                table::render(
                    &self.resource,
                    std::slice::from_ref(json),
                    *include,
                    version,
                    &meta,
                    columns,
                )
            }
        }
    }

    fn bookmark(&self, revision: Revision, initial_end: bool, out: &mut Vec<u8>) {
        let (mut object, tail) = match &self.form {
            Form::Shared | Form::Converted => (self.resource.head.clone(), ""),
            Form::Metadata(version) => {
                (text::head("PartialObjectMetadata", &format!("meta.k8s.io/{version}")), "")
            }
            Form::Table(version, _) => (
                text::head("Table", &format!("meta.k8s.io/{version}")),
                ",\"columnDefinitions\":null,\"rows\":[]",
            ),
        };
        let annotations = if initial_end {
            ",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}"
        } else {
            ""
        };
        object.extend_from_slice(
            format!("\"metadata\":{{\"resourceVersion\":\"{revision}\"{annotations}}}{tail}}}")
                .as_bytes(),
        );
        write_event(self.format, "BOOKMARK", &object, out);
    }
}

/// The object that an event shows: one that ceased to match is shown as it was.
fn shown(event: &CacheEvent, kind: Kind) -> Bytes {
    let ceased = kind == Kind::Deleted && event.kind != Kind::Deleted;
    match (&event.previous, ceased) {
        (Some(previous), true) => previous.at(event.revision).json(),
        _ => event.object.json(),
    }
}

/// One watcher.
struct Feed {
    encoder: Encoder,
    options: Arc<ListOptions>,
    subscription: Subscription,
    /// The state, and the key up to which it was sent.
    initial: Option<(Snapshot, Option<String>)>,
    /// An object could not be shown; the watch has told so and ends.
    failed: bool,
    end: Pin<Box<Sleep>>,
    /// One timer for all bookmarks: a new one for each event would cost more than the event.
    bookmark: Pin<Box<Sleep>>,
    /// Counts the events that were sent.
    sent: Counter,
}

impl Feed {
    fn new(
        encoder: Encoder,
        options: Arc<ListOptions>,
        subscription: Subscription,
        timeout: Duration,
        sent: Counter,
    ) -> Self {
        let end = Box::pin(tokio::time::sleep(timeout));
        Self {
            encoder,
            options,
            subscription,
            initial: None,
            failed: false,
            end,
            bookmark: Box::pin(tokio::time::sleep(BOOKMARK_EVERY)),
            sent,
        }
    }

    /// The next piece of the stream: one frame or several.
    async fn next(&mut self) -> Option<Bytes> {
        if self.failed {
            return None;
        }
        if let Some(piece) = self.initial().await {
            return Some(piece);
        }
        loop {
            tokio::select! {
                biased;
                event = self.subscription.recv() => {
                    let event = event?;
                    let piece = match convert::is_converted(&self.encoder.resource) {
                        true => self.converted(&event).await,
                        false => self.batch(&event),
                    };
                    if let Some(piece) = piece {
                        return Some(piece);
                    }
                }
                () = self.end.as_mut() => {
                    return None;
                }
                () = self.bookmark.as_mut(), if self.options.bookmarks => {
                    self.bookmark.as_mut().reset(Instant::now() + BOOKMARK_EVERY);
                    if let Some(revision) = self.subscription.progress() {
                        let mut out = Vec::new();
                        self.encoder.bookmark(revision, false, &mut out);
                        return Some(out.into());
                    }
                }
            }
        }
    }

    /// ADDED events of the state, and the bookmark that ends them.
    async fn initial(&mut self) -> Option<Bytes> {
        let (snapshot, after) = self.initial.take()?;
        let mut out = Vec::new();
        let mut last = after;
        loop {
            let objects = snapshot.page(last.as_deref(), 64);
            let Some(end) = objects.last() else { break };
            last = Some(end.key().to_owned());
            match choose(&self.encoder.resource, &self.options, objects.iter()).await {
                Ok(chosen) => {
                    for object in &chosen {
                        self.encoder.event(Kind::Added, &object.json(), &mut out);
                        self.sent.inc();
                    }
                }
                Err(error) => return Some(self.fail(&error)),
            }
            if out.len() >= BATCH_BYTES {
                self.initial = Some((snapshot, last));
                return Some(out.into());
            }
        }
        if self.options.send_initial_events == Some(true) && self.options.bookmarks {
            self.encoder.bookmark(snapshot.revision(), true, &mut out);
        }
        (!out.is_empty()).then(|| out.into())
    }

    /// The frame of an event, joined with those that wait already.
    fn batch(&mut self, event: &CacheEvent) -> Option<Bytes> {
        let first = self.frame(event);
        let Some(more) = self.subscription.try_recv() else { return first };
        let mut out = first.map(|f| f.to_vec()).unwrap_or_default();
        let mut next = Some(more);
        while let Some(event) = next {
            if let Some(frame) = self.frame(&event) {
                out.extend_from_slice(&frame);
            }
            next = if out.len() < BATCH_BYTES { self.subscription.try_recv() } else { None };
        }
        (!out.is_empty()).then(|| out.into())
    }

    fn frame(&mut self, event: &CacheEvent) -> Option<Bytes> {
        let kind = self.kind(event)?;
        self.sent.inc();
        if matches!(self.encoder.form, Form::Shared) {
            return Some(event.frame_as(kind));
        }
        let mut out = Vec::new();
        self.encoder.event(kind, &shown(event, kind), &mut out);
        Some(out.into())
    }

    /// The frame of an event whose object a webhook converts.
    async fn converted(&mut self, event: &CacheEvent) -> Option<Bytes> {
        let before = event.previous.as_ref().filter(|_| self.options.is_selective());
        match convert::event(&self.encoder.resource, event, before).await {
            Ok(event) => self.frame(&event),
            Err(error) => Some(self.fail(&error)),
        }
    }

    /// Ends the watch with an error.
    fn fail(&mut self, error: &ApiError) -> Bytes {
        self.failed = true;
        error_event(self.encoder.format, error)
    }

    /// What a change looks like through the selectors.
    fn kind(&self, event: &CacheEvent) -> Option<Kind> {
        let options = &self.options;
        if !options.is_selective() {
            return Some(event.kind);
        }
        let matched = |object: &Arc<Object>| chosen(options, object);
        let before = event.previous.as_ref().is_some_and(matched);
        let now = event.kind != Kind::Deleted && matched(&event.object);
        match (before, now) {
            (false, true) => Some(Kind::Added),
            (true, true) => Some(Kind::Modified),
            (true, false) => Some(Kind::Deleted),
            (false, false) => None,
        }
    }
}
