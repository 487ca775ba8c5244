//! Proxies in front of the server that have authenticated a user and say so in headers.
//!
//! Source: kubernetes.io, "Authenticating Proxy".

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::impersonate::percent_decode;
use super::text;
use crate::identity::file::Watched;
use crate::identity::tls::ClientAuthority;
use crate::request::User;
use crate::status::ApiError;

/// Which proxies are believed, and where they say what.
pub struct RequestHeader {
    /// Who vouches for the proxies' certificates.
    pub authority: Arc<Watched<ClientAuthority>>,
    /// Their common names; any if empty.
    pub allowed_names: Vec<String>,
    /// Headers with the user's name; the first that is there counts.
    pub username: Vec<HeaderName>,
    /// Headers with the user's uid; the first that is there counts.
    pub uid: Vec<HeaderName>,
    /// Headers with groups; all count.
    pub groups: Vec<HeaderName>,
    /// What headers with further facts begin with, in small letters.
    pub extra_prefixes: Vec<String>,
}

impl RequestHeader {
    pub(super) fn authority(&self) -> Arc<ClientAuthority> {
        self.authority.get()
    }

    pub(super) fn allows(&self, name: &str) -> bool {
        self.allowed_names.is_empty() || self.allowed_names.iter().any(|allowed| allowed == name)
    }

    /// The user whom the headers name; `None` if they name nobody.
    ///
    /// # Errors
    /// A header is not UTF-8. The proxy's own rights must not take its place.
    pub(super) fn user(&self, headers: &HeaderMap) -> Result<Option<User>, ApiError> {
        let first = |names: &[HeaderName]| -> Result<String, ApiError> {
            for name in names {
                let value = headers.get(name).map(|value| text(name, value)).transpose()?;
                if let Some(value) = value.filter(|value| !value.trim().is_empty()) {
                    return Ok(value.trim().to_owned());
                }
            }
            Ok(String::new())
        };
        let name = first(&self.username)?;
        if name.is_empty() {
            return Ok(None);
        }
        let groups = self.groups.iter().flat_map(|header| {
            headers.get_all(header).iter().map(move |value| text(header, value))
        });
        let mut user = User {
            name,
            uid: first(&self.uid)?,
            groups: groups.collect::<Result<_, _>>()?,
            extra: Vec::new(),
        };
        for (header, value) in headers {
            let Some(key) = self.extra_key(header) else { continue };
            let (key, value) = (percent_decode(key), text(header, value)?);
            match user.extra.iter_mut().find(|(known, _)| *known == key) {
                Some((_, values)) => values.push(value),
                None => user.extra.push((key, vec![value])),
            }
        }
        user.extra.sort();
        Ok(Some(user))
    }

    fn extra_key<'a>(&self, header: &'a HeaderName) -> Option<&'a str> {
        self.extra_prefixes.iter().find_map(|prefix| header.as_str().strip_prefix(prefix.as_str()))
    }

    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        let named = |name: &HeaderName| {
            [&self.username, &self.uid, &self.groups].iter().any(|list| list.contains(name))
        };
        let ours: Vec<HeaderName> = headers
            .keys()
            .filter(|name| named(name) || self.extra_key(name).is_some())
            .cloned()
            .collect();
        for name in ours {
            headers.remove(name);
        }
    }
}
