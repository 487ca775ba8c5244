//! The head and the body of an HTTP/1.1 answer, out of whatever pieces they come in (RFC 9112).

use anyhow::{Context, ensure};
use http::StatusCode;

/// Most headers of an answer.
const HEADERS: usize = 64;

/// What an answer begins with.
pub(crate) struct Head {
    /// Its status.
    pub status: StatusCode,
    /// What follows.
    pub body: Body,
    /// Bytes of the head.
    pub length: usize,
}

impl Head {
    /// The head at the beginning of `bytes`; `None` until it is whole.
    ///
    /// # Errors
    /// If that is not HTTP.
    pub(crate) fn parse(bytes: &[u8]) -> anyhow::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = head.parse(bytes)? else { return Ok(None) };
        let status = StatusCode::from_u16(head.code.unwrap_or_default())?;
        Ok(Some(Self { status, body: Body::behind(status, head.headers)?, length }))
    }
}

/// How much of a body is still to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes.
    Length(u64),
    /// So many bytes of a chunk, and further chunks.
    Chunk(u64),
    /// The line before a chunk, of which this was seen.
    Line(Vec<u8>),
    /// The lines that end it; the present one has so many bytes.
    Trailer(usize),
}

impl Body {
    /// A body that is over.
    pub(crate) const ENDED: Self = Body::Length(0);

    fn behind(status: StatusCode, headers: &[httparse::Header<'_>]) -> anyhow::Result<Self> {
        let value = |name: &str| {
            let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            header.map(|header| String::from_utf8_lossy(header.value))
        };
        if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
            return Ok(Self::ENDED);
        }
        if value("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Ok(Body::Line(Vec::new()));
        }
        let length = value("content-length");
        let length =
            length.context("an answer whose length is told neither before nor in chunks")?;
        Ok(Body::Length(length.parse()?))
    }

    /// Whether nothing is to come.
    pub(crate) fn is_ended(&self) -> bool {
        *self == Self::ENDED
    }

    /// Hands over what of `bytes` is content.
    ///
    /// # Errors
    /// If the chunks are none, or there is more than the body.
    pub(crate) fn take(
        &mut self,
        mut bytes: &[u8],
        content: &mut impl FnMut(&[u8]),
    ) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            ensure!(!self.is_ended(), "{} bytes that no request asked for", bytes.len());
            bytes = self.step(bytes, content)?;
        }
        Ok(())
    }

    /// Deals with the first of `bytes`; answers the others.
    fn step<'a>(
        &mut self,
        bytes: &'a [u8],
        content: &mut impl FnMut(&[u8]),
    ) -> anyhow::Result<&'a [u8]> {
        match self {
            Body::Length(left) | Body::Chunk(left) => {
                let here = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                content(&bytes[..here]);
                *left -= here as u64;
                if *self == Body::Chunk(0) {
                    *self = Body::Line(Vec::new());
                }
                Ok(&bytes[here..])
            }
            Body::Line(seen) => {
                let (line, behind) = split(bytes);
                seen.extend_from_slice(line);
                if seen.ends_with(b"\n") {
                    *self = Self::at_line(seen)?;
                }
                Ok(behind)
            }
            Body::Trailer(seen) => {
                let (line, behind) = split(bytes);
                *seen += line.len();
                if line.ends_with(b"\n") {
                    *self = if *seen <= b"\r\n".len() { Self::ENDED } else { Body::Trailer(0) };
                }
                Ok(behind)
            }
        }
    }

    /// What follows a line between chunks: an empty one ends the chunk before it.
    fn at_line(line: &[u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(line)?.trim_end();
        if text.is_empty() {
            return Ok(Body::Line(Vec::new()));
        }
        let size = text.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16)
            .with_context(|| format!("{text:?} is no chunk's size"))?;
        Ok(if size == 0 { Body::Trailer(0) } else { Body::Chunk(size) })
    }
}

/// Up to the first line feed, and what is behind it.
fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
    bytes.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content of an answer that comes in pieces of `size` bytes.
    fn content(answer: &[u8], size: usize) -> anyhow::Result<(StatusCode, Vec<u8>)> {
        let (mut seen, mut head, mut content) = (Vec::new(), None, Vec::new());
        for piece in answer.chunks(size) {
            let mut take = |bytes: &[u8]| content.extend_from_slice(bytes);
            if let Some(Head { body, .. }) = &mut head {
                body.take(piece, &mut take)?;
                continue;
            }
            seen.extend_from_slice(piece);
            head = Head::parse(&seen)?;
            if let Some(Head { body, length, .. }) = &mut head {
                body.take(&seen[*length..], &mut take)?;
            }
        }
        let head = head.context("no head")?;
        ensure!(head.body.is_ended(), "{:?} is missing", head.body);
        Ok((head.status, content))
    }

    #[test]
    fn bodies_are_whole_however_they_come() {
        let answers = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none\r\ntwo\n", "one\r\ntwo\n"),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\none\r\n\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
                "one\r\n0123456789",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n\r\n",
                "a",
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", ""),
        ];
        for (answer, expected) in answers {
            for size in 1..=answer.len() {
                let (status, content) = content(answer.as_bytes(), size).unwrap();
                assert!(status.is_success());
                assert_eq!(String::from_utf8(content).unwrap(), expected, "in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let answers = [
            "HTTP/1.1 200 OK\r\n\r\nuntil the end",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nlong\r\n",
            "SSH-2.0-OpenSSH\r\n",
        ];
        for answer in answers {
            assert!(content(answer.as_bytes(), answer.len()).is_err(), "{answer}");
        }
    }
}
