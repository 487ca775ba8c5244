//! From bytes of the cache to an HTTP answer.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{Stream, StreamExt};
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

use super::negotiate::{Format, Output, Shape};
use super::options::Query;
use crate::bytes as text;
use crate::protobuf;
use crate::registry::Resource;
use crate::status::ApiError;
use crate::table;

/// Answers of at least this many bytes are compressed for clients that take gzip.
///
/// Source: `defaultGzipThresholdBytes` in upstream's response writers.
const GZIP_FROM: usize = 128 * 1024;

/// Characters of warnings that are told whole.
const MOST_WARNING_CHARS: usize = 4 * 1024;
/// Characters of each warning if all together are longer.
const CUT_WARNING_CHARS: usize = 256;

/// An answer with one object, given as the store's version has it.
///
/// # Errors
/// [`ApiError::NotAcceptable`] if the object cannot take the agreed shape.
pub fn object(
    resource: &Arc<Resource>,
    output: &Output,
    query: &Query,
    status: StatusCode,
    json: Bytes,
) -> Result<Response, ApiError> {
    let body = match &output.shape {
        Shape::Object => resource.view(json),
        Shape::Metadata(version) => partial(resource, version, &json),
        Shape::MetadataList(_) if resource.is_foreign() => {
            return Err(ApiError::Unknown("content is not a list".to_owned()));
        }
        Shape::MetadataList(_) => {
            return Err(ApiError::NotAcceptable(format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list ({})",
                go_type(resource, false)
            )));
        }
        Shape::Table(version) => {
            let include = include_object(query)?;
            let revision = revision_of(&json);
            table::render(
                resource,
                std::slice::from_ref(&json),
                include,
                version,
                &table::ListMeta::at(&revision),
                true,
            )
        }
    };
    Ok(formatted(output, status, body))
}

/// What a Table's rows carry.
///
/// # Errors
/// [`ApiError::BadRequest`] in upstream's words.
pub fn include_object(query: &Query) -> Result<table::Include, ApiError> {
    match query.get("includeObject") {
        None | Some("Metadata") => Ok(table::Include::Metadata),
        Some("None") => Ok(table::Include::None),
        Some("Object") => Ok(table::Include::Object),
        Some(other) => Err(ApiError::BadRequest(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
        ))),
    }
}

/// The metadata alone of a stored object.
pub fn partial(resource: &Resource, version: &str, json: &Bytes) -> Bytes {
    let mut out = text::head("PartialObjectMetadata", &format!("meta.k8s.io/{version}"));
    out.extend_from_slice(b"\"metadata\":");
    let metadata = text::metadata(json);
    if resource.strategy.hidden().is_empty() {
        out.extend_from_slice(&metadata);
    } else {
        let mut metadata = serde_json::from_slice(&metadata).unwrap_or_default();
        resource.hide(&mut metadata);
        text::write_json(&mut out, &metadata);
    }
    out.push(b'}');
    out.into()
}

/// How upstream's messages name the Go type.
pub fn go_type(resource: &Resource, list: bool) -> String {
    if resource.is_foreign() {
        return format!("*unstructured.Unstructured{}", if list { "List" } else { "" });
    }
    let package = match resource.group.split('.').next() {
        // Events of both groups are one type.
        None | Some("" | "events") => "core",
        Some(package) => package,
    };
    format!("*{package}.{}", if list { &resource.list_kind } else { &resource.kind })
}

/// resourceVersion of an object's text.
pub(crate) fn revision_of(json: &Bytes) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Meta {
        #[serde(default)]
        resource_version: String,
    }
    serde_json::from_slice::<Meta>(&text::metadata(json))
        .map(|m| m.resource_version)
        .unwrap_or_default()
}

/// A whole body in the agreed format.
pub fn formatted(output: &Output, status: StatusCode, json: Bytes) -> Response {
    let mut body = match output.format {
        Format::Json if output.pretty => match serde_json::from_slice::<Value>(&json) {
            Ok(value) => serde_json::to_vec_pretty(&value).unwrap_or_default().into(),
            Err(_) => json,
        },
        Format::Json => json,
        Format::Yaml => yaml(&json),
        Format::Protobuf => encoded(&json),
    };
    let mut encoding = None;
    if output.gzip && body.len() >= GZIP_FROM {
        let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
        if encoder.write_all(&body).is_ok()
            && let Ok(compressed) = encoder.finish()
        {
            body = compressed.into();
            encoding = Some("gzip");
        }
    }
    answer(output, status, Body::from(body), encoding)
}

fn yaml(json: &[u8]) -> Bytes {
    let value: Value = serde_json::from_slice(json).unwrap_or_default();
    serde_saphyr::to_string(&value).unwrap_or_default().into()
}

/// Protobuf was agreed on only for types that have it; anything else would come out empty.
fn encoded(json: &[u8]) -> Bytes {
    let value: Value = serde_json::from_slice(json).unwrap_or_default();
    protobuf::encode(&value).unwrap_or_default().into()
}

fn answer(
    output: &Output,
    status: StatusCode,
    body: Body,
    encoding: Option<&'static str>,
) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(output.content_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if let Some(encoding) = encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

/// A long JSON body, sent as it is made.
pub fn streamed(output: &Output, chunks: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    if !output.gzip {
        let body = Body::from_stream(chunks.map(Ok::<_, std::convert::Infallible>));
        return answer(output, StatusCode::OK, body, None);
    }
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = futures::stream::unfold(
        (Box::pin(chunks), Some(encoder)),
        |(mut chunks, encoder)| async move {
            let mut encoder = encoder?;
            match chunks.next().await {
                Some(chunk) => {
                    encoder.write_all(&chunk).ok()?;
                    let out = Bytes::from(std::mem::take(encoder.get_mut()));
                    Some((out, (chunks, Some(encoder))))
                }
                None => encoder.finish().ok().map(|out| (Bytes::from(out), (chunks, None))),
            }
        },
    );
    let body = Body::from_stream(packed.map(Ok::<_, std::convert::Infallible>));
    answer(output, StatusCode::OK, body, Some("gzip"))
}

/// An error in the format that was agreed on.
pub fn error(error: ApiError, format: Format) -> Response {
    if format == Format::Json || matches!(error, ApiError::NoPath) {
        return error.into_response();
    }
    let status = serde_json::to_vec(&error.status()).unwrap_or_default();
    let output = Output { format, ..Output::JSON };
    let mut response = formatted(&output, error.code(), status.into());
    let mut plain = error.into_response();
    if let Some(after) = plain.headers_mut().remove(header::RETRY_AFTER) {
        response.headers_mut().insert(header::RETRY_AFTER, after);
    }
    std::mem::swap(response.extensions_mut(), plain.extensions_mut());
    response
}

/// Adds a `Warning` header in front of all others.
pub fn warn_first(response: &mut Response, text: &str) {
    let headers = response.headers_mut();
    let others: Vec<HeaderValue> = headers.get_all(header::WARNING).iter().cloned().collect();
    headers.remove(header::WARNING);
    warn(response, &[text.to_owned()]);
    for other in others {
        response.headers_mut().append(header::WARNING, other);
    }
}

/// Adds a `Warning` header for each text, once. If they are long together, each is cut, and the last are left out:
/// clients refuse large headers.
///
/// Source: upstream's `apiserver/pkg/endpoints/filters/warning.go`.
pub fn warn(response: &mut Response, warnings: &[String]) {
    let mut known = HashSet::new();
    let mut texts = warnings.iter().map(String::as_str).filter(|text| known.insert(*text));
    let texts: Vec<&str> = texts.by_ref().take(MOST_WARNING_CHARS + 1).collect();
    let is_long = texts.iter().map(|text| text.chars().count()).sum::<usize>() > MOST_WARNING_CHARS;
    let mut written = 0;
    for text in texts {
        if written >= MOST_WARNING_CHARS {
            return;
        }
        let most = if is_long { CUT_WARNING_CHARS } else { usize::MAX };
        let text: String = text.chars().take(most).collect();
        written += text.chars().count();
        if text.is_empty() || text.contains(char::is_control) {
            continue;
        }
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
