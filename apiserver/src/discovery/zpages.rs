//! `/flagz` and `/statusz`: what the process was started with, and how long it has been running.
//!
//! A text for people, unless the client asks for `config.k8s.io` Flagz or Statusz.
//!
//! Source: KEP-4828 and KEP-4827; upstream `apiserver/pkg/server/flagz` and `statusz`.

use std::collections::{BTreeMap, BTreeSet};

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::GIT_VERSION;
use crate::handlers::accept::{Accept, Target};
use crate::handlers::negotiate::{Format, Output, only_accepted};
use crate::handlers::respond;
use crate::status::ApiError;

/// Whose pages they are.
const NAME: &str = "apiserver";
const GROUP: &str = "config.k8s.io";
const TEXT: &str = "text/plain";
/// First segments of paths that are documents and do not help to find faults.
const DOCUMENTS: [&str; 5] = ["apis", "api", "openid", "openapi", ".well-known"];

/// A page.
pub(super) struct Page {
    kind: &'static str,
    title: &'static str,
    text: String,
    /// Members of the object, beside kind, version and name.
    members: Value,
}

/// Flags and their values.
pub(super) fn flagz(flags: &BTreeMap<String, String>) -> Page {
    let lines = flags.iter().map(|(flag, value)| format!("{flag}={value}\n"));
    Page {
        kind: "Flagz",
        title: "flagz",
        text: lines.collect(),
        members: json!({ "flags": flags }),
    }
}

/// How long the process has been running at `now`, and where else to look.
pub(super) fn statusz(started: Timestamp, now: Timestamp, paths: &[String]) -> Page {
    let up = now.duration_since(started).max(SignedDuration::ZERO).as_secs();
    let version = GIT_VERSION.trim_start_matches('v').split(['+', '-']).next().unwrap_or_default();
    let folders: BTreeSet<String> = paths
        .iter()
        .filter_map(|path| path.split('/').nth(1))
        .filter(|folder| !folder.is_empty() && !DOCUMENTS.contains(folder))
        .map(|folder| format!("/{folder}"))
        .collect();
    let folders: Vec<String> = folders.into_iter().collect();
    let text = format!(
        "\nStarted: {}\nUp: {} hr {:02} min {:02} sec\nGo version: none\nBinary version: {version}\n\
         Emulation version: 1.36\nPaths: {}\n",
        started.strftime("%a %b %e %H:%M:%S UTC %Y"),
        up / 3600,
        up / 60 % 60,
        up % 60,
        folders.join(" "),
    );
    let members = json!({
        "startTime": started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "uptimeSeconds": up,
        "goVersion": "none",
        "binaryVersion": version,
        "emulationVersion": "1.36",
        "paths": folders,
    });
    Page { kind: "Statusz", title: "statusz", text, members }
}

impl Page {
    /// The page in the form that the client accepts.
    ///
    /// # Errors
    /// [`ApiError::NotAcceptable`] if there is none.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Result<Response, ApiError> {
        let accept = Accept::of(headers);
        let is_ours = |format: Format, target: Option<&Target>| {
            format != Format::Protobuf && target.is_some_and(|target| self.is_named_by(target))
        };
        let has_accept = headers.get(header::ACCEPT).is_some_and(|value| !value.is_empty());
        if has_accept && let Some((format, Some(target))) = accept.choose(is_ours) {
            return Ok(self.object(format, &target.version));
        }
        match accept.best_of(&[TEXT]) {
            Some(_) => Ok(self.text()),
            None => Err(only_accepted(&["application/json", "application/yaml", TEXT])),
        }
    }

    fn is_named_by(&self, target: &Target) -> bool {
        let version = matches!(&*target.version, "v1alpha1" | "v1beta1");
        target.group == GROUP && version && target.kind == self.kind
    }

    fn text(&self) -> Response {
        let text = format!(
            "\n{NAME} {}\nWarning: This endpoint is not meant to be machine parseable, has no formatting \
             compatibility guarantees and is for debugging purposes only.\n{}",
            self.title, self.text
        );
        (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text)
            .into_response()
    }

    fn object(&self, format: Format, version: &str) -> Response {
        let mut object = json!({
            "kind": self.kind,
            "apiVersion": format!("{GROUP}/{version}"),
            "metadata": { "name": NAME },
        });
        for (name, value) in self.members.as_object().into_iter().flatten() {
            object[name] = value.clone();
        }
        let output = Output { format, ..Output::JSON };
        let mut response = respond::formatted(&output, StatusCode::OK, object.to_string().into());
        if version == "v1alpha1" {
            let text = format!(
                "299 - \"This version of the {} endpoint is deprecated. Please use a newer version.\"",
                self.title
            );
            if let Ok(text) = HeaderValue::from_str(&text) {
                response.headers_mut().insert(header::WARNING, text);
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    async fn ask(page: &Page, accept: &str) -> Result<String, ApiError> {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        let body = page.answer(&headers)?.into_body().collect().await.unwrap().to_bytes();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn people_read_a_text_and_programs_an_object() {
        let page = flagz(&BTreeMap::from([("secure-port".to_owned(), "6443".to_owned())]));
        for accept in ["", "*/*", "text/plain"] {
            let text = ask(&page, accept).await.unwrap();
            assert!(text.starts_with("\napiserver flagz\nWarning: "), "{text}");
            assert!(text.ends_with("\nsecure-port=6443\n"), "{text}");
        }
        let object = ask(&page, "application/json;as=Flagz;v=v1beta1;g=config.k8s.io").await;
        let object: Value = serde_json::from_str(&object.unwrap()).unwrap();
        assert_eq!(object["apiVersion"], "config.k8s.io/v1beta1");
        assert_eq!(object["flags"]["secure-port"], "6443");
        assert!(ask(&page, "application/json").await.is_err());
    }

    #[test]
    fn the_status_tells_the_time_and_where_to_look() {
        let started: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let paths = ["/api/v1", "/healthz/ping", "/metrics", "/"].map(str::to_owned);
        let now = started + SignedDuration::from_secs(3661);
        let page = statusz(started, now, &paths);
        assert!(page.text.contains("Started: Fri Jan  2 03:04:05 UTC 2026\n"), "{}", page.text);
        assert!(page.text.contains("Up: 1 hr 01 min 01 sec\n"), "{}", page.text);
        assert!(page.text.ends_with("Paths: /healthz /metrics\n"), "{}", page.text);
        assert_eq!(page.members["uptimeSeconds"], 3661);
    }
}
