//! From a request's bytes to a JSON value, with what a strict reader would complain about.

use std::collections::{HashMap, HashSet};

use http::{HeaderMap, header};
use schema::json::{Overwritten, Parsed};
use serde_json::Value;

use super::pairs::Pairs;
use crate::protobuf;
use crate::status::ApiError;

/// A decoded body.
#[derive(Debug)]
pub struct Decoded {
    /// Its value; of a field that occurs twice the last one counts.
    pub value: Value,
    /// Complaints such as `duplicate field "spec.replicas"`.
    pub complaints: Vec<String>,
    /// Paths of the fields of a JSON text that came twice.
    pub duplicates: Vec<String>,
    /// What those had before.
    pub overwritten: Vec<Overwritten>,
}

impl Decoded {
    /// What nobody complains about.
    fn sound(value: Value) -> Self {
        Self { value, complaints: Vec::new(), duplicates: Vec::new(), overwritten: Vec::new() }
    }
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFormat {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// Reads `Content-Type`; without one the body is JSON.
///
/// # Errors
/// [`ApiError::UnsupportedMediaType`] names what is understood.
pub fn body_format(headers: &HeaderMap) -> Result<BodyFormat, ApiError> {
    let media = media_type(headers);
    let is_sound = parameters(headers).all(|parameter| {
        parameter.split_once('=').is_some_and(|(name, value)| !name.is_empty() && !value.is_empty())
    });
    match media.as_str() {
        "" | "application/json" if is_sound => Ok(BodyFormat::Json),
        "application/yaml" if is_sound => Ok(BodyFormat::Yaml),
        protobuf::MEDIA_TYPE if is_sound => Ok(BodyFormat::Protobuf),
        _ => Err(ApiError::UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf".to_owned(),
        )),
    }
}

/// What is said of a body that [`decode`] could not read.
pub fn unreadable(format: BodyFormat, fault: String) -> String {
    match format {
        BodyFormat::Json => format!("couldn't get version/kind; json parse error: {fault}"),
        BodyFormat::Yaml | BodyFormat::Protobuf => fault,
    }
}

/// The media type of the body without its parameters.
pub fn media_type(headers: &HeaderMap) -> String {
    content_type(headers).split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// The parameters of the media type.
fn parameters(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    content_type(headers).split(';').skip(1).map(str::trim).filter(|part| !part.is_empty())
}

/// Decodes a body.
///
/// # Errors
/// The parser's complaint, for JSON in Go's words.
pub fn decode(body: &[u8], format: BodyFormat) -> Result<Decoded, String> {
    match format {
        BodyFormat::Json => json(body),
        BodyFormat::Yaml => {
            let mut decoded = match json(body) {
                // Most YAML that programs send is JSON, which is read several times faster.
                Ok(decoded) if decoded.complaints.is_empty() => decoded,
                _ => yaml(body)?,
            };
            make_whole(&mut decoded.value);
            Ok(decoded)
        }
        BodyFormat::Protobuf => protobuf::decode(body).map(Decoded::sound),
    }
}

/// Decodes JSON and notes fields that occur twice.
///
/// # Errors
/// As Go's parser says it.
pub fn json(body: &[u8]) -> Result<Decoded, String> {
    let Parsed { value, duplicates, overwritten } = schema::json::parse(body).map_err(|e| e.0)?;
    let complaints = duplicates.iter().map(|path| duplicate_field(path)).collect();
    Ok(Decoded { value, complaints, duplicates, overwritten })
}

/// The complaint about a field that the type does not have.
pub fn unknown_field(path: &str) -> String {
    format!("unknown field \"{path}\"")
}

/// The complaint about a field that came before.
pub fn duplicate_field(path: &str) -> String {
    format!("duplicate field \"{path}\"")
}

/// Complaints that are made of one body in JSON.
///
/// Source: `saveStrictError` in upstream's `sigs.k8s.io/json`.
const MOST_COMPLAINTS: usize = 100;

/// Complaints about a body in JSON in the order of its fields; one that is unknown may come twice, and nobody looks
/// into it.
pub fn in_order(duplicates: &[String], unknown: &[String], body: &[u8]) -> Vec<String> {
    if unknown.is_empty() {
        return duplicates.iter().take(MOST_COMPLAINTS).map(|path| duplicate_field(path)).collect();
    }
    let strange: HashSet<&str> = unknown.iter().map(String::as_str).collect();
    let is_strange = |path: &str| {
        let ends = path.match_indices(['.', '[']).map(|(end, _)| end).chain([path.len()]);
        ends.into_iter().any(|end| strange.contains(&path[..end]))
    };
    let twice = duplicates.iter().filter(|path| !is_strange(path));
    let mut places: HashMap<String, (usize, usize)> = HashMap::new();
    for (n, field) in schema::json::fields(body).into_iter().enumerate() {
        places.entry(field).and_modify(|(_, last)| *last = n).or_insert((n, n));
    }
    let twice = twice.map(|path| (places.get(path).map(|p| p.1), duplicate_field(path)));
    let unknown = unknown.iter().map(|path| (places.get(path).map(|p| p.0), unknown_field(path)));
    let mut complaints: Vec<_> = twice.chain(unknown).collect();
    complaints.sort_by_key(|(position, _)| *position);
    complaints.truncate(MOST_COMPLAINTS);
    complaints.into_iter().map(|(_, complaint)| complaint).collect()
}

/// What libyaml says of a text that is no YAML.
fn yaml_fault(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let (place, what) = first.split_once(": ").unwrap_or(("", first));
    let line = place.split(" column").next().unwrap_or_default();
    let what = match what {
        what if what.starts_with("unclosed bracket '['") => "did not find expected ',' or ']'",
        what if what.starts_with("unclosed bracket '{'") => "did not find expected ',' or '}'",
        other => other,
    };
    // libyaml's scanner does not tell the first line, its parser does.
    let is_scanner = !what.starts_with("did not find");
    if line.is_empty() || is_scanner && line == "line 1" {
        format!("yaml: {what}")
    } else {
        format!("yaml: {line}: {what}")
    }
}

/// Complaints about YAML, in one error.
pub fn yaml_complaints(complaints: &[String]) -> String {
    format!("yaml: unmarshal errors:\n  {}", complaints.join("\n  "))
}

/// Makes whole numbers of those that are written with a fraction of zero: YAML knows no difference.
fn make_whole(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|_| number.is_f64());
            let whole = whole.filter(|n| n.fract() == 0.0 && n.abs() < MOST_EXACT);
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and small")]
            if let Some(whole) = whole {
                *number = (whole as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(make_whole),
        Value::Object(members) => members.values_mut().for_each(make_whole),
        _ => (),
    }
}

/// Whole numbers below this have a float of their own.
const MOST_EXACT: f64 = 9_007_199_254_740_992.0;

/// The first of several documents, which is the one that counts.
fn first_document(text: &str) -> &str {
    let is_marker = |line: &str| line.trim_end() == "---" || line.starts_with("--- ");
    let is_blank = |line: &str| line.trim().is_empty() || line.starts_with(['#', '%']);
    let (mut at, mut begun) = (0, false);
    for line in text.split_inclusive('\n') {
        if begun && is_marker(line) {
            return &text[..at];
        }
        begun |= !is_blank(line);
        at += line.len();
    }
    text
}

fn yaml(body: &[u8]) -> Result<Decoded, String> {
    let text = first_document(std::str::from_utf8(body).map_err(|e| e.to_string())?);
    let strict: Result<Value, _> = serde_saphyr::from_str(text);
    match strict {
        Ok(value) => Ok(Decoded::sound(value)),
        Err(strict_error) => {
            let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins };
            let value = serde_saphyr::from_str_with_options(text, options.clone())
                .map_err(|e| yaml_fault(&e))?;
            let complaints = match serde_saphyr::from_str_with_options::<Pairs>(text, options) {
                Ok(pairs) => pairs.twice(),
                Err(_) => vec![strict_error.to_string()],
            };
            Ok(Decoded { complaints, ..Decoded::sound(value) })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn media_types_are_read_strictly() {
        let format = |text: &str| {
            let headers = [(http::header::CONTENT_TYPE, text.parse().unwrap())];
            super::body_format(&http::HeaderMap::from_iter(headers)).ok()
        };
        assert_eq!(format("Application/JSON; charset=utf-8"), Some(super::BodyFormat::Json));
        assert_eq!(format("application/yaml;"), Some(super::BodyFormat::Yaml));
        assert_eq!(format("application/json; charset"), None);
        assert_eq!(format("*/*"), None);
    }

    #[test]
    fn duplicates_are_noted_with_their_path() {
        let decoded = super::json(br#"{"spec":{"a":1,"l":[{"x":1,"x":2}],"a":2}}"#).unwrap();
        assert_eq!(decoded.value, json!({"spec":{"a":2,"l":[{"x":2}]}}));
        assert_eq!(
            decoded.complaints,
            ["duplicate field \"spec.l[0].x\"", "duplicate field \"spec.a\""]
        );
    }

    #[test]
    fn complaints_keep_the_order_of_the_fields() {
        let body = br#"{"z":{"b":1,"a":[{"n":1,"y":1,"n":2,"x":2}]},"b":1,"b":2}"#;
        let texts =
            |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
        let unknown = texts(&["b", "z.a[0].x", "z.a[0].y", "z.b"]);
        let told = super::in_order(&texts(&["z.a[0].n", "b"]), &unknown, body);
        let expected = [
            "unknown field \"z.b\"",
            "unknown field \"z.a[0].y\"",
            "duplicate field \"z.a[0].n\"",
            "unknown field \"z.a[0].x\"",
            "unknown field \"b\"",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn the_first_document_counts_and_numbers_are_whole() {
        let decoded = super::decode(b"---\na: 1.0\nb: 1.5\n---\na: 2\n", super::BodyFormat::Yaml);
        assert_eq!(decoded.unwrap().value, json!({"a": 1, "b": 1.5}));
    }

    #[test]
    fn broken_yaml_sounds_like_upstream() {
        let fault = super::yaml(b"a: [b").unwrap_err();
        assert_eq!(fault, "yaml: line 1: did not find expected ',' or ']'");
    }

    #[test]
    fn faults_sound_like_upstream() {
        let fault = |text: &str| super::json(text.as_bytes()).unwrap_err();
        assert_eq!(fault("not json"), "invalid character 'o' in literal null (expecting 'u')");
        assert_eq!(fault("{\"data\":"), "unexpected end of JSON input");
        assert_eq!(fault(""), "unexpected end of JSON input");
    }

    #[test]
    fn yaml_takes_the_last_of_two() {
        let decoded = super::yaml(b"a: 1\nb: {c: x}\na: 2\nb:\n  c: y\n  c: z\n").unwrap();
        assert_eq!(decoded.value, json!({"a":2,"b":{"c":"z"}}));
        let expected = [
            "line 3: key \"a\" already set in map",
            "line 6: key \"c\" already set in map",
            "line 5: key \"b\" already set in map",
        ];
        assert_eq!(decoded.complaints, expected);
    }
}
