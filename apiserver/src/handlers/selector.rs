//! Label and field selectors: parsed once a request, asked for every object.
//!
//! Source: kubernetes.io, "Labels and Selectors", "Field Selectors".

use serde_json::{Value, json};

use crate::status::ApiError;
use crate::types::words;

/// A parsed `labelSelector`; empty matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    rule: Rule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

impl Labels {
    /// Reads a selector.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] in upstream's words.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut parser = Parser { tokens: lex(text), at: 0 };
        parser.selector().map(Self).map_err(ApiError::BadRequest)
    }

    /// Reads a `metav1.LabelSelector`; null and `{}` match everything.
    ///
    /// # Errors
    /// The operator that is unknown, in upstream's words.
    pub fn of_object(selector: &Value) -> Result<Self, String> {
        let mut out = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let values = vec![value.as_str().unwrap_or_default().to_owned()];
            out.push(Requirement { key: key.clone(), rule: Rule::In(values) });
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let values = expression["values"].as_array().into_iter().flatten();
            let values = values.filter_map(|v| v.as_str().map(str::to_owned)).collect();
            let rule = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Rule::In(values),
                "NotIn" => Rule::NotIn(values),
                "Exists" => Rule::Exists,
                "DoesNotExist" => Rule::Absent,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            out.push(Requirement { key, rule });
        }
        Ok(Self(out))
    }

    /// Whether a selector, as objects have it, chooses an object with these labels; one that makes no sense does not.
    pub fn selects(selector: &Value, labels: &Value) -> bool {
        Self::of_object(selector).is_ok_and(|selector| selector.match_object(labels))
    }

    /// Whether an object with these labels, as its metadata has them, is chosen.
    pub fn match_object(&self, labels: &Value) -> bool {
        self.matches(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object with these labels is chosen.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| {
            let value = label(&r.key);
            match &r.rule {
                Rule::Exists => value.is_some(),
                Rule::Absent => value.is_none(),
                Rule::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
                Rule::NotIn(values) => value.is_none_or(|v| !values.iter().any(|x| x == v)),
                Rule::Greater(n) => {
                    value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *n)
                }
                Rule::Less(n) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *n),
            }
        })
    }
}

/// A label selector as the requirements of an access review. None if it does not parse: who decides
/// then takes it for no restriction.
///
/// Source: KEP-4601.
pub fn label_requirements(text: &str) -> Vec<Value> {
    let Ok(Labels(requirements)) = Labels::parse(text) else { return Vec::new() };
    let shown = |Requirement { key, rule }: &Requirement| match rule {
        Rule::Exists => Some(json!({ "key": key, "operator": "Exists" })),
        Rule::Absent => Some(json!({ "key": key, "operator": "DoesNotExist" })),
        Rule::In(values) => Some(json!({ "key": key, "operator": "In", "values": values })),
        Rule::NotIn(values) => Some(json!({ "key": key, "operator": "NotIn", "values": values })),
        // Reviews have no word for them, so they restrict nothing there.
        Rule::Greater(_) | Rule::Less(_) => None,
    };
    requirements.iter().filter_map(shown).collect()
}

/// A field selector as the requirements of an access review; as [`label_requirements`].
pub fn field_requirements(text: &str) -> Vec<Value> {
    let Ok(fields) = Fields::parse(text) else { return Vec::new() };
    let shown = |term: &Term| {
        let operator = if term.equal { "In" } else { "NotIn" };
        json!({ "key": term.field, "operator": operator, "values": [term.value] })
    };
    fields.terms().iter().map(shown).collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Symbol(symbol) => symbol,
            Self::End => "",
        }
    }
}

fn lex(text: &str) -> Vec<Token> {
    const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let special = |c: char| c.is_whitespace() || "=!(),><".contains(c);
            let end = rest.find(special).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    tokens.push(Token::End);
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        loop {
            match self.peek() {
                Token::Word(_) | Token::Symbol("!") => {
                    out.push(
                        self.requirement()
                            .map_err(|e| format!("unable to parse requirement: {e}"))?,
                    );
                    match self.next() {
                        Token::End => return Ok(out),
                        Token::Symbol(",") => match self.peek() {
                            Token::Word(_) | Token::Symbol("!") => (),
                            other => {
                                return Err(format!(
                                    "found '{}', expected: identifier after ','",
                                    other.text()
                                ));
                            }
                        },
                        other => {
                            return Err(format!(
                                "found '{}', expected: ',' or 'end of string'",
                                other.text()
                            ));
                        }
                    }
                }
                Token::End => return Ok(out),
                Token::Symbol(other) => {
                    return Err(format!(
                        "found '{other}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = *self.peek() == Token::Symbol("!");
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(word) => word,
            other => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        check_key(&key)?;
        if absent {
            return Ok(Requirement { key, rule: Rule::Absent });
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(Requirement { key, rule: Rule::Exists });
        }
        let operator = self.next();
        let rule = match operator.text() {
            "in" => Rule::In(in_order(self.values()?)),
            "notin" => Rule::NotIn(in_order(self.values()?)),
            "=" | "==" => Rule::In(vec![self.value()?]),
            "!=" => Rule::NotIn(vec![self.value()?]),
            symbol @ (">" | "<") => {
                let greater = symbol == ">";
                let text = self.value()?;
                let n = text.parse().map_err(|_| {
                    format!("values[0]: Invalid value: {text:?}: for 'Gt', 'Lt' operators, the value must be an integer")
                })?;
                check_value(0, &key, &text)?;
                if greater { Rule::Greater(n) } else { Rule::Less(n) }
            }
            other => {
                return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt"));
            }
        };
        if let Rule::In(values) | Rule::NotIn(values) = &rule {
            values.iter().enumerate().try_for_each(|(n, v)| check_value(n, &key, v))?;
        }
        Ok(Requirement { key, rule })
    }

    fn value(&mut self) -> Result<String, String> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            _ => match self.next() {
                Token::Word(word) => Ok(word),
                other => Err(format!("found '{}', expected: identifier", other.text())),
            },
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Symbol("(") => (),
            other => return Err(format!("found '{}' expected: '('", other.text())),
        }
        let mut values = Vec::new();
        let mut empty = true; // Whether the next comma or parenthesis ends an empty value.
        loop {
            match self.next() {
                Token::Word(word) => {
                    values.push(word);
                    empty = false;
                    if !matches!(self.peek(), Token::Symbol("," | ")")) {
                        return Err(format!(
                            "found '{}', expected: ',' or ')'",
                            self.peek().text()
                        ));
                    }
                }
                Token::Symbol(symbol @ ("," | ")")) => {
                    if empty {
                        values.push(String::new());
                    }
                    empty = true;
                    if symbol == ")" {
                        return Ok(values);
                    }
                }
                other => {
                    return Err(format!(
                        "found '{}', expected: ',', ')' or identifier",
                        other.text()
                    ));
                }
            }
        }
    }
}

fn check_key(key: &str) -> Result<(), String> {
    let faults = words::qualified(key);
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("<nil>: Invalid value: {key:?}: {}", faults.join("; ")))
}

fn check_value(n: usize, key: &str, value: &str) -> Result<(), String> {
    let faults = words::label_value(value);
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("values[{n}][{key}]: Invalid value: {value:?}: {}", faults.join("; ")))
}

/// A parsed `fieldSelector`; empty matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<Term>);

/// One comparison of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Field label, such as `spec.nodeName`.
    pub field: String,
    /// What it must, or must not, equal.
    pub value: String,
    /// False for `!=`.
    pub equal: bool,
}

impl Fields {
    /// Reads a selector.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] in upstream's words.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        let mut parts = split(text);
        parts.sort_unstable(); // As upstream does, which decides what is refused first.
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let (field, equal, value) = operator(part).ok_or_else(|| {
                ApiError::BadRequest(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                ))
            })?;
            let value = unescape(value).map_err(|fault| {
                ApiError::BadRequest(format!("invalid field selector: {fault}"))
            })?;
            if !(field.is_empty() && value.is_empty()) {
                terms.push(Term { field: field.to_owned(), value, equal });
            }
        }
        Ok(Self(terms))
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is asked of name and namespace.
    pub fn of_place(&self) -> Self {
        let terms = self.0.iter().filter(|term| term.field.starts_with("metadata."));
        Self(terms.cloned().collect())
    }

    /// Asks for one more equality.
    pub fn require(&mut self, field: &str, value: &str) {
        self.0.push(Term { field: field.to_owned(), value: value.to_owned(), equal: true });
    }

    /// Every comparison, to be changed.
    pub fn terms_mut(&mut self) -> &mut [Term] {
        &mut self.0
    }

    /// Every comparison.
    pub fn terms(&self) -> &[Term] {
        &self.0
    }

    /// The value that `field` must have, if one is asked for.
    pub fn required(&self, field: &str) -> Option<&str> {
        let term = self.0.iter().find(|term| term.equal && term.field == field)?;
        Some(&term.value)
    }

    /// Whether an object is chosen; `field` gives its values, an absent one counts as empty.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|t| (field(&t.field).unwrap_or_default() == t.value) == t.equal)
    }
}

/// Each value once, in the order in which they are judged.
fn in_order(mut values: Vec<String>) -> Vec<String> {
    values.sort();
    values.dedup();
    values
}

/// Splits at commas that no backslash escapes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => (),
        }
    }
    parts.push(&text[start..]);
    parts
}

/// A comparison, taken apart at its first operator.
fn operator(part: &str) -> Option<(&str, bool, &str)> {
    part.char_indices().find_map(|(at, _)| {
        let rest = &part[at..];
        [("!=", false), ("==", true), ("=", true)]
            .into_iter()
            .find_map(|(operator, equal)| Some((&part[..at], equal, rest.strip_prefix(operator)?)))
    })
}

/// The value without its backslashes.
fn unescape(text: &str) -> Result<String, String> {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        value.push(match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => c,
                Some(other) => return Err(format!("invalid escape sequence: \\{other}")),
                None => return Err("invalid escape sequence: \\".to_owned()),
            },
            '=' | ',' => return Err(format!("unescaped character in value: {}", u32::from(c))),
            c => c,
        });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(selector: &str, labels: &[(&str, &str)], expected: bool) {
        let parsed = Labels::parse(selector).unwrap();
        let got = parsed.matches(|key| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v));
        assert_eq!(got, expected, "{selector}");
    }

    #[test]
    fn label_selectors() {
        let web = [("tier", "web"), ("env", "dev"), ("n", "7")];
        check("tier=web", &web, true);
        check("tier==db", &web, false);
        check("tier!=db, env in (prod, dev)", &web, true);
        check("tier in ()", &web, false);
        check("other notin (x)", &web, true);
        check("!other,tier", &web, true);
        check("n>6,n<8", &web, true);
        check("in in (in)", &[("in", "in")], true);
        check("", &[], true);
    }

    #[test]
    fn faults_are_told_in_upstream_words() {
        let fault = |s| Labels::parse(s).unwrap_err().to_string();
        assert_eq!(fault("=x"), "found '=', expected: !, identifier, or 'end of string'");
        assert_eq!(
            fault("tier near web"),
            "unable to parse requirement: found 'near', expected: in, notin, =, ==, !=, gt, lt"
        );
        assert_eq!(
            fault("a gt 1"),
            "unable to parse requirement: found 'gt', expected: in, notin, =, ==, !=, gt, lt"
        );
        assert!(fault("a/b/c").contains("a valid label key must consist of"));
        assert!(fault("-/").contains("part must be non-empty; name part must consist of"));
        assert!(fault("a in (b,-c)").contains("values[0][a]: Invalid value: \"-c\""));
        assert!(fault("a=\"b\"").contains(r#"Invalid value: "\"b\"": a valid label"#));
        assert_eq!(fault("a=b=c"), "found '=', expected: ',' or 'end of string'");
    }

    #[test]
    fn field_selectors() {
        let fields = Fields::parse(r"metadata.name!=a\,b,spec.x=1").unwrap();
        assert!(fields.matches(|f| Some(if f == "spec.x" { "1" } else { "a" })));
        assert!(!fields.matches(|f| Some(if f == "spec.x" { "1" } else { "a,b" })));
        assert!(Fields::parse("=").unwrap().is_empty());
        let fault = |s| Fields::parse(s).unwrap_err().to_string();
        assert_eq!(fault("a"), "invalid selector: 'a'; can't understand 'a'");
        assert_eq!(fault("a=b=c"), "invalid field selector: unescaped character in value: 61");
        assert_eq!(fault(r"a=b\c"), r"invalid field selector: invalid escape sequence: \c");
    }
}
