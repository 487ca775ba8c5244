//! Continue tokens of paged lists.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::Serialize;
use serde_json::Value;
use store::Revision;

use crate::status::ApiError;
use crate::write::decode;

/// What continue tokens say of their format.
const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// A continue token: where the next page begins, and in which state.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Token {
    /// Format of the token.
    v: String,
    /// Revision of the list; negative for whatever is current.
    rv: i64,
    /// First store key of the page, without the prefix that all keys of the list have.
    start: String,
}

impl Token {
    /// A token of this format.
    pub(super) fn new(revision: i64, start: &str) -> Self {
        Self { v: TOKEN_VERSION.to_owned(), rv: revision, start: start.to_owned() }
    }

    /// The token of what comes after the object with this store key, in a list of keys that begin with `scope`.
    pub(super) fn after(revision: i64, key: &str, scope: &str) -> Self {
        Self::new(revision, &next_key(key.strip_prefix(scope).unwrap_or(key)))
    }

    /// The same place in the state that is current then.
    pub(super) fn renewed(&self) -> Self {
        Self::new(-1, &self.start)
    }

    /// First store key of the page, in a list of keys that begin with `scope`.
    pub(super) fn key(&self, scope: &str) -> String {
        [scope, self.start.strip_prefix('/').unwrap_or(&self.start)].concat()
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
        let token = token.replace(['\r', '\n'], "");
        let bytes = BASE64
            .decode(&token)
            .map_err(|_| format!("illegal base64 data at input byte {}", illegal_byte(&token)))?;
        if let Some(&byte) = bytes.first().filter(|b| !b.is_ascii()) {
            return Err(format!(
                "invalid character {} looking for beginning of value",
                quoted(byte)
            ));
        }
        let token = Self::from_json(&decode::json(&bytes)?.value)?;
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
            start if is_clean(start) => Ok(token),
            start => Err(start.to_owned()),
        }
    }

    /// Reads the fields as Go does: their case does not matter, and null leaves one as it is.
    fn from_json(value: &Value) -> Result<Self, String> {
        let mut token = Self::default();
        let fields = match value {
            Value::Null => return Ok(token),
            Value::Object(fields) => fields,
            other => {
                let kind = schema::json::kind(other);
                return Err(format!(
                    "json: cannot unmarshal {kind} into Go value of type storage.continueToken"
                ));
            }
        };
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            match (name.to_ascii_lowercase().as_str(), value) {
                ("v", Value::String(text)) => token.v.clone_from(text),
                ("start", Value::String(text)) => token.start.clone_from(text),
                ("rv", value) if value.is_i64() => token.rv = value.as_i64().unwrap_or_default(),
                ("rv", value) => return Err(unfit(value, "rv", "int64")),
                (field @ ("v" | "start"), value) => return Err(unfit(value, field, "string")),
                _ => (),
            }
        }
        Ok(token)
    }

    /// Revision of the list; `None` for whatever is current.
    pub(super) fn revision(&self) -> Option<Revision> {
        Revision::try_from(self.rv).ok()
    }
}

/// The first key that can come after `key`.
pub(super) fn next_key(key: &str) -> String {
    [key, "\0"].concat()
}

/// Whether a key has none of the steps that would lead out of the list.
fn is_clean(start: &str) -> bool {
    let start = start.strip_prefix('/').unwrap_or(start);
    start.is_empty() || start.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn unfit(value: &Value, field: &str, kind: &str) -> String {
    let given = match value {
        Value::Number(n) if kind == "int64" => format!("number {n}"),
        other => schema::json::kind(other).to_owned(),
    };
    format!(
        "json: cannot unmarshal {given} into Go struct field continueToken.{field} of type {kind}"
    )
}

/// A byte that is no ASCII as Go quotes it.
fn quoted(byte: u8) -> String {
    match byte {
        0xa1..=0xac | 0xae.. => format!("'{}'", char::from(byte)),
        _ => format!("'\\u{byte:04x}'"),
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
        for unclean in ["../a", "a/../../b", "a//b", "a/", "./a", "//"] {
            assert_eq!(fault(&of(1, unclean)), unclean);
        }
        assert_eq!(Token::read(&of(-1, "a")).unwrap().revision(), None);
        assert_eq!(Token::read(&of(7, "a")).unwrap().revision(), Some(7));
    }

    #[test]
    fn tokens_of_others_are_read_as_go_reads_them() {
        let read = |json: &str| Token::read(&BASE64.encode(json));
        let token = Token::new(-1, "b");
        assert_eq!(read(r#"{"V":"meta.k8s.io/v1","RV":-1,"Start":"b","x":1} "#).unwrap(), token);
        let lines = token.encode() + "\n";
        assert_eq!(Token::read(&lines).unwrap(), token);
        assert!(read("null").unwrap_err().starts_with("server does not recognize"));
        for (json, end) in [
            ("5", "number into Go value of type storage.continueToken"),
            ("[]", "array into Go value of type storage.continueToken"),
            (r#"{"rv":1.5}"#, "number 1.5 into Go struct field continueToken.rv of type int64"),
            (r#"{"rv":"5"}"#, "string into Go struct field continueToken.rv of type int64"),
            (r#"{"v":5}"#, "number into Go struct field continueToken.v of type string"),
        ] {
            assert_eq!(read(json).unwrap_err(), format!("json: cannot unmarshal {end}"));
        }
        let fault = Token::read(&BASE64.encode([0xff])).unwrap_err();
        assert_eq!(fault, "invalid character 'ÿ' looking for beginning of value");
    }

    #[test]
    fn tokens_hold_what_follows_the_scope() {
        let token = Token::after(7, "/registry/core/pods/ns/x", "/registry/core/pods/ns/");
        assert_eq!(token.start, "x\0");
        assert_eq!(token.key("/registry/core/pods/ns/"), "/registry/core/pods/ns/x\0");
    }
}
