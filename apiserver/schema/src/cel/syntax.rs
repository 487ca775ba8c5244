//! What is wrong with a text that is no expression, and where, as cel-go shows it.
//!
//! Source: `cel-go/common/error.go`, `errors.go` and `parser/parser.go`.

use std::borrow::Cow;

use kube_cel::cel::parser::{ParseError, ParseErrors};

/// Most faults that are told of one text: the answer to a stranger's garbage is not much longer than the garbage.
const MAX_TOLD: usize = 100;
/// Longest line that is shown with its faults, in bytes.
const MAX_LINE: usize = 16 * 1024;

/// The faults that the parser found, in the order of their places.
pub(super) fn faults(source: &str, found: &ParseErrors) -> String {
    let told = |error: &&ParseError| !is_of_this_parser(&error.msg);
    let mut errors: Vec<_> = found.errors.iter().filter(told).take(MAX_TOLD + 1).collect();
    if errors.is_empty() {
        errors = found.errors.iter().take(1).collect();
    }
    let is_cut = errors.len() > MAX_TOLD;
    errors.truncate(MAX_TOLD);
    let mut lines: Vec<_> = errors.iter().map(|error| fault(source, error)).collect();
    if is_cut {
        lines.push("1 more errors were truncated".to_owned()); // Upstream stops to read at the next.
    }
    lines.join("\n")
}

/// Whether the parser only says that after a fault it has no tree to go on with.
fn is_of_this_parser(message: &str) -> bool {
    message.starts_with("No `") || message.starts_with("Incomplete ")
}

fn fault(source: &str, error: &ParseError) -> String {
    let place = |number: isize| usize::try_from(number - 1).unwrap_or_default();
    if source.is_empty() {
        // The end of nothing is before the first column.
        return format!("ERROR: <input>:1:0: {}", said(&error.msg));
    }
    shown(source, &said(&error.msg), place(error.pos.0), place(error.pos.1))
}

/// A message of the parser in cel-go's words.
fn said(message: &str) -> Cow<'_, str> {
    let literal = ["invalid string literal: ", "invalid bytes literal: "];
    if literal.iter().any(|start| message.starts_with(start)) {
        let is_point = message.contains("source: Unicode");
        let text =
            if is_point { "invalid unicode code point" } else { "unable to unescape string" };
        return text.into();
    }
    let Some((start, expected)) = message.split_once(" expecting {") else { return message.into() };
    // Operators and more elements may always follow a value; upstream names only what must.
    const MORE: [&str; 18] = [
        "'=='", "'!='", "'in'", "'<'", "'<='", "'>='", "'>'", "'&&'", "'||'", "'['", "'.'", "'-'",
        "'?'", "'+'", "'*'", "'/'", "'%'", "','",
    ];
    let expected: Vec<_> = expected.trim_end_matches('}').split(", ").collect();
    let is_after_value = expected.contains(&"'=='");
    match expected.iter().filter(|token| !MORE.contains(token)).collect::<Vec<_>>()[..] {
        [one] if is_after_value => format!("{start} expecting {one}").into(),
        _ => message.into(),
    }
}

/// An error with the place that it is about, a byte of the source.
pub(super) fn located(source: &str, text: &str, at: usize) -> String {
    let before = source.get(..at).unwrap_or_default();
    let line = before.matches('\n').count();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
    shown(source, text, line, column)
}

/// An error with the line that it is about, and a mark below the column, both counted from 0.
fn shown(source: &str, text: &str, line: usize, column: usize) -> String {
    let head = format!("ERROR: <input>:{}:{}: {text}", line + 1, column + 1);
    let Some(shown) = source.split('\n').nth(line).filter(|line| line.len() <= MAX_LINE) else {
        return head;
    };
    let mut chars = shown.chars();
    let dots: String =
        chars.by_ref().take(column).map(|c| if c.is_ascii() { '.' } else { '\u{ff0e}' }).collect();
    let mark = if chars.next().is_none_or(|c| c.is_ascii()) { '^' } else { '\u{ff3e}' };
    format!("{head}\n | {}\n | {dots}{mark}", shown.replace('\t', " "))
}

#[cfg(test)]
mod tests {
    use super::super::compile;

    fn fault(text: &str) -> String {
        compile(text).expect_err("no expression")
    }

    #[test]
    fn the_answer_to_garbage_is_bounded() {
        let garbage = "~".repeat(16 * 1024);
        let fault = fault(&garbage);
        assert_eq!(fault.matches("ERROR").count(), 100);
        assert!(fault.ends_with("^\n1 more errors were truncated"));
        assert!(fault.len() < 2 * 100 * (garbage.len() + 100), "{} bytes", fault.len());
    }

    #[test]
    fn faults_are_shown_as_cel_go_shows_them() {
        for (text, expected) in [
            (
                "1 2 3",
                "ERROR: <input>:1:3: Syntax error: mismatched input '2' expecting <EOF>\n | 1 2 3\n | ..^",
            ),
            (
                "a ? 1",
                "ERROR: <input>:1:6: Syntax error: mismatched input '<EOF>' expecting ':'\n | a ? 1\n | .....^",
            ),
            ("'\\ud800'", "ERROR: <input>:1:1: invalid unicode code point\n | '\\ud800'\n | ^"),
            (
                "'é'\t~",
                "ERROR: <input>:1:5: Syntax error: token recognition error at: '~'\n | 'é' ~\n | .\u{ff0e}..^",
            ),
        ] {
            assert_eq!(fault(text), format!("compilation failed: {expected}"), "{text}");
        }
    }

    #[test]
    fn a_fault_at_the_end_is_shown_below_the_last_line() {
        assert!(fault("a ==\n").contains("ERROR: <input>:2:1: "), "{}", fault("a ==\n"));
        assert!(fault("a ==\n").ends_with("\n | \n | ^"), "{}", fault("a ==\n"));
    }
}
