//! Frames of SPDY/3.1 as bytes. Pure.
//!
//! Source: chromium.org, "SPDY Protocol – Draft 3.1".

use std::io;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// No more frames of the stream come from this side.
pub(super) const FLAG_FIN: u8 = 1;
/// Longest frame taken.
const FRAME_MAX: usize = 1 << 20;
/// Longest block of headers, uncompressed.
const HEADERS_MAX: usize = 64 << 10;
const VERSION: u16 = 3;

/// Names and values in their order.
pub(crate) type Headers = Vec<(String, String)>;

/// A frame. What Kubernetes does not use is `Other`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream { id: u32, headers: Headers, flags: u8 },
    SynReply { id: u32, headers: Headers, flags: u8 },
    RstStream { id: u32, status: u32 },
    Ping { id: u32 },
    GoAway,
    Data { id: u32, data: Bytes, flags: u8 },
    Other,
}

/// The words that both sides have "said before": it primes the compression of headers.
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    const WORDS: &str = "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|\
        accept-language|accept-ranges|age|allow|authorization|cache-control|connection|content-base|\
        content-encoding|content-language|content-length|content-location|content-md5|content-range|\
        content-type|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|\
        if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|proxy-authenticate|\
        proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|\
        user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|\
        public|set-cookie|keep-alive|origin";
    const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415\
        416417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad \
        Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not \
        Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
        Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
        application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,\
        deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut bytes = Vec::new();
    for word in WORDS.split('|') {
        put_text(&mut bytes, word);
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
});

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(u32::try_from(text.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Turns frames into bytes. One a connection: headers are compressed as one long text.
pub(super) struct Encoder {
    compress: Compress,
}

impl Encoder {
    pub(super) fn new() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        // A fresh compressor takes any dictionary; without it the peer fails on the first frame.
        let primed = compress.set_dictionary(&DICTIONARY);
        debug_assert!(primed.is_ok());
        Self { compress }
    }

    pub(super) fn encode(&mut self, frame: &Frame, out: &mut Vec<u8>) {
        match frame {
            Frame::SynStream { id, headers, flags } => {
                let mut body = id.to_be_bytes().to_vec();
                body.extend([0; 6]); // No associated stream, highest priority, no slot.
                self.headers(headers, &mut body);
                control(out, 1, *flags, &body);
            }
            Frame::SynReply { id, headers, flags } => {
                let mut body = id.to_be_bytes().to_vec();
                self.headers(headers, &mut body);
                control(out, 2, *flags, &body);
            }
            Frame::RstStream { id, status } => {
                let body = [id.to_be_bytes(), status.to_be_bytes()].concat();
                control(out, 3, 0, &body);
            }
            Frame::Ping { id } => control(out, 6, 0, &id.to_be_bytes()),
            Frame::GoAway => control(out, 7, 0, &[0; 8]),
            Frame::Data { id, data, flags } => {
                out.extend((id & 0x7fff_ffff).to_be_bytes());
                out.extend(length(*flags, data.len()));
                out.extend_from_slice(data);
            }
            Frame::Other => (),
        }
    }

    fn headers(&mut self, headers: &Headers, out: &mut Vec<u8>) {
        let mut plain = u32::try_from(headers.len()).unwrap_or(0).to_be_bytes().to_vec();
        for (name, value) in headers {
            put_text(&mut plain, &name.to_lowercase());
            put_text(&mut plain, value);
        }
        let before = self.compress.total_in();
        let mut packed = Vec::with_capacity(plain.len() + 64);
        loop {
            let taken = usize::try_from(self.compress.total_in() - before).unwrap_or(0);
            let rest = plain.get(taken..).unwrap_or_default();
            let done = self.compress.compress_vec(rest, &mut packed, FlushCompress::Sync);
            let all =
                usize::try_from(self.compress.total_in() - before).is_ok_and(|n| n == plain.len());
            // Room left over means that everything was flushed.
            if done.is_err() || (all && packed.len() < packed.capacity()) {
                break;
            }
            packed.reserve(256);
        }
        out.extend(packed);
    }
}

fn length(flags: u8, n: usize) -> [u8; 4] {
    (u32::from(flags) << 24 | (u32::try_from(n).unwrap_or(0) & 0x00ff_ffff)).to_be_bytes()
}

fn control(out: &mut Vec<u8>, kind: u16, flags: u8, body: &[u8]) {
    out.extend((0x8000 | VERSION).to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(length(flags, body.len()));
    out.extend_from_slice(body);
}

/// Turns bytes into frames.
pub(super) struct Decoder {
    buffer: Vec<u8>,
    decompress: Decompress,
    primed: bool,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { buffer: Vec::new(), decompress: Decompress::new(true), primed: false }
    }

    /// Adds bytes from the connection.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame.
    pub(super) fn next(&mut self) -> io::Result<Option<Frame>> {
        let Some((head, rest)) = self.buffer.split_first_chunk::<8>() else { return Ok(None) };
        let [a, b, c, d, flags, l2, l1, l0] = *head;
        let length = usize::from(l2) << 16 | usize::from(l1) << 8 | usize::from(l0);
        if length > FRAME_MAX {
            return Err(invalid("frame too long"));
        }
        let Some(body) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        self.buffer.drain(..8 + length);
        let first = u32::from_be_bytes([a, b, c, d]);
        if first & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data { id: first, data: Bytes::from(body), flags }));
        }
        if u16::from_be_bytes([a & 0x7f, b]) != VERSION {
            return Err(invalid("unknown SPDY version"));
        }
        let word = |at: usize| -> io::Result<u32> {
            let bytes = body.get(at..at + 4).and_then(|b| b.try_into().ok());
            bytes.map(u32::from_be_bytes).ok_or_else(|| invalid("frame too short"))
        };
        let id = |at: usize| word(at).map(|id| id & 0x7fff_ffff);
        Ok(Some(match u16::from_be_bytes([c, d]) {
            1 => {
                let id = id(0)?;
                let packed = body.get(10..).ok_or_else(|| invalid("frame too short"))?;
                Frame::SynStream { id, headers: self.headers(packed)?, flags }
            }
            2 => {
                let id = id(0)?;
                let packed = body.get(4..).unwrap_or_default();
                Frame::SynReply { id, headers: self.headers(packed)?, flags }
            }
            3 => Frame::RstStream { id: id(0)?, status: word(4)? },
            6 => Frame::Ping { id: word(0)? },
            7 => Frame::GoAway,
            8 => {
                // Headers must be unpacked even if nobody reads them: all blocks are one text.
                self.headers(body.get(4..).unwrap_or_default())?;
                Frame::Other
            }
            _ => Frame::Other,
        }))
    }

    fn headers(&mut self, packed: &[u8]) -> io::Result<Headers> {
        let plain = self.inflate(packed)?;
        let mut rest = plain.as_slice();
        let mut number = || -> io::Result<usize> {
            let (bytes, after) =
                rest.split_first_chunk::<4>().ok_or_else(|| invalid("headers cut off"))?;
            rest = after;
            usize::try_from(u32::from_be_bytes(*bytes)).map_err(|_| invalid("headers too long"))
        };
        let count = number()?;
        let mut headers = Headers::new();
        let mut rest = plain.get(4..).unwrap_or_default();
        let mut text = || -> io::Result<String> {
            let cut = || invalid("headers cut off");
            let (bytes, after) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
            let n = usize::try_from(u32::from_be_bytes(*bytes)).map_err(|_| cut())?;
            let (text, after) = after.split_at_checked(n).ok_or_else(cut)?;
            rest = after;
            Ok(String::from_utf8_lossy(text).into_owned())
        };
        for _ in 0..count {
            headers.push((text()?, text()?));
        }
        Ok(headers)
    }

    fn inflate(&mut self, packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(4096);
        let begin = self.decompress.total_in();
        loop {
            let taken = usize::try_from(self.decompress.total_in() - begin).unwrap_or(0);
            let rest = packed.get(taken..).unwrap_or_default();
            let before = plain.len();
            match self.decompress.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Ok(_) => (),
                Err(e) if e.needs_dictionary().is_some() && !self.primed => {
                    self.primed = true;
                    self.decompress
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| invalid("headers use another dictionary"))?;
                    continue;
                }
                Err(_) => return Err(invalid("headers are not compressed")),
            }
            if plain.len() > HEADERS_MAX {
                return Err(invalid("headers too long"));
            }
            let now = usize::try_from(self.decompress.total_in() - begin).unwrap_or(0);
            if plain.len() < plain.capacity() && (now == packed.len() || plain.len() == before) {
                return Ok(plain);
            }
            plain.reserve(4096);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> Headers {
        list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_draft() {
        // Its length and Adler-32, which every zlib header of SPDY/3 names.
        let (mut a, mut b) = (1u32, 0u32);
        for byte in DICTIONARY.iter() {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((DICTIONARY.len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn frames_survive_the_way_in_any_pieces() {
        let long = "x".repeat(9000);
        let frames = [
            Frame::SynStream {
                id: 1,
                headers: headers(&[("streamtype", "error"), ("port", "8080"), ("requestid", "0")]),
                flags: 0,
            },
            Frame::SynStream { id: 3, headers: headers(&[("streamtype", &long)]), flags: FLAG_FIN },
            Frame::SynReply { id: 1, headers: Headers::new(), flags: 0 },
            Frame::Data { id: 3, data: Bytes::from_static(b"abc"), flags: FLAG_FIN },
            Frame::Ping { id: 5 },
            Frame::RstStream { id: 3, status: 5 },
            Frame::GoAway,
        ];
        let mut encoder = Encoder::new();
        let mut bytes = Vec::new();
        for frame in &frames {
            encoder.encode(frame, &mut bytes);
        }
        for piece in [1, 7, 100_000] {
            let mut decoder = Decoder::new();
            let mut got = Vec::new();
            for part in bytes.chunks(piece) {
                decoder.feed(part);
                while let Some(frame) = decoder.next().unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, frames, "pieces of {piece}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |bytes: &[u8], expected: &str| {
            let mut decoder = Decoder::new();
            decoder.feed(bytes);
            assert_eq!(decoder.next().unwrap_err().to_string(), expected);
        };
        check(&[0x80, 2, 0, 1, 0, 0, 0, 0], "unknown SPDY version");
        check(&[0x80, 3, 0, 1, 0, 0, 0, 0], "frame too short");
        check(&[0x80, 3, 0, 1, 0, 0xff, 0, 0], "frame too long");
        check(&[0x80, 3, 0, 2, 0, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3, 4], "headers are not compressed");
    }
}
