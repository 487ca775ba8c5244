//! Which form an answer takes: format, and objects as they are, as rows or as metadata alone.

use http::{HeaderMap, header};

use super::options::Query;
use crate::protobuf;
use crate::request::RequestInfo;
use crate::status::ApiError;

/// The formats of types that have no protobuf.
const ACCEPTED: &str = "application/json, application/yaml";

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
        match self.format {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
            Format::Protobuf => protobuf::MEDIA_TYPE,
        }
    }

    /// The best of what the client accepts; `has_protobuf` says whether the type knows that.
    ///
    /// # Errors
    /// [`ApiError::NotAcceptable`] if nothing fits.
    pub fn negotiate(
        headers: &HeaderMap,
        query: &Query,
        info: &RequestInfo,
        has_protobuf: bool,
    ) -> Result<Self, ApiError> {
        // Watches are sent as JSON lines alone.
        let has_protobuf = has_protobuf && info.verb != "watch";
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let mut clauses: Vec<Clause> = accept.split(',').filter_map(Clause::parse).collect();
        clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality)); // Stable: equal ones keep their order.
        let any = clauses.is_empty();
        let chosen = if any {
            Some((Format::Json, Shape::Object))
        } else {
            let fits = |(format, _): &(Format, Shape)| *format != Format::Protobuf || has_protobuf;
            clauses.iter().find_map(|clause| clause.choose().filter(fits))
        };
        let Some((format, shape)) = chosen else {
            return Err(not_acceptable(&clauses));
        };
        if info.verb == "watch" && format == Format::Yaml {
            return Err(ApiError::NotAcceptable(format!(
                "only the following media types are accepted: {ACCEPTED}"
            )));
        }
        let agent =
            headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let for_people = ["Mozilla", "curl", "Wget"].iter().any(|p| agent.starts_with(p));
        let pretty = query.flag("pretty").unwrap_or(for_people) && info.verb != "watch";
        let gzip = headers
            .get(header::ACCEPT_ENCODING)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.split(',').any(|e| e.trim().split(';').next() == Some("gzip")));
        Ok(Self { format, shape, pretty, gzip })
    }
}

fn not_acceptable(clauses: &[Clause]) -> ApiError {
    // A known format with an unknown shape is told apart from an unknown format, as upstream does.
    let known =
        clauses.iter().any(|c| matches!(c.media.as_str(), "application/json" | "application/yaml"));
    if known {
        let all = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
        return ApiError::NotAcceptable(format!(
            "only the following media types are accepted: {all}"
        ));
    }
    ApiError::NotAcceptableMedia(format!(
        "406: Not Acceptable\n\nAvailable representations: {ACCEPTED}"
    ))
}

struct Clause {
    media: String,
    quality: f32,
    convert: Option<(String, String, String)>,
}

impl Clause {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().filter(|m| !m.is_empty())?.to_ascii_lowercase();
        let (mut quality, mut kind, mut version, mut group) = (1.0, None, "", "");
        for part in parts {
            match part.split_once('=') {
                Some(("q", q)) => quality = q.parse().unwrap_or(0.0),
                Some(("as", v)) => kind = Some(v),
                Some(("v", v)) => version = v,
                Some(("g", v)) => group = v,
                _ => (),
            }
        }
        let convert = kind.map(|k| (k.to_owned(), version.to_owned(), group.to_owned()));
        Some(Self { media, quality, convert })
    }

    fn choose(&self) -> Option<(Format, Shape)> {
        let format = match self.media.as_str() {
            "application/json" | "*/*" => Format::Json,
            "application/yaml" => Format::Yaml,
            protobuf::MEDIA_TYPE if self.convert.is_none() => Format::Protobuf,
            _ => return None,
        };
        let Some((kind, version, group)) = &self.convert else {
            return Some((format, Shape::Object));
        };
        if group != "meta.k8s.io" || !matches!(version.as_str(), "v1" | "v1beta1") {
            return None;
        }
        let shape = match kind.as_str() {
            "Table" => Shape::Table(version.clone()),
            "PartialObjectMetadata" => Shape::Metadata(version.clone()),
            "PartialObjectMetadataList" => Shape::MetadataList(version.clone()),
            _ => return None,
        };
        Some((format, shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, expected: Option<(Format, Shape)>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        let got = Output::negotiate(&headers, &Query::default(), &RequestInfo::default(), true);
        assert_eq!(got.ok().map(|o| (o.format, o.shape)), expected, "{accept}");
    }

    #[test]
    fn the_best_acceptable_form_wins() {
        check("*/*", Some((Format::Json, Shape::Object)));
        check("application/*", None);
        check("text/html, */*;q=0.1", Some((Format::Json, Shape::Object)));
        check("application/json;q=0.5, application/yaml", Some((Format::Yaml, Shape::Object)));
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some((Format::Json, Shape::Table("v1".into()))),
        );
        check("application/json;as=Picture;v=v1;g=meta.k8s.io", None);
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            Some((Format::Protobuf, Shape::Object)),
        );
        check(
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some((Format::Json, Shape::Object)),
        );
    }
}
