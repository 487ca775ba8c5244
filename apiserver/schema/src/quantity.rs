//! Resource quantities in the form that upstream writes them.
//!
//! Source: kubernetes.io, "Quantity" in the API reference: no fraction, the exponent as large
//! as possible, binary and decimal suffixes kept apart; `1500m` stays, `1.5` becomes `1500m`,
//! `1000m` becomes `1`.

const SYNTAX: &str = "quantities must match the regular expression \
                      '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
/// Largest power of ten that is told from a larger one.
const LARGEST: i32 = 300;
const NO_SUFFIX: &str = "unable to parse quantity's suffix";

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
    let written = Written::read(text)?;
    Ok(if written.stays() { text.to_owned() } else { write(written.quantity()) })
}

/// What an entry of a resource list becomes, if it has less than thousandths, which are rounded up.
pub(crate) fn to_thousandths(text: &str) -> Option<String> {
    let mut quantity = parse(text).ok().filter(|quantity| quantity.exponent < -3)?;
    while quantity.exponent < -3 {
        let rest = quantity.mantissa % 10;
        quantity.mantissa = quantity.mantissa / 10 + rest.signum();
        quantity.exponent += 1;
    }
    Some(write(quantity))
}

/// Parses a quantity; fractions below a nano-unit are rounded up, as upstream does.
///
/// # Errors
/// Upstream's text for what is not a quantity.
pub fn parse(text: &str) -> Result<Quantity, String> {
    Written::read(text).map(|written| written.quantity())
}

/// A quantity as it is written.
struct Written<'a> {
    is_negative: bool,
    /// Digits before the point, without leading zeros.
    whole: &'a str,
    /// Digits behind it.
    fraction: &'a str,
    suffix: Suffix,
}

impl<'a> Written<'a> {
    fn read(text: &'a str) -> Result<Self, String> {
        let digits =
            |text: &'a str| text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
        if text.is_empty() {
            return Err(SYNTAX.to_owned());
        }
        let (whole, rest) = digits(text.strip_prefix(['+', '-']).unwrap_or(text));
        let (fraction, suffix) = rest.strip_prefix('.').map_or(("", rest), digits);
        let fault = if is_like_suffix(suffix) { NO_SUFFIX } else { SYNTAX };
        Ok(Self {
            is_negative: text.starts_with('-'),
            whole: whole.trim_start_matches('0'),
            fraction,
            suffix: Suffix::read(suffix).ok_or_else(|| fault.to_owned())?,
        })
    }

    fn quantity(&self) -> Quantity {
        let Suffix { family, binary, power } = self.suffix;
        let kept = &self.fraction[..self.fraction.len().min(15)];
        let exponent = -count(kept);
        // More digits than an i128 holds are far beyond any quantity: upstream caps them too.
        let add = |sum: i128, digit: u8| sum.checked_mul(10)?.checked_add((digit - b'0').into());
        let mantissa = self.whole.bytes().chain(kept.bytes()).try_fold(0, add);
        let mantissa = mantissa.unwrap_or(i128::MAX / (1 << 62));
        let mantissa = if self.is_negative { -mantissa } else { mantissa };
        let mut mantissa = mantissa.checked_mul(1_i128 << binary).unwrap_or(i128::MAX / 2);
        if family == Family::Binary {
            mantissa = mantissa.min(most(exponent));
        }
        rounded(mantissa, exponent + power, family)
    }

    /// Whether upstream keeps the text: a number that it holds as 64 bits and a power of a thousand, and that a larger
    /// suffix would not make shorter. So `1.125`, `+5` and `2E0` stay, and `0.5`, `1.5` and `1000` do not.
    ///
    /// As recorded.
    fn stays(&self) -> bool {
        let Suffix { family, binary, power } = self.suffix;
        let n_digits = count(self.whole).saturating_add(count(self.fraction));
        let fits = match family {
            Family::Binary => {
                let even = self.whole.parse::<u64>().is_ok_and(|n| n % 512 == 0);
                self.fraction.is_empty() && !even && n_digits + i32::from(binary * 3 / 10) < 15
            }
            _ => {
                let scale = power - count(self.fraction);
                n_digits <= 18 && scale >= -9 && scale % 3 == 0
            }
        };
        let digits = self.whole.bytes().chain(self.fraction.bytes());
        let n_zeros = digits.rev().take_while(|digit| *digit == b'0').count();
        fits && !self.whole.is_empty() && n_zeros < 3
    }
}

fn count(digits: &str) -> i32 {
    i32::try_from(digits.len()).unwrap_or(i32::MAX)
}

/// The most that a quantity with a binary suffix may be, in units of `10^exponent`.
fn most(exponent: i32) -> i128 {
    let units = 10_i128.checked_pow(exponent.unsigned_abs()).unwrap_or(i128::MAX);
    i128::from(i64::MAX).saturating_mul(units)
}

/// What a suffix says.
#[derive(Clone, Copy)]
struct Suffix {
    family: Family,
    /// Power of two.
    binary: u8,
    /// Power of ten.
    power: i32,
}

impl Suffix {
    fn read(suffix: &str) -> Option<Self> {
        let (family, binary, power) = match suffix {
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
                (Family::Exponent, 0, power.clamp(-LARGEST, LARGEST))
            }
        };
        Some(Self { family, binary, power })
    }
}

/// Whether it has the form of a suffix: letters of suffixes, then perhaps a signed number.
fn is_like_suffix(text: &str) -> bool {
    let number = text.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    number.strip_prefix(['+', '-']).unwrap_or(number).bytes().all(|b| b.is_ascii_digit())
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
    // There is no suffix beyond E.
    let most = if family == Family::Exponent { i32::MAX } else { 18 };
    while mantissa % 10 == 0 && exponent < most {
        mantissa /= 10;
        exponent += 1;
    }
    while exponent % 3 != 0 || exponent > most {
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
            ("1.125", "1.125"),
            ("1.1255", "1125500u"),
            ("1.000", "1"),
            ("12.345m", "12.345m"),
            ("1.125n", "2n"),
            ("+5", "+5"),
            ("01", "01"),
            ("5.", "5."),
            ("1E+03", "1E+03"),
            ("2.0E0", "2"),
            ("0e0", "0"),
            ("m", "0"),
            ("1e2", "100"),
            ("1e100", "10e99"),
            ("1e+150", "1e+150"),
            ("+5Ki", "+5Ki"),
            ("512.Ki", "512Ki"),
            ("1026.Ki", "1026.Ki"),
            ("16Ei", "9223372036854775807"),
            ("20E", "20E"),
            ("9223372036854775808", "9223372036854775808"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn resource_lists_round_up_to_thousandths() {
        assert_eq!(to_thousandths("100u").as_deref(), Some("1m"));
        assert_eq!(to_thousandths("1500u").as_deref(), Some("2m"));
        assert_eq!(to_thousandths("250m"), None);
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "x", "1Kx", "1.2.3", "1 Gi", "1_0"] {
            assert_eq!(canonical(text), Err(SYNTAX.to_owned()), "{text}");
        }
        for text in ["--1", "1e", "1-", "5P5", "1K", "n9", "10Gi-"] {
            assert_eq!(canonical(text), Err(NO_SUFFIX.to_owned()), "{text}");
        }
    }
}
