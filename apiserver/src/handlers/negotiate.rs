//! Which form an answer takes: format, and objects as they are, as rows or as metadata alone.
//!
//! Upstream looks at `Accept` twice: a route takes a media type that it produces, letter by letter, and then the
//! serializers choose the best clause. Routes of custom types and of documents about groups have no first look.

use http::{HeaderMap, header};

use super::accept::{Accept, Target};
use super::options::Query;
use crate::protobuf;
use crate::registry::Resource;
use crate::request::RequestInfo;
use crate::status::ApiError;

/// How bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Format {
    /// All, the preferred one first.
    pub const ALL: [Self; 3] = [Self::Json, Self::Yaml, Self::Protobuf];

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => protobuf::MEDIA_TYPE,
        }
    }

    /// Whether watches can be written in it.
    pub fn streams(self) -> bool {
        self != Self::Yaml
    }
}

/// What routes of objects produce.
pub const MEDIA_TYPES: [&str; 3] = ["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// What watches are written in.
const STREAMS: [&str; 2] = ["application/json;stream=watch", protobuf::STREAM_MEDIA_TYPE];

/// What an object is shown as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Itself.
    Object,
    /// `meta.k8s.io` Table of this version.
    Table(String),
    /// `PartialObjectMetadata` of this version.
    Metadata(String),
    /// `PartialObjectMetadataList` of this version.
    MetadataList(String),
}

impl Shape {
    /// The shape that a target names; `None` if there is none, or not in this format.
    fn of(target: &Target, format: Format) -> Option<Self> {
        let version = target.version.clone();
        if target.group != "meta.k8s.io" || !matches!(version.as_str(), "v1" | "v1beta1") {
            return None;
        }
        match target.kind.as_str() {
            "Table" if format != Format::Protobuf => Some(Self::Table(version)),
            "PartialObjectMetadata" => Some(Self::Metadata(version)),
            "PartialObjectMetadataList" => Some(Self::MetadataList(version)),
            _ => None,
        }
    }
}

/// The agreed form of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Format.
    pub format: Format,
    /// Shape.
    pub shape: Shape,
    /// Whether JSON is indented for people.
    pub pretty: bool,
    /// Whether the client takes gzip.
    pub gzip: bool,
}

impl Output {
    /// Plain JSON.
    pub const JSON: Self =
        Self { format: Format::Json, shape: Shape::Object, pretty: false, gzip: false };

    /// `Content-Type` of the answer.
    pub fn content_type(&self) -> &'static str {
        self.format.media_type()
    }

    /// The best of what the client accepts.
    ///
    /// # Errors
    /// [`ApiError::NotAcceptableMedia`] if the route produces nothing of it, and [`ApiError::NotAcceptable`] if no
    /// serializer does.
    pub fn negotiate(
        headers: &HeaderMap,
        query: &Query,
        info: &RequestInfo,
        resource: &Resource,
    ) -> Result<Self, ApiError> {
        let accept = Accept::of(headers);
        if !resource.is_foreign() {
            accept.route(&produced(info))?;
        }
        let tabular = is_tabular(resource, &info.subresource);
        let allows = |format, target: Option<&Target>| match target {
            None => !(resource.is_foreign() && format == Format::Protobuf),
            Some(target) => Shape::of(target, format)
                .is_some_and(|shape| tabular || !matches!(shape, Shape::Table(_))),
        };
        let (format, target) = accept.choose(allows).ok_or_else(|| only_accepted(&MEDIA_TYPES))?;
        if info.verb == "watch" && !format.streams() {
            return Err(only_accepted(&STREAMS));
        }
        let shape = target.and_then(|target| Shape::of(&target, format)).unwrap_or(Shape::Object);
        Ok(Self {
            format,
            shape,
            pretty: is_for_people(headers, query) && info.verb != "watch",
            gzip: takes_gzip(headers),
        })
    }

    /// The best of what the client accepts for a document that has one shape alone.
    ///
    /// # Errors
    /// [`ApiError::NotAcceptable`] if nothing fits.
    pub fn of_document(headers: &HeaderMap) -> Result<Self, ApiError> {
        let format = Accept::of(headers).plain().ok_or_else(|| only_accepted(&MEDIA_TYPES))?;
        Ok(Self { format, gzip: takes_gzip(headers), ..Self::JSON })
    }
}

/// The refusal of the serializers.
pub(crate) fn only_accepted(media_types: &[&str]) -> ApiError {
    let list = media_types.join(", ");
    ApiError::NotAcceptable(format!("only the following media types are accepted: {list}"))
}

/// Whether an answer can have rows.
///
/// What only passes through, as reviews do, has none; nor has what is not read, nor some subresources.
fn is_tabular(resource: &Resource, subresource: &str) -> bool {
    let bare = match (resource.group.as_str(), resource.name.as_str()) {
        _ if resource.is_foreign() => false,
        ("", "pods") => !matches!(subresource, "" | "status"),
        ("", "serviceaccounts") => subresource == "token",
        ("resource.k8s.io", "resourceclaims") => subresource == "status",
        _ => false,
    };
    resource.has_verb("list") && !bare
}

/// What the route of a request produces.
fn produced(info: &RequestInfo) -> Vec<&'static str> {
    let collection = matches!(info.verb.as_str(), "list" | "watch") && info.path_name.is_empty();
    let text = (info.subresource == "log").then_some("text/plain");
    let streams = STREAMS.into_iter().filter(|_| collection);
    text.into_iter().chain(MEDIA_TYPES).chain(streams).collect()
}

fn is_for_people(headers: &HeaderMap, query: &Query) -> bool {
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let for_people = ["Mozilla", "curl", "Wget"].iter().any(|p| agent.starts_with(p));
    query.flag("pretty").unwrap_or(for_people)
}

/// Whether a client can unpack answers.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|e| e.trim().split(';').next() == Some("gzip")))
}
