//! Documents about what is served, and health: every path that is no resource.

mod document;
pub mod documents;
pub mod health;
pub mod metrics;
mod openapi;
mod zpages;

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use self::document::Document;
use self::health::Endpoint;
use crate::aggregation::Backends;
use crate::fairness;
use crate::handlers::accept::{Accept, Target, error_format};
use crate::handlers::negotiate::{Format, MEDIA_TYPES, Output};
use crate::handlers::respond;
use crate::registry::facts::FACTS;
use crate::registry::{Group, Registry};
use crate::request::{RequestInfo, User};
use crate::server::Core;
use crate::status::ApiError;

/// The version that clients see: upstream's whose behaviour this is, and whose it is.
pub const GIT_VERSION: &str = "v1.36.2+improv";

const JSON: &str = "application/json";
const KEY_SET: &str = "application/jwk-set+json";

/// What follows the media type of aggregated discovery.
const AGGREGATED: &str = ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

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
    openapi: openapi::Documents,
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
            openapi: openapi::Documents::default(),
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
    let (query, method) = (request.uri().query(), request.method());
    let store = core.store().as_ref();
    if let Some(answer) = health::answer(&core.health, store, &info.path, query).await {
        return answer;
    }
    let made = core.documents.of(&core.registry(), &core.aggregator.backends());
    let missing = || match is_version_of(&made, &info.path) {
        true => ApiError::NoResource,
        false => ApiError::NoPath,
    };
    let asked = Asked { path: &info.path, method, query, headers: request.headers() };
    let answered = answer(core, &made, &asked);
    answered.and_then(|answer| answer.ok_or_else(missing)).unwrap_or_else(|error| {
        respond::error(error, error_format(request.headers().get(header::ACCEPT)))
    })
}

/// Whether a path is that of a version, be it absent, of a group that is there.
fn is_version_of(made: &Made, path: &str) -> bool {
    match path.trim_matches('/').split('/').collect::<Vec<_>>()[..] {
        ["api", _] => true,
        ["apis", group, _] => made.groups.iter().any(|known| known.name == group),
        _ => false,
    }
}

/// A request for a document.
struct Asked<'a> {
    path: &'a str,
    method: &'a Method,
    query: Option<&'a str>,
    headers: &'a HeaderMap,
}

impl Asked<'_> {
    /// What upstream's routes look at first; documents that have none are answered to every method.
    fn route(&self, produced: &[&str]) -> Result<(), ApiError> {
        if self.method != Method::GET {
            return Err(ApiError::MethodNotAllowed);
        }
        Accept::of(self.headers).route(produced)
    }
}

/// The answer of a path; `None` if it is nobody's.
fn answer(core: &Core, made: &Made, asked: &Asked<'_>) -> Result<Option<Response>, ApiError> {
    let (path, query, headers) = (asked.path, asked.query, asked.headers);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    Ok(match parts.as_slice() {
        [] | ["index.html"] => Some(plain(&documents::root_paths(&made.groups, &fixed_paths()))),
        ["version"] => {
            asked.route(&[JSON])?;
            Some(plain(&version()))
        }
        ["metrics"] => Some(metrics(core.metrics.render(Some(core)))),
        ["metrics", "slis"] => Some(metrics(indicators(core))),
        ["flagz"] => match &core.config.shown_flags {
            Some(flags) => Some(zpages::flagz(flags).answer(headers)?),
            None => None,
        },
        ["statusz"] => {
            let (started, now) = (core.health.started(), Timestamp::now());
            Some(zpages::statusz(started, now, &fixed_paths()).answer(headers)?)
        }
        ["debug", "api_priority_and_fairness", _] => {
            fairness::debug::dump(&core.fairness, path, query).map(text)
        }
        ["api" | "apis", ..] => return groups_answer(core, made, &parts, asked),
        [".well-known", "openid-configuration"] => {
            asked.route(&[JSON])?;
            Some(plain(&core.authenticator.keys().discovery()))
        }
        ["openid", "v1", "jwks"] => {
            asked.route(&[KEY_SET])?;
            Some(key_set(core))
        }
        ["openapi", ..] if path.ends_with('/') => None,
        ["openapi", rest @ ..] => made.openapi.answer(made, rest, query, headers),
        _ => None,
    })
}

/// The answer of a path at or below `/api` and `/apis`.
fn groups_answer(
    core: &Core,
    made: &Made,
    parts: &[&str],
    asked: &Asked<'_>,
) -> Result<Option<Response>, ApiError> {
    let headers = asked.headers;
    let group = |name: &str| made.groups.iter().find(|group| group.name == name);
    let version = |group: &Group, name: &str| {
        let version = group.versions.iter().find(|version| version.name == name)?;
        Some(documents::resource_list(&group.name, version))
    };
    let has_route = match parts {
        ["api", ..] => true,
        ["apis", name, _] => FACTS.groups.contains_key(*name),
        _ => false,
    };
    let document = match parts {
        ["api"] => {
            let address = core.address().map(|address| address.to_string()).unwrap_or_default();
            Some(documents::api_versions(&address))
        }
        ["apis"] => Some(documents::group_list(&made.groups)),
        ["apis", name] => group(name).map(documents::group),
        ["api", name] => group("").and_then(|group| version(group, name)),
        ["apis", name, of] => group(name).and_then(|group| version(group, of)),
        _ => None,
    };
    let Some(document) = document else { return Ok(None) };
    if has_route {
        asked.route(&MEDIA_TYPES)?;
    }
    if matches!(asked.path, "/api" | "/api/" | "/apis")
        && let Some(format) = aggregated_format(headers)
    {
        let of_core = parts == ["api"];
        let place = if of_core { &made.aggregated_core } else { &made.aggregated };
        let chosen = || made.groups.iter().filter(|group| group.name.is_empty() == of_core);
        let all = || Document::new(&documents::aggregated(chosen()));
        return Ok(Some(aggregated(place.get_or_init(all), format, headers)));
    }
    let output = Output::of_document(headers)?;
    Ok(Some(respond::formatted(&output, StatusCode::OK, document.to_string().into())))
}

/// The format of the aggregated document, if the client knows that and likes it best.
fn aggregated_format(headers: &HeaderMap) -> Option<Format> {
    let is_aggregated = |target: &Target| {
        (&*target.group, &*target.version, &*target.kind)
            == ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList")
    };
    let chosen = Accept::of(headers).choose(|_, target| target.is_some_and(is_aggregated))?;
    chosen.1.map(|_| chosen.0)
}

/// The aggregated document in a format.
fn aggregated(document: &Document, format: Format, headers: &HeaderMap) -> Response {
    let mut response = document.answer(JSON, headers);
    if response.status() == StatusCode::OK && format != Format::Json {
        let output = Output { format, ..Output::JSON };
        let tags = std::mem::take(response.headers_mut());
        match document.text.for_client(false) {
            Ok((body, _)) => response = respond::formatted(&output, StatusCode::OK, body),
            Err(error) => return ApiError::internal(error).into_response(),
        }
        for name in [header::ETAG, header::VARY] {
            if let Some(value) = tags.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
    }
    if let Ok(kind) = HeaderValue::from_str(&format!("{}{AGGREGATED}", format.media_type())) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

fn plain(document: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, JSON)];
    (StatusCode::OK, headers, document.to_string()).into_response()
}

fn text(text: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (StatusCode::OK, headers, text).into_response()
}

fn indicators(core: &Core) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &core.health.indicators())?;
    Ok(text)
}

fn metrics(text: Result<String, std::fmt::Error>) -> Response {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    match text {
        Ok(text) => {
            (StatusCode::OK, [(header::CONTENT_TYPE, TEXT)], prometheus(&text)).into_response()
        }
        Err(error) => ApiError::internal(error).into_response(),
    }
}

/// OpenMetrics in the format that Kubernetes answers: there the names of counters have their ending everywhere, and
/// nothing is said of units or of the end.
///
/// Source: prometheus.io, "Exposition formats", "Text-based format".
fn prometheus(text: &str) -> String {
    let is_of = |line: &str, what: &str| line.starts_with(&format!("# {what} "));
    let counters: HashSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut out = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF" && !is_of(line, "UNIT")) {
        let named = line.split(' ').nth(2).filter(|name| counters.contains(name));
        match named.filter(|_| is_of(line, "TYPE") || is_of(line, "HELP")) {
            Some(name) => out.push_str(&line.replacen(name, &format!("{name}_total"), 1)),
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

fn key_set(core: &Core) -> Response {
    match core.authenticator.keys().key_set() {
        Ok(keys) => {
            let headers =
                [(header::CONTENT_TYPE, KEY_SET), (header::CACHE_CONTROL, "public, max-age=3600")];
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
        "/flagz",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/openid/v1/jwks",
        "/statusz",
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
    fn metrics_are_told_in_the_format_of_kubernetes() {
        let open = "# HELP a_seconds What.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total 1\n# HELP b What.\n# TYPE b gauge\nb 1\n# EOF\n";
        let expected = "# HELP a_seconds_total What.\n# TYPE a_seconds_total counter\na_seconds_total 1\n# HELP b What.\n# TYPE b gauge\nb 1\n";
        assert_eq!(prometheus(open), expected);
    }

    #[test]
    fn the_aggregated_form_is_asked_for_by_all_its_parameters() {
        let asks = |accept: &str| {
            let accept = accept.replace("AGGREGATED", AGGREGATED);
            aggregated_format(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]))
        };
        assert_eq!(asks("application/jsonAGGREGATED"), Some(Format::Json));
        assert_eq!(
            asks("application/json;q=0.5, application/jsonAGGREGATED,application/json"),
            Some(Format::Json)
        );
        assert_eq!(asks("application/vnd.kubernetes.protobufAGGREGATED"), Some(Format::Protobuf));
        assert_eq!(asks("application/json"), None);
        assert_eq!(
            asks("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"),
            None
        );
    }
}
