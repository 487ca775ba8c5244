//! GET and LIST: bytes of the watch cache, joined.

mod choice;
mod form;
mod state;

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use store::Revision;
use store::cache::Object;

use super::Call;
use super::options::ListOptions;
use super::respond;
use crate::bytes as text;
use crate::crd::convert;
use crate::status::ApiError;

use choice::{Page, converted, matching};
pub use choice::{choose, choose_page, chosen, fit_fields};
use form::{Form, meta};
pub(crate) use state::own_writes;
pub use state::{State, parse_revision, state, wait_for};

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
