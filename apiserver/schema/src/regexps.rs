//! Regular expressions as Go's `regexp` has them: what is wrong with one in its words, and one that runs here.
//!
//! They run with another library, which reads some of them otherwise, so they are written anew for it. Go's classes are
//! of ASCII, `[` stands for itself in brackets, `\Q…\E` quotes, and a name may stand twice.
//!
//! Source: the syntax and the error texts in the documentation of Go's `regexp/syntax`.

use std::collections::HashSet;
use std::fmt::Write as _;

use regex::{Regex, RegexBuilder};

/// Most repetitions that `{n,m}` may ask for.
const REPETITIONS: u32 = 1000;
/// How deep groups may stand in groups.
const NESTING: usize = 1000;
/// Longest `{n,m}`, and longest name of a class, that is looked for.
const LONGEST: usize = 64;
/// Names of character classes inside of brackets.
const CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];
/// Classes that a backslash and a letter stand for; the capital letter stands for all else.
const SHORTHANDS: [(char, &str); 3] = [('d', "0-9"), ('s', r"\t\n\f\r "), ('w', "0-9A-Za-z_")];

/// The first fault, without `error parsing regexp: `.
pub(crate) fn fault(pattern: &str) -> Option<String> {
    Scan::new(pattern).run().err().map(|(what, text)| format!("{what}: `{text}`"))
}

/// The expression, ready to run.
///
/// # Errors
/// The first fault in Go's words, without `error parsing regexp: `, or that it is too large to run.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    compile_within(pattern, 10 << 20)
}

/// The same, with fewest bytes that are too many for it.
///
/// # Errors
/// Those of [`compile`].
pub(crate) fn compile_within(pattern: &str, largest: usize) -> Result<Regex, String> {
    let mut scan = Scan::new(pattern);
    scan.run().map_err(|(what, text)| format!("{what}: `{text}`"))?;
    let built = RegexBuilder::new(&scan.out).size_limit(largest).build();
    built.map_err(|_| format!("expression too large: `{pattern}`"))
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
    /// Names of Unicode's classes that are known to be right.
    known: HashSet<&'p str>,
    /// The expression for the library that runs it.
    out: String,
}

impl<'p> Scan<'p> {
    fn new(whole: &'p str) -> Self {
        let (known, out) = (HashSet::new(), String::with_capacity(whole.len()));
        Self { whole, at: 0, open: 0, has_operand: false, known, out }
    }

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

    /// Writes what was read since `start` as it is.
    fn copy(&mut self, start: usize) {
        self.out.push_str(&self.whole[start..self.at]);
    }

    /// Writes a character that stands for itself.
    fn literal(&mut self, c: char) {
        match c.is_ascii() && !c.is_ascii_alphanumeric() {
            true => _ = write!(self.out, r"\x{{{:x}}}", u32::from(c)), // Writing to a string cannot fail.
            false => self.out.push(c),
        }
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
                    self.literal(c);
                }
                '(' => {
                    self.group()?;
                    continue;
                }
                ')' => {
                    self.next();
                    self.open = self.open.checked_sub(1).ok_or(("unexpected )", self.whole))?;
                    self.copy(start);
                }
                '|' => {
                    self.next();
                    self.copy(start);
                    self.has_operand = false;
                    continue;
                }
                '[' => self.class()?,
                '\\' => {
                    self.escape()?;
                    continue;
                }
                _ => {
                    self.next();
                    self.copy(start);
                }
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
        self.copy(start);
        Ok(start)
    }

    /// `{n}`, `{n,}` or `{n,m}`; anything else stands for itself.
    fn bounds(&mut self) -> Option<[Option<u32>; 2]> {
        let inner = self.until("{", "}")?;
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

    /// What stands between two texts here, if it is short; nothing is read.
    fn until(&self, begin: &str, end: &str) -> Option<&'p str> {
        let rest = self.rest().strip_prefix(begin)?;
        let near = rest.char_indices().map(|(at, _)| at).take_while(|at| *at <= LONGEST).last()?;
        let at = rest.as_bytes()[..rest.len().min(near + end.len())]
            .windows(end.len())
            .position(|window| window == end.as_bytes())?;
        rest.get(..at)
    }

    fn open_group(&mut self) -> Result<(), Fault<'p>> {
        self.open += 1;
        self.has_operand = false;
        match self.open > NESTING {
            true => Err(("expression nests too deeply", self.whole)),
            false => Ok(()),
        }
    }

    fn group(&mut self) -> Result<(), Fault<'p>> {
        let start = self.at;
        self.next();
        if !self.take("?") {
            self.copy(start);
            return self.open_group();
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
            self.out.push('(');
            return self.open_group();
        }
        let (mut negated, mut flagged) = (false, false);
        while let Some(c) = self.next() {
            match c {
                'i' | 'm' | 's' | 'U' => flagged = true,
                '-' if !negated => (negated, flagged) = (true, false),
                ':' | ')' if !negated || flagged => {
                    // `(?)` and `(?:` set nothing.
                    if c == ':' || flagged {
                        self.copy(start);
                    }
                    return if c == ':' { self.open_group() } else { Ok(()) };
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
        let start = self.at;
        if self.take(r"\Q") {
            let rest = self.rest();
            let (quoted, length) = match rest.find(r"\E") {
                Some(end) => (&rest[..end], end + 2),
                None => (rest, rest.len()),
            };
            self.at += length;
            quoted.chars().for_each(|c| self.literal(c));
            self.has_operand |= !quoted.is_empty();
            return Ok(());
        }
        if self.take(r"\b") {
            self.out.push_str(r"(?-u:\b)");
        } else if [r"\A", r"\B", r"\z"].iter().any(|text| self.take(text)) {
            self.copy(start);
        } else if !self.shorthand(false)? {
            let c = self.letter()?;
            self.literal(c);
        }
        self.has_operand = true;
        Ok(())
    }

    /// A class with a name of one letter, or of Unicode.
    fn shorthand(&mut self, in_brackets: bool) -> Result<bool, Fault<'p>> {
        for (letter, class) in SHORTHANDS {
            for (letter, not) in [(letter, ""), (letter.to_ascii_uppercase(), "^")] {
                if !self.take(&format!("\\{letter}")) {
                    continue;
                }
                match in_brackets && not.is_empty() {
                    true => self.out.push_str(class),
                    false => _ = write!(self.out, "[{not}{class}]"), // As above.
                }
                return Ok(true);
            }
        }
        self.unicode()
    }

    /// `\pL`, `\p{Greek}` and their opposites.
    fn unicode(&mut self) -> Result<bool, Fault<'p>> {
        let start = self.at;
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
        if !self.known.contains(text) {
            if !named || text.len() > LONGEST || Regex::new(text).is_err() {
                return Err(("invalid character class range", text));
            }
            self.known.insert(text);
        }
        self.copy(start);
        Ok(true)
    }

    /// A character that a backslash stands before.
    fn letter(&mut self) -> Result<char, Fault<'p>> {
        let start = self.at;
        self.next();
        let Some(c) = self.next() else {
            return Err(("trailing backslash at end of expression", ""));
        };
        let octal = |c: Option<char>| c.and_then(|c| c.to_digit(8));
        let found = match c {
            '1'..='7' if octal(self.peek()).is_none() => None,
            '0'..='7' => {
                let mut code = octal(Some(c)).unwrap_or_default();
                for _ in 0..2 {
                    let Some(digit) = octal(self.peek()) else { break };
                    self.next();
                    code = code * 8 + digit;
                }
                char::from_u32(code)
            }
            'a' => Some('\x07'),
            'f' => Some('\x0c'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\x0b'),
            'x' => self.hex(),
            c => (c.is_ascii() && !c.is_ascii_alphanumeric()).then_some(c),
        };
        found.ok_or(("invalid escape sequence", &self.whole[start..self.at]))
    }

    fn hex(&mut self) -> Option<char> {
        let braced = self.take("{");
        let (mut code, mut n_digits) = (0_u32, 0);
        while let Some(c) = self.next() {
            match c.to_digit(16) {
                None if c == '}' && braced && n_digits > 0 => return char::from_u32(code),
                None => return None,
                Some(digit) => {
                    code = code.checked_mul(16)?.checked_add(digit)?;
                    n_digits += 1;
                }
            }
            if !braced && n_digits == 2 {
                return char::from_u32(code);
            }
        }
        None
    }

    /// What is in brackets.
    fn class(&mut self) -> Result<(), Fault<'p>> {
        let start = self.at;
        self.next();
        self.take("^");
        self.copy(start);
        let mut is_first = true;
        while is_first || self.peek() != Some(']') {
            is_first = false;
            if self.named()? || self.shorthand(true)? {
                continue;
            }
            let from = self.at;
            let low = self.member(start)?;
            self.literal(low);
            let rest = self.rest();
            if rest.len() >= 2 && rest.starts_with('-') && !rest[1..].starts_with(']') {
                self.next();
                let high = self.member(start)?;
                if high < low {
                    return Err(("invalid character class range", &self.whole[from..self.at]));
                }
                self.out.push('-');
                self.literal(high);
            }
        }
        self.next();
        self.out.push(']');
        Ok(())
    }

    /// `[:name:]`.
    fn named(&mut self) -> Result<bool, Fault<'p>> {
        let Some(name) = self.until("[:", ":]") else { return Ok(false) };
        let start = self.at;
        self.at += name.len() + 4;
        if !CLASSES.contains(&name.strip_prefix('^').unwrap_or(name)) {
            return Err(("invalid character class range", &self.whole[start..self.at]));
        }
        self.copy(start);
        Ok(true)
    }

    /// One character of the brackets that opened at `start`.
    fn member(&mut self, start: usize) -> Result<char, Fault<'p>> {
        match self.peek() {
            None => Err(("missing closing ]", &self.whole[start..])),
            Some('\\') => self.letter(),
            Some(c) => {
                self.next();
                Ok(c)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{compile, fault};

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

    #[test]
    fn what_runs_is_what_go_means() {
        let check = |pattern: &str, matches: &[&str], others: &[&str]| {
            let regex = compile(pattern).unwrap();
            assert!(matches.iter().all(|text| regex.is_match(text)), "{pattern}");
            assert!(!others.iter().any(|text| regex.is_match(text)), "{pattern}");
        };
        check(r"^[^[]+$", &["a&]"], &["a[b"]);
        check(r"^[a&&b]$", &["a", "b", "&"], &["c", ""]);
        check(r"^a{,3}$", &["a{,3}"], &["a", "aaa"]);
        check(r"^\Qa.b\E*$", &["a.", "a.bb"], &["axb"]);
        check(r"^\Q\E\12\x41$", &["\nA"], &["A"]);
        check(r"^[\t-\r \x20-Z]+$", &["\t\n A"], &["a"]);
        check(r"^(?P<n>a)(?P<n>b)$", &["ab"], &["a"]);
        check(r"^\d\w[\d\W]$", &["1a2", "1a-"], &["1ab", "\u{661}a2"]);
        check(r"^[]a-]+$", &["]-a"], &["b"]);
        check(r"^(?i)k[[:^alpha:]]$", &["K1"], &["Kk"]);
    }

    #[test]
    fn long_expressions_are_read_once() {
        let of = |part: &str| part.repeat(1 << 16);
        assert_eq!(fault(&of("{")), None);
        assert!(fault(&format!("[{}", of("[:"))).unwrap().starts_with("missing closing ]"));
        assert_eq!(fault(&of(r"\pL")), None);
        assert!(fault(&of("(")).unwrap().starts_with("expression nests too deeply"));
        assert!(compile("((((a{99}){99}){99}){99})").unwrap_err().starts_with("expression too"));
    }
}
