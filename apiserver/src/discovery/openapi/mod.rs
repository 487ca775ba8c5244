//! The OpenAPI documents: v2 of everything, in two forms, and v3, one a path of discovery.

mod build;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use schema::openapi;
use serde_json::{Map, Value, json};

use super::document::Document;
use super::{JSON, Made, text};
use crate::aggregation;
use crate::handlers::accept::Accept;
use crate::protobuf;
use crate::registry::Group;
use crate::registry::facts::FACTS;

/// The forms of the v2 document, the last for clients that put `@` where none belongs.
const V2: [&str; 3] = [
    JSON,
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

/// What upstream sends v3 documents as. Here they are JSON in any case, which is what the answer says of itself.
const V3: [&str; 3] = [
    JSON,
    "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
];

/// The documents that were asked for.
#[derive(Default)]
pub(super) struct Documents {
    v2: OnceLock<Document>,
    v2_protobuf: OnceLock<Document>,
    v3: Mutex<BTreeMap<String, Arc<Document>>>,
}

impl Documents {
    /// The answer of a path below `/openapi`; `None` if it is nobody's.
    pub(super) fn answer(
        &self,
        made: &Made,
        path: &[&str],
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Option<Response> {
        match path {
            ["v2"] => Some(acceptable(self.v2(made, headers), headers)),
            ["v3"] => Some(text(self.index(made).to_string())),
            ["v3", rest @ ..] => {
                let path = rest.join("/");
                self.v3(made, &path).map(|document| hashed(&document, &path, query, headers))
            }
            _ => None,
        }
    }

    /// The v2 document in the form that a client likes best, and what that is.
    fn v2(&self, made: &Made, headers: &HeaderMap) -> Option<(&Document, &'static str)> {
        Some(match Accept::of(headers).best_of(&V2)? {
            JSON => (self.v2.get_or_init(|| Document::new(&v2(made))), JSON),
            _ => {
                let all = || Document::of_bytes(protobuf::openapi_v2(&v2(made)).into());
                (self.v2_protobuf.get_or_init(all), V2[1])
            }
        })
    }

    /// The v3 document at a path such as `apis/apps/v1`.
    fn v3(&self, made: &Made, path: &str) -> Option<Arc<Document>> {
        if let Some(document) = self.v3.lock().get(path) {
            return Some(document.clone());
        }
        let document = Arc::new(Document::new(&v3(made, path)?));
        self.v3.lock().insert(path.to_owned(), document.clone());
        Some(document)
    }

    /// The list of the v3 documents, each with its hash.
    fn index(&self, made: &Made) -> Value {
        let known = known_groups(made);
        let mut paths = Map::new();
        let mut insert = |path: String, hash: &str| {
            let url = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path, json!({ "serverRelativeURL": url }));
        };
        for path in openapi::root_paths(&known) {
            if let Some(document) = self.v3(made, &path) {
                insert(path, &document.hash);
            }
        }
        for group in &made.groups {
            for version in &group.versions {
                let path = match group.name.as_str() {
                    "" => format!("api/{}", version.name),
                    name => format!("apis/{name}/{}", version.name),
                };
                if let Some(hash) = hash_elsewhere(made, group, &version.name) {
                    insert(path, &hash);
                } else if let Some(document) = self.v3(made, &path) {
                    insert(path, &document.hash);
                }
            }
        }
        json!({ "paths": paths })
    }
}

/// The groups that are served and that Kubernetes knows.
fn known_groups(made: &Made) -> Vec<&str> {
    let names = made.groups.iter().map(|group| group.name.as_str());
    names.filter(|name| name.is_empty() || FACTS.groups.contains_key(*name)).collect()
}

/// The v2 document of everything, that of other servers included.
fn v2(made: &Made) -> Value {
    let mut document = build::v2(&made.groups);
    for backend in made.elsewhere.values() {
        let served = backend.served();
        if let Some(theirs) = served.as_ref().and_then(|served| served.openapi.as_ref()) {
            aggregation::merge_openapi(&mut document, &backend.group, &backend.version, theirs);
        }
    }
    document
}

/// The v3 document at a path, unless that is another server's or nobody's.
fn v3(made: &Made, path: &str) -> Option<Value> {
    let (group, version) = match path.split('/').collect::<Vec<_>>()[..] {
        ["api", version] => ("", version),
        ["apis", group, version] => (group, version),
        _ => return openapi::v3_root(path, &known_groups(made)),
    };
    let group = made.groups.iter().find(|one| one.name == group)?;
    let version = group.versions.iter().find(|one| one.name == version)?;
    version.elsewhere.is_none().then(|| build::v3(version))
}

/// The hash of a document that another server has.
fn hash_elsewhere(made: &Made, group: &Group, version: &str) -> Option<String> {
    let backend = made.elsewhere.get(&(group.name.clone(), version.to_owned()))?;
    let hash = backend.served()?.openapi_hash.clone();
    (!hash.is_empty()).then_some(hash)
}

/// A document in a form that the client takes, or an empty refusal.
fn acceptable(document: Option<(&Document, &'static str)>, headers: &HeaderMap) -> Response {
    match document {
        Some((document, kind)) => document.answer(kind, headers),
        None => StatusCode::NOT_ACCEPTABLE.into_response(),
    }
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
            let form = Accept::of(headers).best_of(&V3);
            let mut response = acceptable(form.map(|_| (document, JSON)), headers);
            if asked.is_some() {
                let forever = HeaderValue::from_static("public, immutable");
                response.headers_mut().insert(header::CACHE_CONTROL, forever);
            }
            response
        }
    }
}
