//! What comes back from a backend, and what of it a client gets to see. Redirects are never followed.
//!
//! Source: `UpgradeAwareHandler` and `Transport` in upstream `apimachinery/pkg/util/proxy`,
//! `LocationStreamer` in `apiserver/pkg/registry/generic/rest`.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::status::ApiError;

/// What a backend is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// A connection, as `exec` needs it.
    Stream,
    /// Text, of a container's log.
    Log,
    /// Anything that a node, a pod or a service has.
    Content {
        /// Path of this server under which the backend's root is seen.
        prefix: String,
    },
    /// An API.
    Api,
}

/// Answers of a node agent that say what went wrong, at most.
///
/// Source: `maxReadLength` in upstream `registry/generic/rest/response_checker.go`.
pub(super) const REFUSAL: usize = 50_000;

/// Headers by which a web server lets other sites in: here they would speak for this server.
///
/// Source: `removeCORSHeaders` in upstream `apimachinery/pkg/util/proxy`.
const CROSS_ORIGIN: [HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];

impl Manner {
    /// Refuses what no client may get: an upgrade that was answered by something else, and redirects
    /// of node agents and API servers, which would send a client's credentials elsewhere.
    ///
    /// # Errors
    /// What the client is told instead.
    pub(super) fn check(
        &self,
        asked_upgrade: bool,
        status: StatusCode,
        headers: &HeaderMap,
        url: &str,
    ) -> Result<(), ApiError> {
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        if switched && !asked_upgrade {
            let text =
                "error trying to reach service: the backend switched protocols without being asked";
            return Err(ApiError::Unavailable(text.to_owned()));
        }
        if asked_upgrade && !switched && status.as_u16() < 400 {
            return Err(ApiError::Unknown(format!(
                "invalid upgrade response: status code {}",
                status.as_u16()
            )));
        }
        if *self == Self::Log && status.is_redirection() && headers.contains_key(header::LOCATION) {
            return Err(ApiError::Unknown(format!("Get {url:?}: redirects forbidden")));
        }
        Ok(())
    }

    /// Makes the headers of an answer those of this server. `hosts` are names of the backend: its own,
    /// and the one by which the client has called this server.
    pub(super) fn adopt(&self, headers: &mut HeaderMap, hosts: [&str; 2]) {
        for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
            headers.remove(name);
        }
        if *self != Self::Log {
            CROSS_ORIGIN.iter().for_each(|name| drop(headers.remove(name)));
        }
        if let Self::Content { prefix } = self
            && let Some(location) = headers.get(header::LOCATION).and_then(|l| l.to_str().ok())
            && let Ok(moved) = HeaderValue::from_str(&relocate(location, prefix, hosts))
        {
            headers.insert(header::LOCATION, moved);
        }
    }
}

/// Where a redirect or a link of a backend leads, as seen from a client: a place on the backend is a path below
/// `prefix`; what is relative, or elsewhere, stays as it is.
pub(super) fn relocate(location: &str, prefix: &str, [backend, asked]: [&str; 2]) -> String {
    let after_scheme = match location.split_once("//") {
        Some((scheme, rest)) if scheme.is_empty() || is_scheme(scheme) => Some(rest),
        _ => None,
    };
    let (host, path) = match after_scheme {
        Some(rest) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
        None => ("", location),
    };
    let is_elsewhere = !host.is_empty() && host != backend && host != asked;
    if is_elsewhere || !path.starts_with('/') {
        return location.to_owned();
    }
    let origin = match after_scheme {
        Some(_) if !host.is_empty() && host == asked => &location[..location.len() - path.len()],
        _ => "",
    };
    let prefix = if path.starts_with(prefix) { "" } else { prefix };
    format!("{origin}{prefix}{path}")
}

/// Whether the text is a URL's scheme and the colon behind it.
fn is_scheme(text: &str) -> bool {
    let name = text.strip_suffix(':');
    name.is_some_and(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)))
}

/// What a node agent's refusal to show a log means to the client.
pub(super) fn refusal(status: StatusCode, text: &str) -> Option<ApiError> {
    match status {
        StatusCode::INTERNAL_SERVER_ERROR => Some(ApiError::Internal(text.to_owned())),
        StatusCode::BAD_REQUEST => Some(ApiError::BadRequest(text.to_owned())),
        StatusCode::NOT_FOUND => Some(ApiError::NoResource),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_below_the_prefix_or_lead_elsewhere_openly() {
        let cases = [
            ("/login?next=%2F#top", "/p/proxy/login?next=%2F#top"),
            ("http://10.0.0.1:80/a/", "/p/proxy/a/"),
            ("//10.0.0.1:80/a", "/p/proxy/a"),
            ("https://me:6443/a", "https://me:6443/p/proxy/a"),
            ("https://me:6443/p/proxy/a", "https://me:6443/p/proxy/a"),
            ("/p/proxy/a", "/p/proxy/a"),
            ("a/b", "a/b"),
            ("../b", "../b"),
            ("?q=http://x//y", "?q=http://x//y"),
            ("/?q=http://x//y", "/p/proxy/?q=http://x//y"),
            ("http://169.254.169.254/", "http://169.254.169.254/"),
            ("http://10.0.0.1:80", "http://10.0.0.1:80"),
        ];
        for (location, expected) in cases {
            let seen = relocate(location, "/p/proxy", ["10.0.0.1:80", "me:6443"]);
            assert_eq!(seen, expected, "{location}");
        }
    }

    #[test]
    fn a_failed_upgrade_is_an_error_and_never_a_success() {
        let content = Manner::Content { prefix: "/p".to_owned() };
        let check = |manner: &Manner, upgrade, status: u16| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, HeaderValue::from_static("/x"));
            manner.check(upgrade, StatusCode::from_u16(status).unwrap(), &headers, "u").is_ok()
        };
        for manner in [&Manner::Stream, &content, &Manner::Api] {
            let passed: Vec<u16> =
                [101, 200, 302, 403, 500].into_iter().filter(|s| check(manner, true, *s)).collect();
            assert_eq!(passed, [101, 403, 500], "{manner:?}");
            assert!(!check(manner, false, 101), "{manner:?}");
        }
        assert!(check(&content, false, 302) && !check(&Manner::Log, false, 302));
    }
}
