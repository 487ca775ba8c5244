//! The JSONPath of printer columns: fields, indices, wildcards and simple filters.
//!
//! A column shows the first value that the path finds.

use serde_json::Value;

/// A path that was read once and is walked for every row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    /// From here up to but not including there; absent ends are those of the list.
    Slice(Option<i64>, Option<i64>),
    All,
    Filter {
        path: Path,
        test: Test,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Equals(Value),
    Differs(Value),
}

impl Path {
    /// Reads a path such as `.status.conditions[?(@.type=="Ready")].status`; `None` if it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, tail) = match rest.strip_prefix('[') {
                Some(inner) => bracket(inner)?,
                None => field(rest.strip_prefix('.').unwrap_or(rest))?,
            };
            steps.extend(step);
            rest = tail;
        }
        Some(Self(steps))
    }

    /// The first value that the path finds in `object`.
    pub(super) fn first<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        walk(&self.0, object)
    }
}

fn walk<'a>(steps: &[Step], value: &'a Value) -> Option<&'a Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match step {
        Step::Field(name) => walk(rest, value.get(name)?),
        Step::Index(at) => {
            let items = value.as_array()?;
            let at = if *at < 0 { *at + i64::try_from(items.len()).ok()? } else { *at };
            walk(rest, items.get(usize::try_from(at).ok()?)?)
        }
        Step::Slice(from, to) => {
            let items = value.as_array()?;
            let place = |at: i64| {
                let at = if at < 0 { at + i64::try_from(items.len()).ok()? } else { at };
                Some(usize::try_from(at).ok()?.min(items.len()))
            };
            let (from, to) = (from.map_or(Some(0), place)?, to.map_or(Some(items.len()), place)?);
            items.get(from..to)?.iter().find_map(|item| walk(rest, item))
        }
        Step::All => children(value).find_map(|child| walk(rest, child)),
        Step::Filter { path, test } => children(value)
            .filter(|child| match (test, path.first(child)) {
                (Test::Exists, found) => found.is_some(),
                (Test::Equals(wanted), found) => found == Some(wanted),
                (Test::Differs(wanted), found) => found.is_some_and(|found| found != wanted),
            })
            .find_map(|child| walk(rest, child)),
    }
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(entries) => Box::new(entries.values()),
        _ => Box::new(std::iter::empty()),
    }
}

/// A field after a dot; a backslash keeps the dot after it.
fn field(text: &str) -> Option<(Option<Step>, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let end = loop {
        match chars.next() {
            None => break text.len(),
            Some((_, '\\')) => name.push(chars.next()?.1),
            Some((at, '.' | '[')) => break at,
            Some((_, c)) => name.push(c),
        }
    };
    let step = match name.as_str() {
        "" => None,
        "*" => Some(Step::All),
        _ => Some(Step::Field(name)),
    };
    Some((step, &text[end..]))
}

/// What stands in brackets; `text` begins after the opening one.
fn bracket(text: &str) -> Option<(Option<Step>, &str)> {
    let end = closing(text)?;
    let (inner, rest) = (text[..end].trim(), &text[end + 1..]);
    let step = if inner == "*" {
        Step::All
    } else if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        filter_step(filter.trim())?
    } else if let Some(name) = quoted(inner) {
        Step::Field(name.to_owned())
    } else if let Some((from, to)) = inner.split_once(':') {
        let end = |text: &str| match text.trim() {
            "" => Some(None),
            number => number.parse().ok().map(Some),
        };
        Step::Slice(end(from)?, end(to)?)
    } else {
        Step::Index(inner.parse().ok()?)
    };
    Some((Some(step), rest))
}

/// Where the bracket ends that is open at the start of `text`, quotes and inner brackets skipped.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn filter_step(text: &str) -> Option<Step> {
    let (path, test) = if let Some((path, value)) = text.split_once("==") {
        (path, Test::Equals(literal(value)?))
    } else if let Some((path, value)) = text.split_once("!=") {
        (path, Test::Differs(literal(value)?))
    } else {
        (text, Test::Exists)
    };
    let path = Path::parse(path.trim().strip_prefix('@')?)?;
    Some(Step::Filter { path, test })
}

fn literal(text: &str) -> Option<Value> {
    let text = text.trim();
    match quoted(text) {
        Some(text) => Some(text.into()),
        None => serde_json::from_str(text).ok(),
    }
}

fn quoted(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|q| text.strip_prefix(q)?.strip_suffix(q))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(path: &str, expected: &str) {
        let object = json!({
            "metadata": { "labels": { "app.kubernetes.io/name": "web" } },
            "status": { "conditions": [
                { "type": "Synced", "status": "False" },
                { "type": "Ready", "status": "True", "n": 3 },
            ] },
        });
        let found = Path::parse(path).map(|path| path.first(&object).cloned());
        let found = match found {
            None => "no path".to_owned(),
            Some(None) => "nothing".to_owned(),
            Some(Some(value)) => value.to_string(),
        };
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn slices_are_gos() {
        check(".status.conditions[-1:].type", r#""Ready""#);
        check(".status.conditions[0:1].type", r#""Synced""#);
        check(".status.conditions[1:].type", r#""Ready""#);
        check(".status.conditions[2:].type", "nothing");
        check(".status.conditions[a:b].type", "no path");
    }

    #[test]
    fn paths_find_the_first_value() {
        check(".status.conditions[0].type", "\"Synced\"");
        check("{.status.conditions[-1].n}", "3");
        check("$.status.conditions[?(@.type==\"Ready\")].status", "\"True\"");
        check(".status.conditions[?(@.type == 'Nope')].status", "nothing");
        check(".status.conditions[?(@.n)].type", "\"Ready\"");
        check(".status.conditions[?(@.n==3)].type", "\"Ready\"");
        check(".status.conditions[?(@.type!=\"Synced\")].type", "\"Ready\"");
        check(".status.conditions[*].n", "3");
        check(".metadata.labels.app\\.kubernetes\\.io/name", "\"web\"");
        check(".metadata.labels['app.kubernetes.io/name']", "\"web\"");
        check(".spec.replicas", "nothing");
        check(".status.conditions[x]", "no path");
        check(".status.conditions[", "no path");
    }
}
