//! Documents about what is served, and health: every path that is no resource.

pub mod documents;
pub mod health;
pub mod metrics;
mod openapi;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use self::health::Endpoint;
use crate::aggregation::{self, Backends};
use crate::fairness;
use crate::handlers::negotiate::{Output, Shape};
use crate::handlers::options::Query;
use crate::handlers::respond;
use crate::registry::{Group, Registry};
use crate::request::{RequestInfo, User};
use crate::server::Core;
use crate::status::ApiError;

/// The version that clients see: upstream's whose behaviour this is, and whose it is.
pub const GIT_VERSION: &str = "v1.36.2+improv";

const JSON: &str = "application/json";

/// Documents with more bytes than this are sent compressed to those who ask for it, as upstream has it.
const COMPRESS_ABOVE: usize = 128 * 1024;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Documents made from the registry; made again when the registry is another one.
#[derive(Default)]
pub struct Documents {
    current: ArcSwapOption<Made>,
}

struct Made {
    registry: Arc<Registry>,
    elsewhere: Arc<Backends>,
    groups: Vec<Group>,
    aggregated_core: OnceLock<Document>,
    aggregated: OnceLock<Document>,
    openapi_v2: OnceLock<Document>,
    openapi_v3: Mutex<BTreeMap<String, Arc<Document>>>,
}

/// A document with what tells its versions apart.
struct Document {
    text: Text,
    hash: String,
}

/// Large documents are kept as most clients want them, which is also the smaller form.
enum Text {
    Plain(Bytes),
    Gzip(Bytes),
}

impl Document {
    fn new(value: &Value) -> Self {
        let body = value.to_string();
        let hash = Sha256::digest(&body).iter().map(|byte| format!("{byte:02X}")).collect();
        Self { text: Text::new(body.into()), hash }
    }
}

impl Text {
    fn new(body: Bytes) -> Self {
        if body.len() <= COMPRESS_ABOVE {
            return Self::Plain(body);
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let written = encoder.write_all(&body).and_then(|()| encoder.finish());
        // Writing to a vector cannot fail; if it did, the document would only stay large.
        written.map_or(Self::Plain(body), |packed| Self::Gzip(packed.into()))
    }

    /// The text as `encoding` says, which is gzip only if the client takes that.
    fn for_client(&self, takes_gzip: bool) -> std::io::Result<(Bytes, Option<&'static str>)> {
        match self {
            Self::Plain(body) => Ok((body.clone(), None)),
            Self::Gzip(packed) if takes_gzip => Ok((packed.clone(), Some("gzip"))),
            Self::Gzip(packed) => {
                let mut body = Vec::new();
                GzDecoder::new(&packed[..]).read_to_end(&mut body)?;
                Ok((body.into(), None))
            }
        }
    }
}

impl Made {
    /// The v3 document at a path such as `apis/apps/v1`.
    fn v3(&self, path: &str) -> Option<Arc<Document>> {
        if let Some(document) = self.openapi_v3.lock().get(path) {
            return Some(document.clone());
        }
        let (group, version) = match path.split('/').collect::<Vec<_>>()[..] {
            ["api", version] => ("", version),
            ["apis", group, version] => (group, version),
            _ => return None,
        };
        let group = self.groups.iter().find(|g| g.name == group)?;
        let version = group.versions.iter().find(|v| v.name == version)?;
        if version.elsewhere.is_some() {
            return None;
        }
        let document = Arc::new(Document::new(&openapi::v3(version)));
        self.openapi_v3.lock().insert(path.to_owned(), document.clone());
        Some(document)
    }

    /// The hash of a document that another server has.
    fn hash_elsewhere(&self, group: &Group, version: &str) -> Option<String> {
        let backend = self.elsewhere.get(&(group.name.clone(), version.to_owned()))?;
        let hash = backend.served()?.openapi_hash.clone();
        (!hash.is_empty()).then_some(hash)
    }

    /// The v2 document of everything, that of other servers included.
    fn v2(&self) -> Value {
        let mut document = openapi::v2(&self.groups);
        for backend in self.elsewhere.values() {
            let served = backend.served();
            if let Some(theirs) = served.as_ref().and_then(|served| served.openapi.as_ref()) {
                aggregation::merge_openapi(&mut document, &backend.group, &backend.version, theirs);
            }
        }
        document
    }

    /// The list of the v3 documents, each with its hash.
    fn v3_index(&self) -> Value {
        let mut paths = serde_json::Map::new();
        for group in &self.groups {
            for version in &group.versions {
                let path = match group.name.as_str() {
                    "" => format!("api/{}", version.name),
                    name => format!("apis/{name}/{}", version.name),
                };
                if let Some(hash) = self.hash_elsewhere(group, &version.name) {
                    let url = format!("/openapi/v3/{path}?hash={hash}");
                    paths.insert(path, json!({ "serverRelativeURL": url }));
                    continue;
                }
                let Some(document) = self.v3(&path) else { continue };
                let url = format!("/openapi/v3/{path}?hash={}", document.hash);
                paths.insert(path, json!({ "serverRelativeURL": url }));
            }
        }
        json!({ "paths": paths })
    }
}

impl Documents {
    fn of(&self, registry: &Arc<Registry>, elsewhere: &Arc<Backends>) -> Arc<Made> {
        if let Some(made) = self.current.load_full()
            && Arc::ptr_eq(&made.registry, registry)
            && Arc::ptr_eq(&made.elsewhere, elsewhere)
        {
            return made;
        }
        let made = Arc::new(Made {
            registry: registry.clone(),
            elsewhere: elsewhere.clone(),
            groups: documents::groups(registry, elsewhere),
            aggregated_core: OnceLock::new(),
            aggregated: OnceLock::new(),
            openapi_v2: OnceLock::new(),
            openapi_v3: Mutex::default(),
        });
        self.current.store(Some(made.clone()));
        made
    }
}

/// Answers every path that is no resource.
pub async fn handle(
    core: &Arc<Core>,
    info: &RequestInfo,
    _user: &User,
    request: Request,
) -> Response {
    let query = request.uri().query();
    let store = core.store().as_ref();
    if let Some(answer) = health::answer(&core.health, store, &info.path, query).await {
        return answer;
    }
    let made = core.documents.of(&core.registry(), &core.aggregator.backends());
    match answer(core, &made, &info.path, query, request.headers()) {
        Some(answer) => answer,
        None if is_version_of(&made, &info.path) => ApiError::NoResource.into_response(),
        None => ApiError::NoPath.into_response(),
    }
}

/// Whether a path is that of a version, be it absent, of a group that is there.
fn is_version_of(made: &Made, path: &str) -> bool {
    match path.trim_matches('/').split('/').collect::<Vec<_>>()[..] {
        ["api", _] => true,
        ["apis", group, _] => made.groups.iter().any(|known| known.name == group),
        _ => false,
    }
}

fn answer(
    core: &Core,
    made: &Made,
    path: &str,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Option<Response> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let group = |name: &str| made.groups.iter().find(|group| group.name == name);
    let resources = |group: &Group, name: &str| {
        let version = group.versions.iter().find(|version| version.name == name)?;
        Some(negotiated(&documents::resource_list(&group.name, version), headers))
    };
    match parts.as_slice() {
        [] => Some(plain(&documents::root_paths(&made.groups, &fixed_paths()))),
        ["version"] => Some(plain(&version())),
        ["metrics"] => Some(metrics(core)),
        ["debug", "api_priority_and_fairness", _] => {
            let text = fairness::debug::dump(&core.fairness, path, query)?;
            Some(
                (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text)
                    .into_response(),
            )
        }
        ["api"] if wants_aggregated(headers) => {
            let only = || Document::new(&documents::aggregated(group("")));
            Some(tagged(made.aggregated_core.get_or_init(only), AGGREGATED, headers))
        }
        ["apis"] if wants_aggregated(headers) => {
            let others = || made.groups.iter().filter(|group| !group.name.is_empty());
            let all = || Document::new(&documents::aggregated(others()));
            Some(tagged(made.aggregated.get_or_init(all), AGGREGATED, headers))
        }
        ["api"] => {
            let address = core.address().map(|address| address.to_string()).unwrap_or_default();
            Some(negotiated(&documents::api_versions(&address), headers))
        }
        ["apis"] => Some(negotiated(&documents::group_list(&made.groups), headers)),
        ["api", version] => resources(group("")?, version),
        ["apis", name] if !name.is_empty() => {
            Some(negotiated(&documents::group(group(name)?), headers))
        }
        ["apis", name, version] => resources(group(name)?, version),
        [".well-known", "openid-configuration"] => {
            Some(plain(&core.authenticator.keys().discovery()))
        }
        ["openid", "v1", "jwks"] => Some(key_set(core)),
        ["openapi", "v2"] => {
            let all = || Document::new(&made.v2());
            Some(tagged(made.openapi_v2.get_or_init(all), JSON, headers))
        }
        ["openapi", "v3"] => Some(plain(&made.v3_index())),
        ["openapi", "v3", rest @ ..] => {
            let path = rest.join("/");
            let document = made.v3(&path)?;
            Some(hashed(&document, &path, query, headers))
        }
        _ => None,
    }
}

/// Whether the client knows the aggregated form and likes it best.
fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let is_aggregated = |range: &str| {
        let has = |wanted: &str| range.split(';').any(|part| part.trim() == wanted);
        has("application/json")
            && has("g=apidiscovery.k8s.io")
            && has("v=v2")
            && has("as=APIGroupDiscoveryList")
    };
    accepted.flat_map(|value| value.split(',')).any(is_aggregated)
}

/// The document in the format that the client wants.
fn negotiated(document: &Value, headers: &HeaderMap) -> Response {
    let info = RequestInfo::default();
    let output = Output::negotiate(headers, &Query::default(), &info, false);
    match output {
        Ok(output) if output.shape == Shape::Object => {
            respond::formatted(&output, StatusCode::OK, document.to_string().into())
        }
        Ok(_) => ApiError::NotAcceptable(
            "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf".to_owned(),
        )
        .into_response(),
        Err(error) => error.into_response(),
    }
}

fn plain(document: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::OK, headers, document.to_string()).into_response()
}

/// The document, or only that it is the one the client has.
fn tagged(document: &Document, kind: &'static str, headers: &HeaderMap) -> Response {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let etag = format!("\"{}\"", document.hash);
    let has_it = text(header::IF_NONE_MATCH).is_some_and(|known| known == etag);
    let unpacks = text(header::ACCEPT_ENCODING).is_some_and(|list| list.contains("gzip"));
    let mut response = if has_it {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match document.text.for_client(unpacks) {
            Ok((body, encoding)) => {
                let mut response =
                    (StatusCode::OK, [(header::CONTENT_TYPE, kind)], body).into_response();
                if let Some(encoding) = encoding.map(HeaderValue::from_static) {
                    response.headers_mut().insert(header::CONTENT_ENCODING, encoding);
                }
                response
            }
            Err(error) => return ApiError::internal(error).into_response(),
        }
    };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    let vary = HeaderValue::from_static("Accept, Accept-Encoding");
    response.headers_mut().insert(header::VARY, vary);
    response
}

/// A document under a URL with its hash, which may be kept for ever; another hash is redirected.
fn hashed(document: &Document, path: &str, query: Option<&str>, headers: &HeaderMap) -> Response {
    let mut parameters = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let asked = parameters.find(|(key, _)| key == "hash").map(|(_, hash)| hash);
    match asked {
        Some(hash) if hash != document.hash => {
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, url)]).into_response()
        }
        asked => {
            let mut response = tagged(document, JSON, headers);
            if asked.is_some() {
                let forever = HeaderValue::from_static("public, immutable");
                response.headers_mut().insert(header::CACHE_CONTROL, forever);
            }
            response
        }
    }
}

fn metrics(core: &Core) -> Response {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match core.metrics.render(Some(core)) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, TEXT)], text).into_response(),
        Err(error) => ApiError::internal(error).into_response(),
    }
}

fn key_set(core: &Core) -> Response {
    match core.authenticator.keys().key_set() {
        Ok(keys) => {
            let headers = [
                (header::CONTENT_TYPE, "application/jwk-set+json"),
                (header::CACHE_CONTROL, "public, max-age=3600"),
            ];
            (StatusCode::OK, headers, keys.to_string()).into_response()
        }
        Err(error) => ApiError::internal(error).into_response(),
    }
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    })
}

/// The processor by the name that Kubernetes gives it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn fixed_paths() -> Vec<String> {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/openid/v1/jwks",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.extend(Endpoint::ALL.into_iter().flat_map(Endpoint::paths));
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_document_is_packed_for_those_who_can_unpack_it() {
        let large = Bytes::from("x".repeat(COMPRESS_ABOVE + 1));
        let text = Text::new(large.clone());
        let (packed, encoding) = text.for_client(true).unwrap();
        assert!(encoding == Some("gzip") && packed.len() < large.len() / 10);
        assert_eq!(text.for_client(false).unwrap(), (large, None));
        assert_eq!(Text::new("{}".into()).for_client(true).unwrap(), ("{}".into(), None));
    }

    #[test]
    fn the_aggregated_form_is_asked_for_by_all_its_parameters() {
        let asks = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            wants_aggregated(&headers)
        };
        assert!(asks(AGGREGATED));
        assert!(asks(&format!("application/json;q=0.5, {AGGREGATED},application/json")));
        assert!(!asks("application/json"));
        assert!(!asks("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"));
    }
}
