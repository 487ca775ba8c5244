//! The CRI log format: `<RFC3339 with nanoseconds> <stdout|stderr> <F|P> <text>`. Pure.

use k8s_openapi::jiff::Timestamp;

/// Longest piece of one record, in bytes; longer lines are written as several `P` records and a last `F`.
///
/// Source: the CRI plugin's default `max_container_log_line_size`.
const MAX_PIECE: usize = 16 << 10;

/// Turns the bytes of one stream into records.
pub(super) struct Lines {
    stream: &'static str,
    tty: bool,
    rest: Vec<u8>,
}

impl Lines {
    pub(super) fn new(stream: &'static str, tty: bool) -> Self {
        Self { stream, tty, rest: Vec::new() }
    }

    /// Appends the records that `input` completes to `out`.
    pub(super) fn push(&mut self, now: Timestamp, mut input: &[u8], out: &mut Vec<u8>) {
        let prefix = self.prefix(now);
        while let Some(at) = memchr(b'\n', input) {
            let (line, tail) = (&input[..at], &input[at + 1..]);
            if self.rest.is_empty() {
                write_line(&prefix, self.tty, line, out);
            } else {
                self.rest.extend_from_slice(line);
                write_line(&prefix, self.tty, &self.rest, out);
                self.rest.clear();
            }
            input = tail;
        }
        self.rest.extend_from_slice(input);
        while self.rest.len() >= MAX_PIECE {
            record(&prefix, b'P', &self.rest[..MAX_PIECE], out);
            self.rest.drain(..MAX_PIECE);
        }
    }

    /// Appends what is left at the end of the stream.
    pub(super) fn finish(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            record(&self.prefix(now), b'P', &self.rest, out);
            self.rest.clear();
        }
    }

    fn prefix(&self, now: Timestamp) -> String {
        format!("{now:.9} {} ", self.stream)
    }
}

fn write_line(prefix: &str, tty: bool, line: &[u8], out: &mut Vec<u8>) {
    let line = match line {
        [head @ .., b'\r'] if tty => head,
        line => line,
    };
    let mut rest = line;
    while rest.len() > MAX_PIECE {
        record(prefix, b'P', &rest[..MAX_PIECE], out);
        rest = &rest[MAX_PIECE..];
    }
    record(prefix, b'F', rest, out);
}

fn record(prefix: &str, tag: u8, text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(&[tag, b' ']);
    out.extend_from_slice(text);
    out.push(b'\n');
}

fn memchr(needle: u8, hay: &[u8]) -> Option<usize> {
    hay.iter().position(|byte| *byte == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tty: bool, chunks: &[&str], expected: &str) {
        let now: Timestamp = "2026-01-02T03:04:05.000000006Z".parse().unwrap();
        let (mut lines, mut out) = (Lines::new("stdout", tty), Vec::new());
        for chunk in chunks {
            lines.push(now, chunk.as_bytes(), &mut out);
        }
        lines.finish(now, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.replace("2026-01-02T03:04:05.000000006Z stdout ", ""), expected);
    }

    #[test]
    fn lines_are_full_records() {
        check(false, &["one\ntw", "o\n", "\n"], "F one\nF two\nF \n");
    }

    #[test]
    fn a_rest_without_newline_is_partial() {
        check(false, &["no end"], "P no end\n");
    }

    #[test]
    fn terminals_lose_their_carriage_returns() {
        check(true, &["a\r\n"], "F a\n");
        check(false, &["a\r\n"], "F a\r\n");
    }

    #[test]
    fn long_lines_are_cut() {
        let (piece, tail) = ("x".repeat(MAX_PIECE), "y".repeat(3));
        check(false, &[&format!("{piece}{tail}\n")], &format!("P {piece}\nF {tail}\n"));
        check(false, &[&piece, &format!("{tail}\n")], &format!("P {piece}\nF {tail}\n"));
        check(false, &[&format!("{piece}\n")], &format!("F {piece}\n"));
    }

    #[test]
    fn times_have_nine_digits() {
        let (mut lines, mut out) = (Lines::new("stderr", false), Vec::new());
        lines.push("2026-01-02T03:04:05Z".parse().unwrap(), b"a\n", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "2026-01-02T03:04:05.000000000Z stderr F a\n");
    }
}
