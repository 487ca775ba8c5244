//! What browsers are told: which pages may read answers, and that they must come by TLS.
//!
//! Source: upstream `apiserver/pkg/server/filters/cors.go` and `hsts.go`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use regex::Regex;

use super::Core;

/// What pages of allowed origins may do.
const ALLOWED: [(HeaderName, &str); 4] = [
    (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE, PATCH"),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, \
         X-Requested-With, If-Modified-Since",
    ),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Date"),
    (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
];

/// Before all others: a browser asks what it may do without saying who it is.
pub(super) async fn layer(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let options = &core.config.connections;
    let origin = allowed(&options.cors_allowed_origins, request.headers());
    let mut response = match &origin {
        Some(_) if request.method() == Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        for (name, value) in ALLOWED {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    if let Some(value) = &options.transport_security {
        headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(value.clone());
    }
    response
}

/// The origin of a request, if its pages may read answers.
fn allowed(origins: &[Regex], headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let text = origin.to_str().ok().filter(|text| !text.is_empty())?;
    origins.iter().any(|regex| regex.is_match(text)).then(|| origin.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestServer;
    use axum::body::Body;
    use tower::ServiceExt as _;

    #[tokio::test]
    async fn pages_of_allowed_origins_read_answers() {
        let server = TestServer::builder().configure(|config| {
            let connections = &mut config.connections;
            connections.cors_allowed_origins = vec![Regex::new("^https://a\\.example$").unwrap()];
            connections.transport_security = Some(HeaderValue::from_static("max-age=60"));
        });
        let server = server.start().await.unwrap();
        let ask = async |method: Method, origin: &str| {
            let request = Request::builder().method(method).uri("/version");
            let request = request.header(header::ORIGIN, origin).body(Body::empty()).unwrap();
            server.server().router().oneshot(request).await.unwrap()
        };
        let preflight = ask(Method::OPTIONS, "https://a.example").await;
        assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
        let read = ask(Method::GET, "https://a.example").await;
        assert_eq!(read.status(), StatusCode::OK);
        assert_eq!(read.headers()["access-control-allow-origin"], "https://a.example");
        assert_eq!(read.headers()["strict-transport-security"], "max-age=60");
        let other = ask(Method::GET, "https://b.example").await;
        assert!(!other.headers().contains_key("access-control-allow-origin"));
        assert_ne!(
            ask(Method::OPTIONS, "https://b.example").await.status(),
            StatusCode::NO_CONTENT
        );
    }
}
