//! Passes requests on, in the name of their user.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::Backend;
use crate::backend;
use crate::handlers::proxy::{Manner, Target, Tls, forward};
use crate::request::User;
use crate::server::Core;
use crate::status::ApiError;

/// Headers in which the user travels.
///
/// Source: `--requestheader-…-headers` as the `extension-apiserver-authentication` ConfigMap announces them.
const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// Answers a request by passing it on.
pub(crate) async fn answer(
    core: &Arc<Core>,
    backend: &Backend,
    user: &User,
    mut request: Request,
) -> Response {
    if !backend.is_available() {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "service unavailable");
    }
    let tls = match backend.tls(core) {
        Ok(tls) => tls,
        Err(error) => return plain(StatusCode::INTERNAL_SERVER_ERROR, &error),
    };
    let resolved = backend::resolve(core, &backend.namespace, &backend.service, backend.port).await;
    let address = match resolved {
        Ok(address) => address,
        Err(error) => {
            tracing::warn!(service = backend.service, error, "service of an APIService not found");
            return plain(StatusCode::SERVICE_UNAVAILABLE, "service unavailable");
        }
    };
    if let Err(error) = introduce(request.headers_mut(), user) {
        return plain(StatusCode::BAD_REQUEST, &error);
    }
    let uri = request.uri();
    let path = uri.path_and_query().map_or_else(|| uri.path(), |p| p.as_str()).to_owned();
    let (host, tls) = (backend.host(), Tls::Given(tls));
    let target = Target { address, host, path, tls, manner: Manner::Api };
    match forward(core, &target, request).await {
        Ok(response) => no_redirect(response),
        Err(ApiError::Unavailable(text) | ApiError::Unknown(text)) => {
            plain(StatusCode::SERVICE_UNAVAILABLE, &text)
        }
        Err(other) => other.into_response(),
    }
}

/// A redirect would make the client, or us, send credentials to whomever the backend names (CVE-2022-3172).
fn no_redirect(response: Response) -> Response {
    if response.status().is_redirection() && response.headers().contains_key(header::LOCATION) {
        let text = "the backend attempted to redirect this request, which is not permitted";
        return plain(StatusCode::BAD_GATEWAY, text);
    }
    response
}

/// Says who asks. Nobody else may say so: what the client sent of these headers is dropped.
pub(super) fn introduce(headers: &mut HeaderMap, user: &User) -> Result<(), String> {
    let foreign: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in foreign {
        headers.remove(name);
    }
    let value = |text: &str| {
        HeaderValue::from_bytes(text.as_bytes())
            .map_err(|_| format!("user {:?} cannot be put into a header", user.name))
    };
    headers.insert(USER, value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(GROUP, value(group)?);
    }
    for (key, values) in &user.extra {
        let name = format!("{EXTRA}{}", escape(key));
        let name = HeaderName::try_from(name).map_err(|error| error.to_string())?;
        for text in values {
            headers.append(&name, value(text)?);
        }
    }
    Ok(())
}

/// A key of `extra` as part of a header's name: what may not stand there is percent-encoded.
///
/// Source: `headerKeyEscape` in upstream's `client-go/transport/round_trippers.go`.
fn escape(key: &str) -> String {
    let mut out = String::new();
    for byte in key.to_lowercase().bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'!' | b'#' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`'
            | b'|' | b'~' => out.push(char::from(byte)),
            other => out += &format!("%{other:02X}"),
        }
    }
    out
}

fn plain(status: StatusCode, text: &str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, format!("{text}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_we_say_who_asks() {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", "root".parse().unwrap());
        headers.insert("x-remote-group", "system:masters".parse().unwrap());
        headers.insert("x-remote-extra-a", "b".parse().unwrap());
        let mut user = User::new("jane", &["dev"]);
        user.extra.push(("acme.com/Role".to_owned(), vec!["x".to_owned()]));
        introduce(&mut headers, &user).unwrap();
        assert_eq!(headers["x-remote-user"], "jane");
        let groups: Vec<_> = headers.get_all("x-remote-group").iter().collect();
        assert_eq!(groups, ["dev", "system:authenticated"]);
        assert_eq!(headers["x-remote-extra-acme.com%2Frole"], "x");
        assert!(!headers.contains_key("x-remote-extra-a"));
    }
}
