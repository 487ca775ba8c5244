//! Functions that the crates lack, or answer otherwise than cel-go at their edges, and what failing ones say.
//!
//! Source: `cel-go/common/types`, `cel-go/ext/{strings,lists}.go` and upstream's `apiserver/pkg/cel/library`.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use kube_cel::cel::Value;

use super::eval::{DURATION, Fault, TIMESTAMP, failed, some};
use super::functions::library;

type Answer = Result<Value, Fault>;

/// The answer of a function that is known here.
pub(super) fn answer(function: &str, target: Option<&Value>, args: &[Value]) -> Option<Answer> {
    Some(match (function, target, args) {
        ("timestamp", None, [Value::Int(seconds)]) => timestamp(*seconds),
        ("duration", None, [Value::Int(nanoseconds)]) => {
            library("duration", None, vec![text(&format!("{nanoseconds}ns"))])
        }
        ("duration", None, [Value::String(_)]) => bounded(library(function, None, args.to_vec())),
        ("string", None, [Value::Bytes(bytes)]) => match std::str::from_utf8(bytes) {
            Ok(valid) => Ok(text(valid)),
            Err(_) => failed("invalid UTF-8 in bytes, cannot convert to string"),
        },
        ("format.named", None, [_]) => match library(function, None, args.to_vec()) {
            Ok(Value::Null) | Err(Fault::Failed(_)) => Ok(some(None)),
            found => found.map(|format| some(Some(format))),
        },
        (_, Some(Value::Timestamp(moment)), [Value::String(zone)]) => {
            in_zone(function, moment.timestamp(), moment.timestamp_subsec_nanos(), zone)?
        }
        (_, Some(Value::String(whole)), args) => of_text(function, whole, args)?,
        ("slice", Some(Value::List(list)), [Value::Int(start), Value::Int(end)]) => {
            slice(list, *start, *end)
        }
        _ => return None,
    })
}

/// What a function that failed says; none if the crates say the same.
pub(super) fn fault(function: &str, first: Option<&Value>) -> Option<String> {
    let first = match first {
        Some(Value::String(text)) => text.as_str(),
        _ => "",
    };
    Some(match function {
        "quantity" => r"quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            .to_owned(),
        "semver" if first.split('.').count() < 3 => "No Major.Minor.Patch elements found".to_owned(),
        "ip" | "isCanonical" | "ip.isCanonical" => format!(
            "IP Address {first:?} parse error during conversion from string: ParseAddr({first:?}): unable to parse IP"
        ),
        "cidr" | "containsCIDR" => {
            let what = "network address parse error during conversion from string: ";
            format!("{what}{what}netip.ParsePrefix({first:?}): no '/'")
        }
        "containsIP" => "no such overload".to_owned(),
        "timestamp" => converted(TIMESTAMP),
        "duration" => converted(DURATION),
        "url" => format!(
            "URL parse error during conversion from string: parse {first:?}: invalid URI for request"
        ),
        "asInteger" => "cannot convert value to integer".to_owned(),
        "min" | "max" => format!("{function} called on empty list"),
        _ => return None,
    })
}

fn converted(to: &str) -> String {
    format!("type conversion error from 'string' to '{to}'")
}

fn text(value: &str) -> Value {
    Value::String(Arc::new(value.to_owned()))
}

fn timestamp(seconds: i64) -> Answer {
    match Timestamp::from_second(seconds) {
        Ok(moment) => library("timestamp", None, vec![text(&moment.to_string())]),
        Err(_) => failed("range error converting int to google.protobuf.Timestamp"),
    }
}

/// Durations have nanoseconds, in 64 bits; the crates take the longest for all that are longer.
fn bounded(found: Answer) -> Answer {
    let is_bounded = |n: i64| n > i64::MIN && n < i64::MAX;
    match found {
        Ok(Value::Duration(duration)) if !duration.num_nanoseconds().is_some_and(is_bounded) => {
            failed(converted(DURATION))
        }
        found => found,
    }
}

/// A part of a moment in a time zone, by its name or its distance from UTC.
fn in_zone(function: &str, seconds: i64, nanoseconds: u32, zone: &str) -> Option<Answer> {
    let Some(zone) = self::zone(zone) else {
        return Some(failed(format!("unknown time zone {zone}")));
    };
    let nanoseconds = i32::try_from(nanoseconds).ok()?;
    let moment = Timestamp::new(seconds, nanoseconds).ok()?.to_zoned(zone).datetime();
    let number = match function {
        "getFullYear" => moment.year().into(),
        "getMonth" => i64::from(moment.month()) - 1,
        "getDayOfYear" => i64::from(moment.day_of_year()) - 1,
        "getDayOfMonth" => i64::from(moment.day()) - 1,
        "getDate" => moment.day().into(),
        "getDayOfWeek" => moment.weekday().to_sunday_zero_offset().into(),
        "getHours" => moment.hour().into(),
        "getMinutes" => moment.minute().into(),
        "getSeconds" => moment.second().into(),
        "getMilliseconds" => moment.millisecond().into(),
        _ => return None,
    };
    Some(Ok(Value::Int(number)))
}

fn zone(name: &str) -> Option<TimeZone> {
    let Some((hours, minutes)) = name.split_once(':') else {
        return match name {
            "" | "UTC" => Some(TimeZone::UTC),
            name => TimeZone::get(name).ok(),
        };
    };
    let sign = if hours.starts_with('-') { -1 } else { 1 };
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let seconds = hours * 3600 + sign * minutes * 60;
    Offset::from_seconds(seconds).ok().map(TimeZone::fixed)
}

fn of_text(function: &str, whole: &str, args: &[Value]) -> Option<Answer> {
    Some(match (function, args) {
        ("charAt", [Value::Int(at)]) => char_at(whole, *at),
        ("substring", [Value::Int(start)]) => substring(whole, *start, None),
        ("substring", [Value::Int(start), Value::Int(end)]) => substring(whole, *start, Some(*end)),
        ("replace", [Value::String(old), Value::String(new)]) => {
            Ok(text(&whole.replace(old.as_str(), new)))
        }
        ("replace", [Value::String(old), Value::String(new), Value::Int(most)]) => {
            let replaced = match usize::try_from(*most) {
                Ok(most) => whole.replacen(old.as_str(), new, most),
                Err(_) => whole.replace(old.as_str(), new),
            };
            Ok(text(&replaced))
        }
        ("split", [Value::String(by)]) => Ok(split(whole, by, None)),
        ("split", [Value::String(by), Value::Int(most)]) => {
            Ok(split(whole, by, usize::try_from(*most).ok()))
        }
        _ => return None,
    })
}

/// The text between two numbers of letters.
fn substring(whole: &str, start: i64, end: Option<i64>) -> Answer {
    if let Some(end) = end.filter(|end| *end < start) {
        return failed(format!("invalid substring range. start: {start}, end: {end}"));
    }
    let count = whole.chars().count();
    let place = |at: i64| match usize::try_from(at).ok().filter(|at| *at <= count) {
        Some(place) => Ok(place),
        None => failed(format!("index out of range: {at}")),
    };
    let first = place(start)?;
    let last = end.map_or(Ok(count), place)?;
    let part: String = whole.chars().skip(first).take(last - first).collect();
    Ok(text(&part))
}

/// The letter at a place; at the end there is none.
fn char_at(whole: &str, at: i64) -> Answer {
    match usize::try_from(at).ok().filter(|at| *at <= whole.chars().count()) {
        Some(place) => {
            let letter: String = whole.chars().skip(place).take(1).collect();
            Ok(text(&letter))
        }
        None => failed(format!("index out of range: {at}")),
    }
}

/// The parts of a text, its letters if nothing is between them; the last part is all the rest.
fn split(whole: &str, by: &str, most: Option<usize>) -> Value {
    let most = most.unwrap_or(usize::MAX);
    let parts: Vec<Value> = match by {
        _ if most == 0 => Vec::new(),
        "" => {
            let cut = whole.char_indices().map(|(at, _)| at).nth(most.saturating_sub(1));
            let (letters, rest) = whole.split_at(cut.unwrap_or(whole.len()));
            let letters = letters.chars().map(|letter| text(&letter.to_string()));
            letters.chain((!rest.is_empty()).then(|| text(rest))).collect()
        }
        by => whole.splitn(most, by).map(text).collect(),
    };
    Value::List(Arc::new(parts))
}

fn slice(list: &[Value], start: i64, end: i64) -> Answer {
    if start < 0 || end < 0 {
        return failed(format!("cannot slice({start}, {end}), negative indexes not supported"));
    }
    if start > end {
        return failed(format!(
            "cannot slice({start}, {end}), start index must be less than or equal to end index"
        ));
    }
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    match range.and_then(|(start, end)| list.get(start..end)) {
        Some(part) => Ok(Value::List(Arc::new(part.to_vec()))),
        None => failed(format!("cannot slice({start}, {end}), list is length {}", list.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Budget, PER_CALL, compile};

    #[test]
    fn edges_are_those_of_cel_go() {
        for text in [
            "timestamp(1) == timestamp('1970-01-01T00:00:01Z')",
            "duration(1500000000) == duration('1.5s')",
            "timestamp('2024-01-01T00:30:00Z').getHours('+02:15') == 2",
            "timestamp('2024-01-01T00:30:00Z').getDayOfYear('-01:00') == 364",
            "timestamp('2024-07-01T00:30:00Z').getHours('America/New_York') == 20",
            "'abc'.split('') == ['a', 'b', 'c'] && 'abc'.split('', 2) == ['a', 'bc']",
            "'a,b'.split(',', 0) == [] && 'a,b,c'.split(',', -1).size() == 3",
            "'aab'.replace('a', 'x', -1) == 'xxb' && 'aab'.replace('a', 'x', 1) == 'xab'",
            "'ab'.replace('', '-') == '-a-b-'",
            "'é1'.substring(1) == '1' && 'é1'.substring(1, 1) == '' && 'é1'.charAt(2) == ''",
            "!format.named('nope').hasValue() && format.named('uuid').hasValue()",
        ] {
            let value = compile(text).expect(text).evaluate(&[]);
            assert_eq!(value, Ok(true.into()), "{text}");
        }
    }

    #[test]
    fn what_fails_says_so_as_cel_go_does() {
        for (text, fault) in [
            ("'abc'.substring(2, 1)", "invalid substring range. start: 2, end: 1"),
            ("'abc'.charAt(4)", "index out of range: 4"),
            ("[1].slice(0, 2)", "cannot slice(0, 2), list is length 1"),
            ("duration('x')", "type conversion error from 'string' to 'google.protobuf.Duration'"),
            (
                "duration('9999999h')",
                "type conversion error from 'string' to 'google.protobuf.Duration'",
            ),
            ("semver('1')", "No Major.Minor.Patch elements found"),
            ("timestamp('2024-01-01T00:00:00Z').getHours('nope')", "unknown time zone nope"),
            ("string(b'\\xff')", "invalid UTF-8 in bytes, cannot convert to string"),
        ] {
            let nothing: Vec<(&str, super::Value)> = Vec::new();
            let run = compile(text).expect(text).run(&nothing, &mut Budget::new(PER_CALL));
            assert_eq!(run.map_err(|fault| fault.to_string()), Err(fault.to_owned()), "{text}");
        }
    }
}
