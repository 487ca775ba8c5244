//! Resource quantities in the form that upstream writes them.
//!
//! Source: kubernetes.io, "Quantity" in the API reference: no fraction, the exponent as large
//! as possible, binary and decimal suffixes kept apart; `1500m` stays, `1.5` becomes `1500m`,
//! `1000m` becomes `1`.

const SYNTAX: &str = "quantities must match the regular expression \
                      '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// A parsed quantity: `mantissa × 10^exponent`, of the suffix family it was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    /// Signed, in units of `10^exponent`.
    pub mantissa: i128,
    /// Power of ten; at least -9 after rounding up.
    pub exponent: i32,
    /// Suffixes to write it with.
    pub family: Family,
}

impl Quantity {
    /// So many thousand-millionths.
    pub fn from_nano(nano: i128, family: Family) -> Self {
        rounded(nano, -9, family)
    }

    /// In thousand-millionths, for comparing and adding; what is too large for that stays at the largest number.
    pub fn nano(self) -> i128 {
        let power = u32::try_from(self.exponent + 9).unwrap_or_default();
        self.mantissa.saturating_mul(10_i128.checked_pow(power).unwrap_or(i128::MAX))
    }
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&write(*self))
    }
}

/// Which suffixes a quantity was written with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// `m`, `k`, `M` ….
    #[default]
    Decimal,
    /// `Ki`, `Mi` ….
    Binary,
    /// `e3`, `E6` ….
    Exponent,
}

/// The canonical text of a quantity.
///
/// # Errors
/// Upstream's text for what is not a quantity.
pub fn canonical(text: &str) -> Result<String, String> {
    let quantity = parse(text)?;
    // As recorded: `2E0` stays what it is, although `1e-1` becomes `100e-3`.
    let power = text.split(['e', 'E']).nth(1);
    if quantity.family == Family::Exponent && power.is_some_and(|p| p.parse() == Ok(0)) {
        return Ok(text.to_owned());
    }
    Ok(write(quantity))
}

/// The canonical text of an entry of a resource list: what is below a thousandth is rounded up.
pub(crate) fn canonical_milli(text: &str) -> Result<String, String> {
    let mut quantity = parse(text)?;
    if quantity.exponent >= -3 {
        return canonical(text);
    }
    while quantity.exponent < -3 {
        let rest = quantity.mantissa % 10;
        quantity.mantissa = quantity.mantissa / 10 + rest.signum();
        quantity.exponent += 1;
    }
    Ok(write(quantity))
}

/// Parses a quantity; fractions below a nano-unit are rounded up, as upstream does.
///
/// # Errors
/// Upstream's text for what is not a quantity.
pub fn parse(text: &str) -> Result<Quantity, String> {
    let syntax = || SYNTAX.to_owned();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (family, binary, power) = suffix_of(suffix).ok_or_else(syntax)?;
    let (mut mantissa, mut exponent) = decimal(number).ok_or_else(syntax)?;
    mantissa = mantissa.checked_mul(1_i128 << binary).unwrap_or(i128::MAX / 2);
    exponent += power;
    Ok(rounded(mantissa, exponent, family))
}

/// `12.5` as 125 and -1.
fn decimal(number: &str) -> Option<(i128, i32)> {
    let (sign, digits) = match number.as_bytes().first()? {
        b'-' => (-1, &number[1..]),
        b'+' => (1, &number[1..]),
        _ => (1, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let kept = &fraction[..fraction.len().min(15)];
    // More digits than an i128 holds are far beyond any quantity: upstream caps them too.
    let add = |sum: i128, digit: u8| sum.checked_mul(10)?.checked_add((digit - b'0').into());
    let mantissa = whole.bytes().chain(kept.bytes()).try_fold(0, add);
    let mantissa = mantissa.unwrap_or(i128::MAX / (1 << 62));
    Some((sign * mantissa, -i32::try_from(kept.len()).ok()?))
}

/// Family, binary power and decimal power of a suffix.
fn suffix_of(suffix: &str) -> Option<(Family, u32, i32)> {
    let found = match suffix {
        "n" => (Family::Decimal, 0, -9),
        "u" => (Family::Decimal, 0, -6),
        "m" => (Family::Decimal, 0, -3),
        "" => (Family::Decimal, 0, 0),
        "k" => (Family::Decimal, 0, 3),
        "M" => (Family::Decimal, 0, 6),
        "G" => (Family::Decimal, 0, 9),
        "T" => (Family::Decimal, 0, 12),
        "P" => (Family::Decimal, 0, 15),
        "E" => (Family::Decimal, 0, 18),
        "Ki" => (Family::Binary, 10, 0),
        "Mi" => (Family::Binary, 20, 0),
        "Gi" => (Family::Binary, 30, 0),
        "Ti" => (Family::Binary, 40, 0),
        "Pi" => (Family::Binary, 50, 0),
        "Ei" => (Family::Binary, 60, 0),
        other => {
            let exponent = other.strip_prefix(['e', 'E'])?;
            let power: i32 = exponent.parse().ok()?;
            (Family::Exponent, 0, power.clamp(-30, 30))
        }
    };
    Some(found)
}

fn rounded(mut mantissa: i128, mut exponent: i32, family: Family) -> Quantity {
    while exponent < -9 {
        let rest = mantissa % 10;
        mantissa /= 10;
        if rest != 0 {
            mantissa += rest.signum();
        }
        exponent += 1;
    }
    while mantissa != 0 && mantissa % 10 == 0 && exponent < 0 {
        mantissa /= 10;
        exponent += 1;
    }
    Quantity { mantissa, exponent, family }
}

fn write(quantity: Quantity) -> String {
    let Quantity { mut mantissa, mut exponent, family } = quantity;
    if mantissa == 0 {
        return "0".to_owned();
    }
    if family == Family::Binary
        && exponent >= 0
        && let Some(text) = write_binary(mantissa, exponent)
    {
        return text;
    }
    while mantissa % 10 == 0 && exponent < 18 {
        mantissa /= 10;
        exponent += 1;
    }
    while exponent % 3 != 0 || exponent > 18 {
        mantissa = mantissa.saturating_mul(10);
        exponent -= 1;
    }
    let suffix = match (family, exponent) {
        (_, 0) => String::new(),
        (Family::Exponent, n) => format!("e{n}"),
        (_, -9) => "n".to_owned(),
        (_, -6) => "u".to_owned(),
        (_, -3) => "m".to_owned(),
        (_, 3) => "k".to_owned(),
        (_, 6) => "M".to_owned(),
        (_, 9) => "G".to_owned(),
        (_, 12) => "T".to_owned(),
        (_, 15) => "P".to_owned(),
        (_, 18) => "E".to_owned(),
        (_, n) => format!("e{n}"),
    };
    format!("{mantissa}{suffix}")
}

/// Binary suffixes say whole numbers from 1024 on; smaller ones have no suffix.
fn write_binary(mantissa: i128, exponent: i32) -> Option<String> {
    let mut value = mantissa;
    for _ in 0..exponent {
        value = value.checked_mul(10)?;
    }
    let mut power = 0;
    while value % 1024 == 0 && power < 6 {
        value /= 1024;
        power += 1;
    }
    let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power];
    Some(format!("{value}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_canonical() {
        for (text, expected) in [
            ("1", "1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("100m", "100m"),
            ("1Gi", "1Gi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1e3", "1e3"),
            ("2E0", "2E0"),
            ("1e-1", "100e-3"),
            ("0.1Gi", "107374182400m"),
            ("0.5Pi", "512Ti"),
            ("1.25", "1250m"),
            ("12e6", "12e6"),
            ("0", "0"),
            ("-5", "-5"),
            ("0.1n", "1n"),
            ("64Ki", "64Ki"),
            ("1000Ki", "1000Ki"),
            ("128974848", "128974848"),
            (".5", "500m"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn resource_lists_round_up_to_thousandths() {
        assert_eq!(canonical_milli("100u").as_deref(), Ok("1m"));
        assert_eq!(canonical_milli("1500u").as_deref(), Ok("2m"));
        assert_eq!(canonical_milli("250m").as_deref(), Ok("250m"));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "x", "1Kx", "1.2.3", "--1", "1 Gi", "1e"] {
            assert_eq!(canonical(text), Err(SYNTAX.to_owned()), "{text}");
        }
    }
}
