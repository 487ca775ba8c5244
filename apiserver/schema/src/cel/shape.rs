//! How deep and long an expression is, read without parsing it: both are recursion, in the parser and when it runs.
//!
//! Source: the tokens of `cel-go/parser/gen/CEL.g4`.

/// Deepest nesting of brackets.
const MAX_DEPTH: usize = 48;
/// Most operators.
const MAX_OPERATORS: usize = 300;
/// Most `--` and `!!` inside of brackets: the parser takes twice as long for each level that has one.
const MAX_DOUBLED: usize = 8;

/// Whether an expression nests no deeper than the parser can go.
pub(super) fn is_bounded(text: &str) -> bool {
    let mut shape = Shape::default();
    // What is no sequence of tokens is refused by the parser, but only after it has skipped what it does not know.
    let shape = shape.read(text, |_, _| ()).map_or_else(|| Shape::careful(text), |()| shape);
    shape.depth <= MAX_DEPTH && shape.operators <= MAX_OPERATORS && shape.doubled <= MAX_DOUBLED
}

/// The tokens of an expression, each with its place.
pub(super) fn tokens(text: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    Shape::default().read(text, |at, token| tokens.push((at, token)));
    tokens
}

#[derive(Default)]
struct Shape {
    open: usize,
    depth: usize,
    operators: usize,
    /// `--` and `!!`, each run of them once.
    doubled: usize,
    /// The `-` or `!` that the last token was, and how often in a row.
    run: Option<(char, usize)>,
    /// Whether the last token ended a value, so that a bracket after it is an index.
    is_value: bool,
}

impl Shape {
    /// The shape of a text as if nothing in it were quoted or commented: the parser drops what it does not know, so
    /// that in `|//` a comment becomes a division, and in `-~-` two signs stand side by side.
    fn careful(text: &str) -> Shape {
        let count = |which: fn(char) -> bool| text.chars().filter(|c| which(*c)).count();
        Shape {
            depth: count(|c| matches!(c, '(' | '[' | '{')),
            operators: count(|c| is_operator(c) || c == '[') + text.matches("in").count(),
            doubled: count(|c| c == '-') / 2 + count(|c| c == '!') / 2,
            ..Shape::default()
        }
    }

    /// Counts all tokens; none if there is something else.
    fn read<'a>(&mut self, text: &'a str, mut visit: impl FnMut(usize, &'a str)) -> Option<()> {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let is_token = !c.is_whitespace() && !rest.starts_with("//");
            let n = match c {
                '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
                c if c.is_whitespace() => c.len_utf8(),
                c if c.is_ascii_alphanumeric() || c == '_' => self.word(rest)?,
                '"' | '\'' => self.value(quoted(rest, false)?),
                '`' => self.value(name(rest)?),
                _ => self.mark(rest, c)?,
            };
            if is_token {
                visit(text.len() - rest.len(), &rest[..n]);
            }
            rest = &rest[n..];
        }
        Some(())
    }

    fn value(&mut self, length: usize) -> usize {
        self.is_value = true;
        self.run = None;
        length
    }

    /// A name, a number, `in`, or a text with a prefix; answers its length.
    fn word(&mut self, rest: &str) -> Option<usize> {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        self.is_value = word != "in";
        self.run = None;
        self.operators += usize::from(word == "in");
        let is_quoted = after.starts_with(['"', '\'']);
        let text = match &*word.to_ascii_lowercase() {
            "b" if is_quoted => quoted(after, false)?,
            "r" | "br" if is_quoted => quoted(after, true)?,
            // Where a number ends and a prefix begins only the parser knows.
            word if is_quoted && word.starts_with(|c: char| c.is_ascii_digit()) => return None,
            _ => 0,
        };
        Some(word.len() + text)
    }

    /// A bracket or an operator; answers its length.
    fn mark(&mut self, rest: &str, c: char) -> Option<usize> {
        const LONG: [&str; 7] = ["&&", "||", "==", "!=", "<=", ">=", "?."];
        let is_long = LONG.iter().any(|long| rest.starts_with(long));
        if !is_long && !"()[]{}+-*/%<>!?:.,".contains(c) {
            return None;
        }
        match c {
            '(' | '[' | '{' => {
                self.operators += usize::from(c == '[' && self.is_value);
                self.open += 1;
                self.depth = self.depth.max(self.open);
            }
            ')' | ']' | '}' => self.open = self.open.saturating_sub(1),
            c => self.operators += usize::from(is_operator(c)),
        }
        self.run = match self.run {
            _ if !matches!(c, '-' | '!') || rest.starts_with("!=") => None,
            Some((last, n)) if last == c => Some((c, n + 1)),
            _ => Some((c, 1)),
        };
        self.doubled += usize::from(self.open > 0 && self.run == Some((c, 2)));
        self.is_value = matches!(c, ')' | ']' | '}');
        Some(if is_long { 2 } else { 1 })
    }
}

fn is_operator(c: char) -> bool {
    "+-*/%<>!=&|?.".contains(c)
}

/// The length of a quoted name, which has what names of labels have; none if it does not end.
fn name(text: &str) -> Option<usize> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_.-/ ".contains(c);
    let end = text[1..].find(|c| !is_part(c))? + 1;
    text[end..].starts_with('`').then_some(end + 1)
}

/// The length of the quoted text that another begins with; none if it does not end, or has what none may have.
fn quoted(text: &str, is_raw: bool) -> Option<usize> {
    let quote = &text[..1];
    let triple = quote.repeat(3);
    let is_long = text.starts_with(&triple);
    let end = if is_long { &triple } else { quote };
    let mut at = end.len();
    while !text[at..].starts_with(end) {
        at += match text[at..].chars().next()? {
            '\\' if !is_raw => escape(&text[at + 1..])? + 1,
            '\n' | '\r' if !is_long => return None,
            c => c.len_utf8(),
        };
    }
    Some(at + end.len())
}

/// The length of what follows a backslash.
fn escape(rest: &str) -> Option<usize> {
    let all = |digits: Option<&str>, radix: u32| {
        digits.is_some_and(|digits| digits.chars().all(|c| c.is_digit(radix)))
    };
    let (n, is_known) = match rest.chars().next()? {
        'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`' => (1, true),
        'x' | 'X' => (3, all(rest.get(1..3), 16)),
        'u' => (5, all(rest.get(1..5), 16)),
        'U' => (9, all(rest.get(1..9), 16)),
        '0'..='3' => (3, all(rest.get(1..3), 8)),
        _ => (0, false),
    };
    is_known.then_some(n)
}

#[cfg(test)]
mod tests {
    use super::super::{Budget, compile};
    use super::*;

    /// On the stack that the threads of a server have; twice of it where frames are as large as without optimization.
    fn small(run: impl FnOnce() + Send + 'static) {
        let size = if cfg!(debug_assertions) { 4 << 20 } else { 2 << 20 };
        let thread = std::thread::Builder::new().stack_size(size).spawn(run);
        thread.expect("a thread").join().expect("no panic");
    }

    #[test]
    fn doubled_signs_in_brackets_are_few() {
        for level in ["se---[", "--[", "!!f(", "! // x\n ! [", "1 - - ("] {
            assert!(is_bounded(&level.repeat(9)), "{level}");
            assert!(!is_bounded(&level.repeat(10)), "{level}");
        }
        assert!(is_bounded(&"!!a && ".repeat(50)));
        assert!(is_bounded(&"(a != -1) && ".repeat(30)));
    }

    #[test]
    fn what_the_parser_drops_parts_no_signs() {
        for level in ["-~-[", "-|--[", "-\u{0}-[", "-é-[", "|//--[", "=//!~!("] {
            assert!(!is_bounded(&level.repeat(20)), "{level}");
        }
        assert!(is_bounded("a - b ~ -1"));
    }

    #[test]
    fn what_is_quoted_is_not_counted() {
        let many = ".".repeat(2 * MAX_OPERATORS);
        for text in [
            format!("'{many}' == \"{many}\""),
            format!(r#"r'\' == '{many}'"#),
            format!(r"bR'\' == b'\x41\u00e9\'{many}'"),
            format!("'''it's {many}''' // it's {many}"),
            format!("a.`b//c` == 'in{}'", " in".repeat(MAX_OPERATORS)),
            format!("a in [{}]", vec!["'in'"; 2 * MAX_OPERATORS].join(",")),
        ] {
            assert!(is_bounded(&text), "{text}");
        }
    }

    #[test]
    fn what_only_looks_quoted_is_counted() {
        let many = "+1".repeat(2 * MAX_OPERATORS);
        for start in
            [r"r'\' + 1", r"'''a'b''' + 1", "// '\n1", r"'\q 1", "'\n1", r"1r'\' + 1", "a.`b//c`"]
        {
            assert!(!is_bounded(&format!("{start}{many}")), "{start}");
        }
        assert!(!is_bounded(&format!("`({many}`")));
        for step in ["[0]", " in a", "\nin\n'in'", ".b", "?a:a", "&&a"] {
            assert!(!is_bounded(&format!("a{}", step.repeat(2 * MAX_OPERATORS))), "{step}");
        }
        assert!(!is_bounded(&format!("'\\q{}", "in 1 '\\q".repeat(2 * MAX_OPERATORS))));
    }

    #[test]
    fn the_longest_expressions_fit_the_stack() {
        for step in ["[0]", " in a", ".b", ".?b", "[?0]", "+a", "==a", "&&a", "?a:a", "<a"] {
            let n = (1..).find(|n| !is_bounded(&format!("a{}", step.repeat(*n)))).unwrap() - 1;
            let nested = "(".repeat(MAX_DEPTH - 2);
            let text = format!("{nested}a{}{}", step.repeat(n), ")".repeat(MAX_DEPTH - 2));
            assert!(is_bounded(&text));
            small(move || {
                let mut scope = super::super::ExpressionScope::new(None).with_variables();
                let _ = scope.declare("a", &text);
                if let Ok(program) = compile(&text) {
                    let _ = program
                        .run(&vec![("a", super::super::Value::Null)], &mut Budget::new(1000));
                }
            });
        }
    }
}
