//! Links in web pages of pods, services and nodes: what leads to the page's own server leads below the proxy's path.
//!
//! Pages are rewritten while they pass, a piece at a time, and packed again as they came. What is no link of the
//! listed ones stays byte for byte.
//!
//! Source: `Transport` in upstream `apimachinery/pkg/util/proxy/transport.go`; kubernetes.io, "Access Services
//! Running on Clusters".

use std::io::{self, Write as _};
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder, GzEncoder, MultiGzDecoder};
use futures::StreamExt as _;
use http::{HeaderMap, StatusCode, header};
use lol_html::send::{Element, HtmlRewriter, Settings};
use lol_html::{AsciiCompatibleEncoding, MemorySettings, OutputSink, element};
use parking_lot::Mutex;

use super::answer::relocate;

/// Bytes that are unpacked at once: a packed page may grow a thousandfold.
const PIECE: usize = 4096;
/// Bytes of one tag, at most; a page with a longer one is cut off.
const LONGEST_TAG: usize = 1 << 20;

/// Attributes that hold one URL, by element.
///
/// Source: the HTML standard, "Attributes"; HTML 4.01, "Index of attributes".
const LINKS: [(&str, &[&str]); 26] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("track", &["src"]),
    ("video", &["poster", "src"]),
];

/// How a page is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Deflate,
}

/// Rewrites the links of an answer, if it is a whole page that can be read. `hosts` are names of the backend, as
/// [`relocate`] has them.
pub(super) fn rewrite(mut response: Response, prefix: &str, hosts: [&str; 2]) -> Response {
    let Some(packing) = page(response.status(), response.headers()) else { return response };
    response.headers_mut().remove(header::CONTENT_LENGTH);
    let page = Page::new(packing, prefix, hosts);
    response.map(|body| {
        let pieces = body.into_data_stream().map(Some).chain(futures::stream::iter([None]));
        let made = pieces.scan(Some(page), |page, piece| {
            let made = next(page, piece);
            futures::future::ready(made)
        });
        Body::from_stream(made)
    })
}

/// What becomes of the next piece, or of the end; nothing comes behind an error.
fn next(
    page: &mut Option<Page>,
    piece: Option<Result<Bytes, axum::Error>>,
) -> Option<io::Result<Vec<u8>>> {
    let mut taken = page.take()?;
    let made = match piece {
        Some(Ok(bytes)) => taken.feed(&bytes).inspect(|_| *page = Some(taken)),
        Some(Err(error)) => Err(io::Error::other(error)),
        None => taken.end(),
    };
    Some(made)
}

/// How a page is packed; `None` for what is no page, for a part of one, and for one that is packed in another way.
fn page(status: StatusCode, headers: &HeaderMap) -> Option<Packing> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = text(header::CONTENT_TYPE)?.split(';').next()?.trim();
    let whole = status != StatusCode::PARTIAL_CONTENT && !headers.contains_key(header::LOCATION);
    match text(header::CONTENT_ENCODING).unwrap_or_default() {
        _ if kind != "text/html" || !whole => None,
        "" => Some(Packing::None),
        "gzip" => Some(Packing::Gzip),
        "deflate" => Some(Packing::Deflate),
        _ => None,
    }
}

/// A page on its way.
struct Page {
    unpack: Unpack,
    rewriter: HtmlRewriter<'static, Sink>,
    made: Sink,
    pack: Pack,
}

/// Where the rewriter puts what it has made.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl OutputSink for Sink {
    fn handle_chunk(&mut self, chunk: &[u8]) {
        self.0.lock().extend_from_slice(chunk);
    }
}

enum Unpack {
    None,
    Gzip(MultiGzDecoder<Vec<u8>>),
    Deflate(DeflateDecoder<Vec<u8>>),
}

enum Pack {
    None(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(DeflateEncoder<Vec<u8>>),
}

impl Page {
    fn new(packing: Packing, prefix: &str, [backend, asked]: [&str; 2]) -> Self {
        let (prefix, backend, asked) = (prefix.to_owned(), backend.to_owned(), asked.to_owned());
        let relink = element!("*", move |element: &mut Element<'_, '_>| {
            let tag = element.tag_name();
            let names = LINKS.iter().find(|(of, _)| *of == tag).map_or(&[][..], |(_, names)| names);
            for name in names {
                let Some(link) = element.get_attribute(name) else { continue };
                let moved = relocate(&link, &prefix, [&backend, &asked]);
                if moved != link {
                    element.set_attribute(name, &moved)?;
                }
            }
            Ok(())
        });
        // Each byte is a character of this encoding and comes back as the same byte, whatever the page's is.
        let bytewise = AsciiCompatibleEncoding::new(encoding_rs::WINDOWS_1252);
        let memory = MemorySettings::new().with_max_allowed_memory_usage(LONGEST_TAG);
        let settings = Settings::new_send()
            .append_element_content_handler(relink)
            .with_encoding(bytewise.unwrap_or_else(AsciiCompatibleEncoding::utf_8))
            .with_memory_settings(memory)
            .with_strict(false);
        let made = Sink::default();
        let rewriter = HtmlRewriter::new(settings, made.clone());
        let (unpack, pack) = match packing {
            Packing::None => (Unpack::None, Pack::None(Vec::new())),
            Packing::Gzip => (
                Unpack::Gzip(MultiGzDecoder::new(Vec::new())),
                Pack::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
            ),
            Packing::Deflate => (
                Unpack::Deflate(DeflateDecoder::new(Vec::new())),
                Pack::Deflate(DeflateEncoder::new(Vec::new(), Compression::fast())),
            ),
        };
        Self { unpack, rewriter, made, pack }
    }

    /// What can be sent after these bytes have come.
    fn feed(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        for piece in bytes.chunks(PIECE) {
            let plain = self.unpack.feed(piece)?;
            self.rewriter.write(&plain).map_err(io::Error::other)?;
            self.pack.feed(&std::mem::take(&mut *self.made.0.lock()))?;
        }
        self.pack.take()
    }

    /// What is left to send.
    fn end(mut self) -> io::Result<Vec<u8>> {
        let plain = self.unpack.end()?;
        self.rewriter.write(&plain).map_err(io::Error::other)?;
        self.rewriter.end().map_err(io::Error::other)?;
        self.pack.feed(&std::mem::take(&mut *self.made.0.lock()))?;
        self.pack.end()
    }
}

impl Unpack {
    fn feed(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::None => return Ok(bytes.to_vec()),
            Self::Gzip(decoder) => decoder.write_all(bytes)?,
            Self::Deflate(decoder) => decoder.write_all(bytes)?,
        }
        Ok(self.take())
    }

    /// What was still held back; an error if the packed page is cut off.
    fn end(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::None => (),
            Self::Gzip(decoder) => decoder.try_finish()?,
            Self::Deflate(decoder) => decoder.try_finish()?,
        }
        Ok(self.take())
    }

    fn take(&mut self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Gzip(decoder) => std::mem::take(decoder.get_mut()),
            Self::Deflate(decoder) => std::mem::take(decoder.get_mut()),
        }
    }
}

impl Pack {
    fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::None(out) => out.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Deflate(encoder) => encoder.write_all(bytes),
        }
    }

    /// What was fed so far, packed: whoever reads the page as it comes need not wait for its end.
    fn take(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::None(out) => Ok(std::mem::take(out)),
            Self::Gzip(encoder) => {
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Deflate(encoder) => {
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }

    fn end(self) -> io::Result<Vec<u8>> {
        match self {
            Self::None(out) => Ok(out),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Deflate(encoder) => encoder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    const HOSTS: [&str; 2] = ["10.0.0.1:80", "me:6443"];

    /// The page as a client sees it, when it comes in pieces of this size.
    fn seen(packing: Packing, packed: &[u8], piece: usize) -> io::Result<Vec<u8>> {
        let mut page = Page::new(packing, "/p/proxy", HOSTS);
        let mut out = Vec::new();
        for piece in packed.chunks(piece) {
            out.extend(page.feed(piece)?);
        }
        out.extend(page.end()?);
        Ok(out)
    }

    #[track_caller]
    fn check(page: &str, expected: &str) {
        for piece in [1, 7, 4096] {
            let seen = seen(Packing::None, page.as_bytes(), piece).unwrap();
            assert_eq!(String::from_utf8(seen).unwrap(), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn links_of_the_page_s_own_server_lead_below_the_proxy() {
        check(r#"<a href="/a?b=1&amp;c">x</a>"#, r#"<a href="/p/proxy/a?b=1&amp;c">x</a>"#);
        check("<IMG SRC=/a.png alt=é>", "<IMG SRC=\"/p/proxy/a.png\" alt=é>");
        check("<form action='http://10.0.0.1:80/f'>", "<form action=\"/p/proxy/f\">");
        check(
            "<script src=/s.js>'<a href=\"/no\">'</script>",
            "<script src=\"/p/proxy/s.js\">'<a href=\"/no\">'</script>",
        );
        check(r#"<link href="//me:6443/s.css">"#, r#"<link href="//me:6443/p/proxy/s.css">"#);
        check(
            r#"<input formaction="/a" src="/b">"#,
            r#"<input formaction="/p/proxy/a" src="/p/proxy/b">"#,
        );
    }

    #[test]
    fn all_else_stays_byte_for_byte() {
        for page in [
            "<a href=rel><a href='#x'><a href=\"\"><a href><a href=\"http://else.where/a\">",
            "<a href=\"/p/proxy/a\">",
            "<p title=/a>/a</p> <!-- <a href=\"/a\"> --> <textarea><a href=\"/a\"></textarea>",
            "<a href=\"javascript:go('/a')\"><a href=\"data:text/html,/a\">",
            "no page at all < > & \u{0}",
        ] {
            check(page, page);
        }
        let latin = b"<p>\xe9\x81</p><a title='\xe9' href=\"/\xe9\">";
        let expected = b"<p>\xe9\x81</p><a title='\xe9' href=\"/p/proxy/\xe9\">";
        assert_eq!(seen(Packing::None, latin, 3).unwrap(), expected);
    }

    #[test]
    fn packed_pages_are_packed_again() {
        let page = "<a href=\"/a\">".repeat(2000);
        let expected = "<a href=\"/p/proxy/a\">".repeat(2000);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(page.as_bytes()).unwrap();
        let gzip = gzip.finish().unwrap();
        let seen_gzip = seen(Packing::Gzip, &gzip, 10).unwrap();
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(&*seen_gzip).read_to_string(&mut text).unwrap();
        assert_eq!(text, expected);
        let mut deflate = DeflateEncoder::new(Vec::new(), Compression::best());
        deflate.write_all(page.as_bytes()).unwrap();
        let seen_deflate = seen(Packing::Deflate, &deflate.finish().unwrap(), 10).unwrap();
        text.clear();
        flate2::read::DeflateDecoder::new(&*seen_deflate).read_to_string(&mut text).unwrap();
        assert_eq!(text, expected);
        // What is cut off, or packed wrongly, is no page.
        assert!(seen(Packing::Gzip, &gzip[..gzip.len() - 9], 10).is_err());
        assert!(seen(Packing::Gzip, b"no gzip at all, but long enough", 10).is_err());
    }

    #[test]
    fn a_tag_without_end_is_not_kept_in_memory() {
        let long = vec![b'a'; 2 * LONGEST_TAG];
        let mut page = Page::new(Packing::None, "/p/proxy", HOSTS);
        page.feed(b"<a href=\"/").unwrap();
        assert!(page.feed(&long).is_err());
    }

    #[test]
    fn only_whole_pages_are_read() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            let pairs = pairs.iter().map(|(name, value)| {
                (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
            });
            pairs.collect()
        };
        let html = ("content-type", "text/html; charset=utf-8");
        for (status, pairs, expected) in [
            (200, &[html][..], Some(Packing::None)),
            (404, &[html, ("content-encoding", "gzip")], Some(Packing::Gzip)),
            (200, &[html, ("content-encoding", "deflate")], Some(Packing::Deflate)),
            (200, &[html, ("content-encoding", "br")], None),
            (200, &[("content-type", "text/html-not")], None),
            (200, &[], None),
            (206, &[html], None),
            (302, &[html, ("location", "/a")], None),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(page(status, &headers(pairs)), expected, "{status} {pairs:?}");
        }
    }
}
