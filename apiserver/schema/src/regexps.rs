//! What is wrong with a regular expression, as Go's `regexp` says it.
//!
//! Expressions run with another library, whose words for faults differ and which takes a little more.
//!
//! Source: the syntax and the error texts in the documentation of Go's `regexp/syntax`.

use regex::Regex;

/// Most repetitions that `{n,m}` may ask for.
const REPETITIONS: u32 = 1000;
/// Names of character classes inside of brackets.
const CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];

/// The first fault, without `error parsing regexp: `.
pub(crate) fn fault(pattern: &str) -> Option<String> {
    let mut scan = Scan { whole: pattern, at: 0, open: 0, has_operand: false };
    scan.run().err().map(|(what, text)| format!("{what}: `{text}`"))
}

/// What is wrong, and the part of the expression that is.
type Fault<'p> = (&'static str, &'p str);

struct Scan<'p> {
    whole: &'p str,
    at: usize,
    /// Groups that are open.
    open: usize,
    /// Whether there is something to repeat.
    has_operand: bool,
}

impl<'p> Scan<'p> {
    fn rest(&self) -> &'p str {
        &self.whole[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    fn run(&mut self) -> Result<(), Fault<'p>> {
        let mut repeated = None;
        while let Some(c) = self.peek() {
            let start = self.at;
            let previous: Option<usize> = repeated.take();
            match c {
                '*' | '+' | '?' => {
                    self.next();
                    repeated = Some(self.repeat(start, previous)?);
                    continue;
                }
                '{' => {
                    if let Some(bounds) = self.bounds() {
                        if bounds.iter().flatten().any(|n| *n > REPETITIONS)
                            || matches!(bounds, [Some(least), Some(most)] if least > most)
                        {
                            return Err(("invalid repeat count", &self.whole[start..self.at]));
                        }
                        repeated = Some(self.repeat(start, previous)?);
                        continue;
                    }
                    self.next();
                }
                '(' => {
                    self.group()?;
                    continue;
                }
                ')' => {
                    self.next();
                    self.open = self.open.checked_sub(1).ok_or(("unexpected )", self.whole))?;
                }
                '|' => {
                    self.next();
                    self.has_operand = false;
                    continue;
                }
                '[' => self.class()?,
                '\\' => self.escape()?,
                _ => _ = self.next(),
            }
            self.has_operand = true;
        }
        if self.open > 0 { Err(("missing closing )", self.whole)) } else { Ok(()) }
    }

    /// After an operator of repetition; answers where it began.
    fn repeat(&mut self, start: usize, previous: Option<usize>) -> Result<usize, Fault<'p>> {
        let operator = &self.whole[start..self.at];
        self.take("?");
        if let Some(previous) = previous {
            return Err(("invalid nested repetition operator", &self.whole[previous..self.at]));
        }
        if !self.has_operand {
            return Err(("missing argument to repetition operator", operator));
        }
        Ok(start)
    }

    /// `{n}`, `{n,}` or `{n,m}`; anything else stands for itself.
    fn bounds(&mut self) -> Option<[Option<u32>; 2]> {
        let (inner, _) = self.rest().strip_prefix('{')?.split_once('}')?;
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| text.parse().unwrap_or(u32::MAX))
        };
        let bounds = match inner.split_once(',') {
            None => [Some(number(inner)?), None],
            Some((least, "")) => [Some(number(least)?), None],
            Some((least, most)) => [Some(number(least)?), Some(number(most)?)],
        };
        self.at += inner.len() + 2;
        Some(bounds)
    }

    fn group(&mut self) -> Result<(), Fault<'p>> {
        let start = self.at;
        self.next();
        if !self.take("?") {
            self.open += 1;
            self.has_operand = false;
            return Ok(());
        }
        if self.take("P<") || self.take("<") {
            let name = self.rest().split_once('>').map(|(name, _)| name);
            let Some(name) = name else {
                return Err(("invalid named capture", &self.whole[start..]));
            };
            self.at += name.len() + 1;
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(("invalid named capture", &self.whole[start..self.at]));
            }
            self.open += 1;
            self.has_operand = false;
            return Ok(());
        }
        let (mut negated, mut flagged) = (false, false);
        while let Some(c) = self.next() {
            match c {
                'i' | 'm' | 's' | 'U' => flagged = true,
                '-' if !negated => (negated, flagged) = (true, false),
                ':' | ')' if !negated || flagged => {
                    if c == ':' {
                        self.open += 1;
                        self.has_operand = false;
                    }
                    return Ok(());
                }
                _ => {
                    let text = &self.whole[start..self.at];
                    return Err(("invalid or unsupported Perl syntax", text));
                }
            }
        }
        Err(("missing closing )", self.whole))
    }

    /// What a backslash begins, outside of brackets.
    fn escape(&mut self) -> Result<(), Fault<'p>> {
        if self.take(r"\Q") {
            let end = self.rest().find(r"\E").map_or(self.whole.len(), |n| self.at + n + 2);
            self.at = end;
            return Ok(());
        }
        if [r"\A", r"\b", r"\B", r"\z"].iter().any(|text| self.take(text)) {
            return Ok(());
        }
        if self.shorthand()? { Ok(()) } else { self.letter() }
    }

    /// A class with a name of one letter, or of Unicode.
    fn shorthand(&mut self) -> Result<bool, Fault<'p>> {
        let start = self.at;
        if [r"\d", r"\D", r"\s", r"\S", r"\w", r"\W"].iter().any(|text| self.take(text)) {
            return Ok(true);
        }
        if !(self.take(r"\p") || self.take(r"\P")) {
            return Ok(false);
        }
        let named = match self.next() {
            Some('{') => match self.rest().find('}') {
                Some(n) => {
                    self.at += n + 1;
                    true
                }
                None => {
                    self.at = self.whole.len();
                    false
                }
            },
            other => other.is_some(),
        };
        let text = &self.whole[start..self.at];
        match named && Regex::new(text).is_ok() {
            true => Ok(true),
            false => Err(("invalid character class range", text)),
        }
    }

    /// A character that a backslash stands before.
    fn letter(&mut self) -> Result<(), Fault<'p>> {
        let start = self.at;
        self.next();
        let Some(c) = self.next() else {
            return Err(("trailing backslash at end of expression", ""));
        };
        let is_octal = |c: Option<char>| c.is_some_and(|c| ('0'..='7').contains(&c));
        let is_good = match c {
            '1'..='7' => is_octal(self.peek()),
            '0' | 'a' | 'f' | 'n' | 'r' | 't' | 'v' => true,
            'x' => self.hex(),
            c => c.is_ascii() && !c.is_ascii_alphanumeric(),
        };
        match is_good {
            true => Ok(()),
            false => Err(("invalid escape sequence", &self.whole[start..self.at])),
        }
    }

    fn hex(&mut self) -> bool {
        let braced = self.take("{");
        let mut n_digits = 0;
        while let Some(c) = self.next() {
            match c {
                '}' if braced => return n_digits > 0,
                c if c.is_ascii_hexdigit() => n_digits += 1,
                _ => return false,
            }
            if !braced && n_digits == 2 {
                return true;
            }
        }
        false
    }

    /// What is in brackets.
    fn class(&mut self) -> Result<(), Fault<'p>> {
        let start = self.at;
        self.next();
        self.take("^");
        let mut is_first = true;
        while is_first || self.peek() != Some(']') {
            is_first = false;
            if self.named()? || self.shorthand()? {
                continue;
            }
            let from = self.at;
            let low = self.member(start)?;
            let rest = self.rest();
            if rest.len() >= 2 && rest.starts_with('-') && !rest[1..].starts_with(']') {
                self.next();
                if self.member(start)? < low {
                    return Err(("invalid character class range", &self.whole[from..self.at]));
                }
            }
        }
        self.next();
        Ok(())
    }

    /// `[:name:]`.
    fn named(&mut self) -> Result<bool, Fault<'p>> {
        let Some(name) = self.rest().strip_prefix("[:").and_then(|rest| rest.split_once(":]"))
        else {
            return Ok(false);
        };
        let name = name.0;
        let start = self.at;
        self.at += name.len() + 4;
        match CLASSES.contains(&name.strip_prefix('^').unwrap_or(name)) {
            true => Ok(true),
            false => Err(("invalid character class range", &self.whole[start..self.at])),
        }
    }

    /// One character of the brackets that opened at `start`.
    fn member(&mut self, start: usize) -> Result<char, Fault<'p>> {
        let from = self.at;
        match self.peek() {
            None => Err(("missing closing ]", &self.whole[start..])),
            Some('\\') => {
                self.letter()?;
                Ok(self.whole[from + 1..].chars().next().unwrap_or_default())
            }
            Some(c) => {
                self.next();
                Ok(c)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fault;

    #[track_caller]
    fn check(pattern: &str, expected: &str) {
        assert_eq!(fault(pattern).unwrap_or_default(), expected, "{pattern}");
    }

    #[test]
    fn faults_are_told_as_recorded() {
        check("[", "missing closing ]: `[`");
        check("(?=x)", "invalid or unsupported Perl syntax: `(?=`");
        check("(?z)", "invalid or unsupported Perl syntax: `(?z`");
        check("*a", "missing argument to repetition operator: `*`");
        check("a{2,1}", "invalid repeat count: `{2,1}`");
        check("a{1001}", "invalid repeat count: `{1001}`");
        check(r"\p{Foo}", r"invalid character class range: `\p{Foo}`");
        check("(a", "missing closing ): `(a`");
        check("a)", "unexpected ): `a)`");
        check("a**", "invalid nested repetition operator: `**`");
        check(r"\8", r"invalid escape sequence: `\8`");
        check("[b-a]", "invalid character class range: `b-a`");
        check(r"\", "trailing backslash at end of expression: ``");
        check("[[:foo:]]", "invalid character class range: `[:foo:]`");
    }

    #[test]
    fn what_is_right_passes() {
        for pattern in [
            "",
            "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            r"^v\d+\.\d+(-[0-9A-Za-z.-]+)?$",
            "(?P<n>a)(?P<n>b)",
            "(?i)a{2,}?|b{,3}",
            r"[]a\]\-[:alpha:]\p{Greek}]+\x{1F600}\x41",
            r"\Qa*(\E",
        ] {
            check(pattern, "");
        }
    }
}
