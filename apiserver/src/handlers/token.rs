//! Continue tokens of paged lists.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};
use store::Revision;

use crate::status::ApiError;

/// What continue tokens say of their format.
const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// A continue token: where the next page begins, and in which state.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Token {
    /// Format of the token.
    v: String,
    /// Revision of the list; negative for whatever is current.
    rv: i64,
    /// Store key of the last object of the page before.
    pub(super) start: String,
}

impl Token {
    /// A token of this format.
    pub(super) fn new(revision: i64, start: &str) -> Self {
        Self { v: TOKEN_VERSION.to_owned(), rv: revision, start: start.to_owned() }
    }

    /// As clients get it.
    pub(super) fn encode(&self) -> String {
        BASE64.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads what a client sent.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] in upstream's words.
    pub(super) fn decode(token: &str) -> Result<Self, ApiError> {
        Self::read(token).map_err(|fault| {
            ApiError::BadRequest(format!(
                "invalid continue token: continue key is not valid: {fault}"
            ))
        })
    }

    fn read(token: &str) -> Result<Self, String> {
        let bytes = BASE64
            .decode(token)
            .map_err(|_| format!("illegal base64 data at input byte {}", illegal_byte(token)))?;
        if let Some(&byte) = bytes.first().filter(|b| !b.is_ascii()) {
            return Err(format!(
                "invalid character '\\u{byte:04x}' looking for beginning of value"
            ));
        }
        let token: Self = serde_json::from_slice(&bytes).map_err(|e| {
            crate::write::decode::json(&bytes).err().unwrap_or_else(|| e.to_string())
        })?;
        if token.v != TOKEN_VERSION {
            return Err(format!("server does not recognize this encoded version {}", token.v));
        }
        if token.rv == 0 {
            return Err(format!(
                "incorrect encoded start resourceVersion (version {TOKEN_VERSION})"
            ));
        }
        match token.start.as_str() {
            "" => Err(format!("encoded start key empty (version {TOKEN_VERSION})")),
            start if start.split('/').any(|part| part == "..") => Err(start.to_owned()),
            _ => Ok(token),
        }
    }

    /// Revision of the list; `None` for whatever is current.
    pub(super) fn revision(&self) -> Option<Revision> {
        Revision::try_from(self.rv).ok()
    }
}

/// Where Go's decoder stops in a text that is no base64.
fn illegal_byte(text: &str) -> usize {
    let is_letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let foreign = text.bytes().position(|b| !is_letter(b));
    foreign.unwrap_or_else(|| text.len().saturating_sub(text.len() % 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_are_none_are_told_apart() {
        let fault = |token: &str| Token::read(token).unwrap_err();
        assert_eq!(fault("e30="), "illegal base64 data at input byte 3");
        assert_eq!(fault("x"), "illegal base64 data at input byte 0");
        assert_eq!(fault("e30"), "server does not recognize this encoded version ");
        let of = |rv, start: &str| Token::new(rv, start).encode();
        assert!(fault(&of(0, "a")).starts_with("incorrect encoded start resourceVersion"));
        assert!(fault(&of(1, "")).starts_with("encoded start key empty"));
        assert_eq!(fault(&of(1, "../a")), "../a");
        assert_eq!(Token::read(&of(-1, "a")).unwrap().revision(), None);
        assert_eq!(Token::read(&of(7, "a")).unwrap().revision(), Some(7));
    }
}
