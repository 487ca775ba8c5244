//! Durations as Go writes them: `1h30m`, `500ms`, `0`.
//!
//! Source: `time.ParseDuration` of Go.

use std::time::Duration;

/// Reads a duration that is not negative.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    if text.starts_with(['-', '+']) {
        return None;
    }
    let mut seconds = parts(text).ok()?.into_iter();
    seconds.try_fold(Duration::ZERO, |total, part| {
        total.checked_add(Duration::try_from_secs_f64(part).ok()?)
    })
}

/// What is wrong with a duration that may be negative, in the words of Go.
#[must_use]
pub fn fault(text: &str) -> Option<String> {
    parts(text).err()
}

/// The seconds of each number with a unit, without the sign before them all.
fn parts(text: &str) -> Result<Vec<f64>, String> {
    let none = || format!("invalid duration {text:?}");
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let mut rest = if unsigned == "0" { "0s" } else { unsigned };
    if rest.is_empty() {
        return Err(none());
    }
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (number, tail) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let number: f64 = number.parse().map_err(|_| none())?;
        let (unit, tail) = split(tail, |c| !c.is_ascii_digit() && c != '.');
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            "" => return Err(format!("missing unit in duration {text:?}")),
            _ => return Err(format!("unknown unit {unit:?} in duration {text:?}")),
        };
        parts.push(number * seconds);
        rest = tail;
    }
    Ok(parts)
}

/// The longest start of such characters, and the rest.
fn split(text: &str, inside: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !inside(c)).unwrap_or(text.len()))
}

/// [`parse`], for values of flags.
///
/// # Errors
/// What is wrong with it.
pub fn flag(text: &str) -> Result<Duration, String> {
    parse(text).ok_or_else(|| format!("{text:?} is no duration such as 1h30m, 90s or 500ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, millis) in [
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1500),
            ("1m0s", 60_000),
            ("0", 0),
            (".5s", 500),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "5", "m", "5x", "-5m", "soon", "1m 30s", "1e300h"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert!(flag("60").unwrap_err().contains("\"60\""));
    }
}
