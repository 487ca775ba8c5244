//! Formats with their values in a list beside them, which can be compared.
//!
//! Source: the validator in `cel-go/ext/formatting.go`.

use super::{Checker, Expr, Type, Wrong};

/// A literal format, the list's entries with their types, and the call.
pub(super) struct Format<'a> {
    pub(super) template: &'a str,
    pub(super) entries: Vec<(&'a Expr, Type)>,
    pub(super) part: &'a Expr,
}

impl<'a> Checker<'a, '_> {
    /// Notes what is wrong with the formats.
    pub(super) fn formats(&mut self) {
        for format in std::mem::take(&mut self.formats) {
            let (part, text) = match format.fault() {
                Ok(()) => continue,
                Err((at, text)) => (at.unwrap_or(format.part), text),
            };
            self.wrong.push(Wrong { text, part, field: None });
        }
    }
}

/// What is wrong, and with which entry if it is one's.
type Fault<'a> = (Option<&'a Expr>, String);

impl<'a> Format<'a> {
    fn fault(&self) -> Result<(), Fault<'a>> {
        let whole = |text: String| (None, text);
        let (mut rest, mut used) = (self.template, 0);
        while let Some((_, clause)) = rest.split_once('%') {
            if let Some(after) = clause.strip_prefix('%') {
                rest = after;
                continue;
            }
            if clause.is_empty() {
                return Err(whole("unexpected end of string".to_owned()));
            }
            let Some((entry, of)) = self.entries.get(used) else {
                return Err(whole(format!("index {used} out of range")));
            };
            used += 1;
            let (verb, after) = verb(clause)
                .map_err(|fault| whole(format!("could not parse formatting clause: {fault}")))?;
            let takes = takes(verb, of).map_err(|what| {
                (Some(*entry), format!("error during formatting: {what}, was given {}", named(of)))
            });
            takes?;
            rest = after;
        }
        let given = self.entries.len();
        if given <= used {
            return Ok(());
        }
        Err(whole(format!(
            "too many arguments supplied to string.format (expected {used}, got {given})"
        )))
    }
}

/// The verb that a clause ends with, and what follows it.
fn verb(clause: &str) -> Result<(char, &str), String> {
    let verb_on = match clause.strip_prefix('.') {
        Some(digits) => {
            precise(digits).map_err(|f| format!("error while parsing precision: {f}"))?
        }
        None => clause,
    };
    match verb_on.chars().next().unwrap_or_default() {
        verb @ ('s' | 'd' | 'f' | 'e' | 'b' | 'x' | 'X' | 'o') => Ok((verb, &verb_on[1..])),
        other => Err(format!("unrecognized formatting clause \"{other}\"")),
    }
}

/// What follows the digits of a precision.
fn precise(digits: &str) -> Result<&str, String> {
    let rest = digits.trim_start_matches(|c: char| c.is_ascii_digit());
    if rest.is_empty() {
        return Err("could not find end of precision specifier".to_owned());
    }
    let number = &digits[..digits.len() - rest.len()];
    let wrong = match number.parse::<i64>() {
        Ok(_) => return Ok(rest),
        Err(_) if number.is_empty() => "invalid syntax",
        Err(_) => "value out of range",
    };
    Err(format!(
        "error while converting precision to integer: strconv.Atoi: parsing {number:?}: {wrong}"
    ))
}

/// Whether a verb shows values of a type; what it is for if it does not.
fn takes(verb: char, of: &Type) -> Result<(), &'static str> {
    let is_whole = matches!(of, Type::Int | Type::Uint);
    let is_fraction = matches!(of, Type::Double | Type::Text(_));
    let (fits, otherwise) = match verb {
        'd' => (is_whole, "decimal clause can only be used on integers"),
        'f' => (is_fraction, "fixed-point clause can only be used on doubles"),
        'e' => (is_fraction, "scientific clause can only be used on doubles"),
        'b' => (
            is_whole || matches!(of, Type::Bool),
            "only integers and bools can be formatted as binary",
        ),
        'x' | 'X' => (
            is_whole || matches!(of, Type::Text(_) | Type::Bytes(_)),
            "only integers, byte buffers, and strings can be formatted as hex",
        ),
        'o' => (is_whole, "octal clause can only be used on integers"),
        _ => (
            !matches!(of, Type::Object(..) | Type::Optional(_) | Type::Known(_) | Type::Made(_)),
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, \
             types, durations, and timestamps",
        ),
    };
    if fits || matches!(of, Type::Dyn | Type::Free) { Ok(()) } else { Err(otherwise) }
}

/// The name of a type without what is in it.
fn named(of: &Type) -> String {
    let shown = of.to_string();
    shown.split('(').next().unwrap_or_default().to_owned()
}
