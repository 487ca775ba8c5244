//! Times as Go reads them, and what it says of those that it cannot read.

use jiff::Timestamp;

/// Canonical text of a time, in UTC.
///
/// # Errors
/// What Go's `time.Parse` says.
pub(crate) fn parse(text: &str, micro: bool) -> Result<String, String> {
    let layout =
        if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    match check(text, micro) {
        Ok(()) => (),
        Err(Fault::Shape { rest, wanted }) => {
            return Err(format!(
                "parsing time {} as {layout:?}: cannot parse {} as {wanted:?}",
                quoted(text),
                quoted(rest)
            ));
        }
        Err(Fault::Other(fault)) => return Err(format!("parsing time {}: {fault}", quoted(text))),
    }
    let time: Timestamp = text
        .replace(',', ".")
        .parse()
        .map_err(|_| format!("parsing time {}: day out of range", quoted(text)))?;
    Ok(if micro {
        time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
    } else {
        time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    })
}

/// A text as package time quotes it: what is no printable ASCII byte by byte.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out += &format!("\\x{byte:02x}"),
        }
    }
    out.push('"');
    out
}

enum Fault<'a> {
    /// What was left of the text when it stopped to look like the layout.
    Shape {
        rest: &'a str,
        wanted: &'static str,
    },
    Other(String),
}

/// The parts of the layout before the fraction, with the largest number that each may be.
const PARTS: [(&str, &str, u32); 6] = [
    ("2006", "-", 9999),
    ("01", "-", 12),
    ("02", "T", 31),
    ("15", ":", 23),
    ("04", ":", 59),
    ("05", "", 59),
];
const NAMES: [&str; 6] = ["year", "month", "day", "hour", "minute", "second"];

/// Digits of a fraction in microseconds.
const MICRO: usize = 6;

/// Whether the text has the shape of the layout.
fn check(text: &str, micro: bool) -> Result<(), Fault<'_>> {
    let mut rest = text;
    for ((digits, separator, most), name) in PARTS.into_iter().zip(NAMES) {
        let number = rest.get(..digits.len()).filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
        let Some(number) = number.and_then(|t| t.parse::<u32>().ok()) else {
            return Err(Fault::Shape { rest, wanted: digits });
        };
        if number > most || (name == "month" && number == 0) {
            return Err(Fault::Other(format!("{name} out of range")));
        }
        rest = &rest[digits.len()..];
        rest = rest.strip_prefix(separator).ok_or(Fault::Shape { rest, wanted: separator })?;
    }
    let digits = rest
        .strip_prefix(['.', ','])
        .map_or(0, |fraction| fraction.bytes().take_while(u8::is_ascii_digit).count());
    // Microseconds have six digits, neither more nor fewer.
    if micro && digits < MICRO {
        return Err(Fault::Shape { rest, wanted: ".000000" });
    }
    let digits = if micro { MICRO } else { digits };
    if digits > 0 {
        rest = &rest[1 + digits..];
    }
    zone(rest)
}

/// `Z`, or hours and minutes.
fn zone(rest: &str) -> Result<(), Fault<'_>> {
    let shape = Fault::Shape { rest, wanted: "Z07:00" };
    if let Some(extra) = rest.strip_prefix('Z') {
        if extra.is_empty() {
            return Ok(());
        }
        return Err(Fault::Other(format!("extra text: {}", quoted(extra))));
    }
    let Some(offset) = rest.get(..6).filter(|offset| {
        offset.starts_with(['+', '-'])
            && offset.bytes().enumerate().skip(1).all(|(n, b)| match n {
                3 => b == b':',
                _ => b.is_ascii_digit(),
            })
    }) else {
        return Err(shape);
    };
    match &rest[offset.len()..] {
        "" => Ok(()),
        extra => Err(Fault::Other(format!("extra text: {}", quoted(extra)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_times_become_canonical() {
        assert_eq!(parse("2020-01-01T02:00:00+02:00", false).unwrap(), "2020-01-01T00:00:00Z");
        let (micro, parsed) = ("2020-01-01T01:00:00,500000+01:00", "2020-01-01T00:00:00.500000Z");
        assert_eq!(parse(micro, true).unwrap(), parsed);
        assert_eq!(parse("2020-01-01T00:00:00.5Z", false).unwrap(), "2020-01-01T00:00:00Z");
    }

    #[test]
    fn microseconds_have_six_digits() {
        for (fraction, rest, wanted) in [(".5Z", ".5Z", ".000000"), (".1234567Z", "7Z", "Z07:00")] {
            let fault = parse(&format!("2020-01-01T00:00:00{fraction}"), true).unwrap_err();
            assert!(fault.ends_with(&format!("cannot parse {rest:?} as {wanted:?}")), "{fault}");
        }
    }

    #[test]
    fn bad_times_are_told_in_the_words_of_go() {
        let layout = r#"as "2006-01-02T15:04:05Z07:00": cannot parse"#;
        for (text, fault) in [
            ("junk", format!(r#" {layout} "junk" as "2006""#)),
            ("2020-é", format!(r#" {layout} "\xc3\xa9" as "01""#)),
            ("1000000000", format!(r#" {layout} "000000" as "-""#)),
            ("2020-01-01", format!(r#" {layout} "" as "T""#)),
            ("2020-01-01T00:00:00", format!(r#" {layout} "" as "Z07:00""#)),
            ("2020-13-01T00:00:00Z", ": month out of range".to_owned()),
            ("2020-02-31T00:00:00Z", ": day out of range".to_owned()),
            ("2020-01-01T00:00:00Zx", r#": extra text: "x""#.to_owned()),
        ] {
            assert_eq!(
                parse(text, false).unwrap_err(),
                format!("parsing time {}{fault}", quoted(text))
            );
        }
        assert!(parse("2020-01-01T00:00:00Z", true).unwrap_err().ends_with(r#""Z" as ".000000""#));
    }
}
