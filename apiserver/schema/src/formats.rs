//! String formats of OpenAPI schemas.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use jiff::{Timestamp, civil::Date};
use regex::Regex;

use crate::regexps;

/// Whether `text` has the format; unknown formats admit anything, as in Kubernetes.
#[must_use]
pub(crate) fn matches(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.parse::<Timestamp>().is_ok() && text.contains('T'),
        "date" => text.len() == 10 && text.parse::<Date>().is_ok(),
        "byte" => base64(text).is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => cidr(text),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => uuid(format, text),
        "hostname" => hostname(text),
        "email" => email(text),
        "mac" => mac(text),
        "duration" => duration(text),
        "uri" => uri(text),
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "isbn10" => isbn10(text),
        "isbn13" => isbn13(text),
        "isbn" => isbn10(text) || isbn13(text),
        "creditcard" => credit_card(text),
        "ssn" => social_security(text),
        "hexcolor" => hex_color(text),
        "rgbcolor" => rgb_color(text),
        "k8s-short-name" => text.len() <= 63 && short_name(text),
        "k8s-long-name" => text.len() <= 253 && text.split('.').all(short_name),
        _ => true,
    }
}

/// Checks standard base64, with upstream's text for what is not.
pub(crate) fn base64(text: &str) -> Result<(), String> {
    let error = |at: usize| Err(format!("illegal base64 data at input byte {at}"));
    let clean: Vec<(usize, u8)> =
        text.bytes().enumerate().filter(|(_, b)| !matches!(b, b'\n' | b'\r')).collect();
    let data = clean.iter().take_while(|(_, b)| *b != b'=').count();
    for (at, byte) in &clean[..data] {
        if !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')) {
            return error(*at);
        }
    }
    let padding = &clean[data..];
    if padding.is_empty() && data % 4 != 0 {
        // Upstream points at the first byte of the group that ends too early.
        return error(text.len() - data % 4);
    }
    let wanted = match data % 4 {
        0 => 0,
        2 => 2,
        3 => 1,
        _ => return error(padding.first().map_or(text.len(), |(at, _)| *at)),
    };
    if padding.len() < wanted {
        return error(text.len());
    }
    match padding.iter().enumerate().find(|(n, (_, b))| *n >= wanted || *b != b'=') {
        Some((_, (at, _))) => error(*at),
        None => Ok(()),
    }
}

/// So many digits, without the separators that people write between them; none if there are more or fewer.
fn digits(text: &str, wanted: usize) -> Option<String> {
    let found: String = text.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
    (found.len() == wanted).then_some(found)
}

fn isbn10(text: &str) -> bool {
    let Some(text) = digits(text, 10) else { return false };
    let weigh = |(at, digit): (usize, char)| match digit {
        'X' if at == 9 => Some(100),
        digit => Some((at as u32 + 1) * digit.to_digit(10)?),
    };
    let sum: Option<u32> = text.chars().enumerate().map(weigh).sum();
    sum.is_some_and(|sum| sum % 11 == 0)
}

fn isbn13(text: &str) -> bool {
    let Some(text) = digits(text, 13) else { return false };
    let weigh = |(at, digit): (usize, char)| Some([1, 3][at % 2] * digit.to_digit(10)?);
    let sum: Option<u32> = text.chars().enumerate().map(weigh).sum();
    sum.is_some_and(|sum| sum % 10 == 0)
}

/// A number of a credit card: its length, and the last digit, which follows from the others (Luhn).
fn credit_card(text: &str) -> bool {
    let text: String = text.chars().filter(char::is_ascii_digit).collect();
    if !(13..=16).contains(&text.len()) {
        return false;
    }
    let weigh = |(at, digit): (usize, char)| {
        let digit = digit.to_digit(10).unwrap_or_default() * [1, 2][at % 2];
        digit / 10 + digit % 10
    };
    let sum: u32 = text.chars().rev().enumerate().map(weigh).sum();
    sum.is_multiple_of(10)
}

fn social_security(text: &str) -> bool {
    let parts: Vec<&str> = text.split(['-', ' ']).collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [3, 2, 4] && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()))
}

fn hex_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

fn rgb_color(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')'));
    let is_part = |part: &str| part.trim().parse::<u8>().is_ok();
    inner.is_some_and(|inner| inner.split(',').count() == 3 && inner.split(',').all(is_part))
}

/// A DNS label.
fn short_name(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: u8| edge(Some(b)) || b == b'-';
    edge(text.bytes().next()) && edge(text.bytes().last()) && text.bytes().all(inner)
}

fn cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let Ok(bits) = bits.parse::<u8>() else { return false };
    address.parse::<Ipv4Addr>().is_ok() && bits <= 32
        || address.parse::<Ipv6Addr>().is_ok() && bits <= 128
}

fn uuid(format: &str, text: &str) -> bool {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    let version = match format.strip_prefix("uuid") {
        Some("") | None => true,
        Some(version) => hex.get(12..13) == Some(version),
    };
    version && hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

fn hostname(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && text.trim_end_matches('.').split('.').all(|label| {
            let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(inside)
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

fn email(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(user, host)| {
        !user.is_empty() && !user.contains(char::is_whitespace) && hostname(host)
    })
}

fn mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    matches!(parts.len(), 6 | 8 | 20)
        && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Go durations such as `1h30m`, and whatever has a number with a unit after it somewhere.
///
/// Source: `ParseDuration` of `go-openapi/strfmt`.
fn duration(text: &str) -> bool {
    go_duration(text)
        || LOOSE_DURATION.as_ref().is_some_and(|pattern| {
            let mut units = pattern.captures_iter(text).map(|found| found[1].to_lowercase());
            units.any(|unit| is_unit(&unit))
        })
}

static LOOSE_DURATION: LazyLock<Option<Regex>> =
    LazyLock::new(|| regexps::compile(r"\d+\s*([A-Za-zµ]+)").ok());

/// Whether a word is the short name of a unit, or begins with the long one.
fn is_unit(word: &str) -> bool {
    const UNITS: [(&[&str], &str); 8] = [
        (&["ns"], "nano"),
        (&["us", "µs"], "micro"),
        (&["ms"], "milli"),
        (&["s"], "sec"),
        (&["m"], "min"),
        (&["h", "hr"], "hour"),
        (&["d"], "day"),
        (&["w", "wk"], "week"),
    ];
    UNITS.iter().any(|(short, long)| short.contains(&word) || word.starts_with(long))
}

fn go_duration(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    if text == "0" {
        return true;
    }
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(0);
        let after = &rest[digits..];
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        if digits == 0 || !["ns", "us", "µs", "ms", "s", "m", "h"].contains(&&after[..end]) {
            return false;
        }
        rest = &after[end..];
    }
    !text.is_empty()
}

fn uri(text: &str) -> bool {
    text.starts_with('/')
        || text.split_once(':').is_some_and(|(scheme, rest)| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
                && !rest.is_empty()
                && !rest.contains(char::is_whitespace)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_says_where_it_is_wrong() {
        assert_eq!(base64("aGk="), Ok(()));
        assert_eq!(base64(""), Ok(()));
        assert_eq!(base64("!"), Err("illegal base64 data at input byte 0".to_owned()));
        assert_eq!(base64("ab!d"), Err("illegal base64 data at input byte 2".to_owned()));
        assert_eq!(base64("v"), Err("illegal base64 data at input byte 0".to_owned()));
        assert_eq!(base64("aGkhaGk"), Err("illegal base64 data at input byte 4".to_owned()));
        assert!(base64("aGk==").is_err());
    }

    #[test]
    fn formats_admit_what_they_name() {
        for (format, good, bad) in [
            ("date-time", "2024-05-06T07:08:09Z", "yesterday"),
            ("date", "2024-05-06", "2024-5-6"),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6ba7"),
            ("hostname", "a.example.com", "-a"),
            ("email", "a@b.example", "ab"),
            ("duration", "1h30m", "1 fortnight"),
            ("duration", "1 hour", "PT1"),
            ("uri", "https://a.example/x", "no uri"),
            ("mac", "00:11:22:33:44:55", "00:11"),
            ("isbn10", "3-16-148410-X", "3-16-148410-1"),
            ("isbn13", "978-3-16-148410-0", "978-3-16-148410-1"),
            ("isbn", "978-3-16-148410-0", &"9".repeat(100_000)),
            ("creditcard", "4111 1111 1111 1111", &"9".repeat(100_000)),
        ] {
            assert!(matches(format, good), "{format} {good}");
            assert!(!matches(format, bad), "{format} {bad}");
        }
        assert!(matches("of-my-own", "anything"));
    }
}
