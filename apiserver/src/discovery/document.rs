//! A document as it is kept and sent.

use std::io::{Read as _, Write as _};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::handlers::negotiate::takes_gzip;
use crate::status::ApiError;

/// Documents with more bytes than this are sent compressed to those who ask for it, as upstream has it.
const COMPRESS_ABOVE: usize = 128 * 1024;

/// A document with what tells its versions apart.
pub(super) struct Document {
    pub(super) text: Text,
    pub(super) hash: String,
}

/// Large documents are kept as most clients want them, which is also the smaller form.
pub(super) enum Text {
    Plain(Bytes),
    Gzip(Bytes),
}

impl Document {
    pub(super) fn new(value: &Value) -> Self {
        Self::of_bytes(value.to_string().into())
    }

    pub(super) fn of_bytes(body: Bytes) -> Self {
        let hash = Sha256::digest(&body).iter().map(|byte| format!("{byte:02X}")).collect();
        Self { text: Text::new(body), hash }
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
    pub(super) fn for_client(
        &self,
        takes_gzip: bool,
    ) -> std::io::Result<(Bytes, Option<&'static str>)> {
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

impl Document {
    /// The document, or only that it is the one the client has.
    pub(super) fn answer(&self, kind: &'static str, headers: &HeaderMap) -> Response {
        let etag = format!("\"{}\"", self.hash);
        let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let is_it = |one: &str| one.trim().trim_start_matches("W/") == etag;
        let has_it = known.is_some_and(|list| list.split(',').any(is_it));
        let mut response = if has_it {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            match self.text.for_client(takes_gzip(headers)) {
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
}
