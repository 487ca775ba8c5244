//! How a list is written: whole, or chunk by chunk as the client takes it.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use store::Revision;
use store::cache::{Object, Snapshot};

use super::choice::{Page, matching};
use crate::bytes as text;
use crate::handlers::negotiate::{Format, Output, Shape};
use crate::handlers::options::ListOptions;
use crate::handlers::{Call, respond, token};
use crate::registry::Resource;
use crate::status::ApiError;
use crate::table;

/// Bytes of one chunk of a list: with its frame it fills four TLS records, which are then made, encrypted and sent
/// while they are in the processor's nearer caches.
const CHUNK_BYTES: usize = 64 * 1024 - 16;

/// `metadata` of a list, as JSON.
pub(super) fn meta(form: &Form, resource: &Resource, revision: Revision, page: &Page) -> String {
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
pub(super) enum Form {
    Objects,
    Metadata(String),
    Table(String, table::Include),
}

impl Form {
    pub(super) fn agree(call: &Call<'_>) -> Result<Self, ApiError> {
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

    pub(super) fn streams(&self) -> bool {
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

    pub(super) fn whole(
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
    pub(super) fn stream(
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
