//! Query parameters of every verb, read and checked.
//!
//! Source: kubernetes.io, "API Concepts"; faults in the words of the recorded answers.

use std::time::{Duration, Instant};

use http::Method;

use super::selector::{Fields, Labels};
use crate::duration;
use crate::status::{ApiError, GroupResource, StatusCause};

/// The query of one request.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string.
    pub fn parse(query: Option<&str>) -> Self {
        let parts = query.unwrap_or_default().split('&').filter(|part| is_sound(part));
        let pairs = parts.flat_map(|part| form_urlencoded::parse(part.as_bytes()));
        Self(pairs.map(|(k, v)| (k.into_owned(), v.into_owned())).collect())
    }

    /// First value of a parameter, be it empty.
    pub fn sent(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// First value of a parameter; empty counts as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.sent(name).filter(|v| !v.is_empty())
    }

    /// Every value of a parameter.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(k, _)| k == name).map(|(_, v)| v.as_str()).collect()
    }

    /// A switch: present, and neither `false` nor `0`.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.sent(name).map(is_on)
    }

    /// A whole number.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] in Go's words.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.sent(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
            let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let fault = if is_number { "value out of range" } else { "invalid syntax" };
            ApiError::BadRequest(format!("strconv.ParseInt: parsing {text:?}: {fault}"))
        })
    }
}

/// Whether a switch that was sent is on: whatever it says, but for `0` and `false` in any case.
pub fn is_on(value: &str) -> bool {
    value != "0" && !value.eq_ignore_ascii_case("false")
}

/// Whether Go reads a part of a query: it passes over those with a semicolon or a broken escape.
fn is_sound(part: &str) -> bool {
    let mut escapes = part.split('%').skip(1);
    !part.contains(';')
        && escapes
            .all(|rest| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_go_reads_them() {
        let query = Query::parse(Some("a=1;2&b=%zz&c=%2&d=%2B&limit=&n=99999999999999999999"));
        assert_eq!((query.sent("a"), query.sent("b"), query.sent("c")), (None, None, None));
        assert_eq!(
            (query.get("d"), query.sent("limit"), query.get("limit")),
            (Some("+"), Some(""), None)
        );
        let fault = |name| query.integer(name).unwrap_err().to_string();
        assert_eq!(fault("limit"), "strconv.ParseInt: parsing \"\": invalid syntax");
        assert!(fault("n").ends_with("value out of range"));
    }

    #[test]
    fn switches_are_on_whatever_they_say() {
        assert!(["", "x", "F", "no", "true"].into_iter().all(is_on));
        assert!(!["0", "false", "FALSE", "fAlse"].into_iter().any(is_on));
    }
}

/// How a given resourceVersion is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Whatever the server thinks best.
    Unset,
    /// Exactly this state.
    Exact,
    /// This state or a later one.
    NotOlderThan,
}

/// Parameters of LIST, WATCH and DELETECOLLECTION.
#[derive(Debug, Clone)]
pub struct ListOptions {
    /// Chosen labels.
    pub labels: Labels,
    /// Chosen fields.
    pub fields: Fields,
    /// As it was sent; empty if it was not.
    pub resource_version: String,
    /// How it is meant.
    pub version_match: Match,
    /// Most items of a page; 0 is no limit.
    pub limit: usize,
    /// Token of the next page.
    pub continue_token: Option<String>,
    /// Most seconds that the request may take.
    pub timeout_seconds: Option<u64>,
    /// Whether the watcher understands bookmarks.
    pub bookmarks: bool,
    /// Whether the watch begins with the state.
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// Whether not every object is chosen.
    pub fn is_selective(&self) -> bool {
        !(self.labels.is_empty() && self.fields.is_empty())
    }

    /// Reads and checks the parameters; `watch` says which rules hold.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(query: &Query, watch: bool) -> Result<Self, ApiError> {
        // As recorded: whoever takes any state gets all of it.
        let any = query.get("resourceVersion") == Some("0");
        let limit = query.integer("limit")?.filter(|_| !any).unwrap_or(0);
        let timeout = query.integer("timeoutSeconds")?;
        let labels = Labels::parse(query.get("labelSelector").unwrap_or_default())?;
        let fields = Fields::parse(query.get("fieldSelector").unwrap_or_default())?;
        let options = Self {
            labels,
            fields,
            resource_version: query.get("resourceVersion").unwrap_or_default().to_owned(),
            version_match: match query.get("resourceVersionMatch") {
                Some("Exact") => Match::Exact,
                Some("NotOlderThan") => Match::NotOlderThan,
                _ => Match::Unset,
            },
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: query.get("continue").map(str::to_owned),
            timeout_seconds: timeout.and_then(|t| u64::try_from(t).ok()).filter(|&t| t > 0),
            bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            send_initial_events: query.flag("sendInitialEvents"),
        };
        let causes = options.faults(query.get("resourceVersionMatch"), watch);
        if causes.is_empty() { Ok(options) } else { Err(invalid_options("ListOptions", causes)) }
    }

    fn faults(&self, given: Option<&str>, watch: bool) -> Vec<StatusCause> {
        let forbidden = |text: &str| {
            StatusCause::new(
                "FieldValueForbidden",
                "resourceVersionMatch",
                format!("Forbidden: {text}"),
            )
        };
        let unsupported = |value: &str, supported: &str| {
            let text = format!("Unsupported value: {value:?}: supported values: {supported}");
            StatusCause::new("FieldValueNotSupported", "resourceVersionMatch", text)
        };
        let mut causes = Vec::new();
        if watch {
            // As upstream: a watch that begins with any state is made one that asks for the state by itself.
            let begins = matches!(self.resource_version.as_str(), "" | "0");
            let implied = begins && given.is_none() && self.send_initial_events.is_none();
            let asks = implied || self.send_initial_events.is_some();
            let given = if implied { Some("NotOlderThan") } else { given };
            if asks && given != Some("NotOlderThan") {
                causes.push(forbidden(
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            if let Some(given) = given {
                if !asks {
                    causes
                        .push(forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"));
                }
                if given != "NotOlderThan" {
                    causes.push(unsupported(given, "\"NotOlderThan\""));
                }
                if self.continue_token.is_some() {
                    causes.push(forbidden(
                        "resourceVersionMatch is forbidden when continue is provided",
                    ));
                }
            }
            return causes;
        }
        if let Some(given) = given {
            if self.resource_version.is_empty() {
                causes.push(forbidden(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if self.continue_token.is_some() {
                causes
                    .push(forbidden("resourceVersionMatch is forbidden when continue is provided"));
            }
            match given {
                "Exact" if self.resource_version == "0" => {
                    causes.push(forbidden(
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    ));
                }
                "Exact" | "NotOlderThan" => (),
                other => causes.push(unsupported(other, "\"Exact\", \"NotOlderThan\", \"\"")),
            }
        }
        if self.send_initial_events.is_some() {
            let text = "Forbidden: sendInitialEvents is forbidden for list";
            causes.push(StatusCause::new(
                "FieldValueForbidden",
                "sendInitialEvents",
                text.to_owned(),
            ));
        }
        causes
    }
}

/// What happens to fields that the schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped, with a warning each.
    #[default]
    Warn,
    /// The request is refused.
    Strict,
}

/// Parameters of CREATE, UPDATE and PATCH.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Everything happens but the store.
    pub dry_run: bool,
    /// Who owns the fields of this write; empty if the client did not say.
    pub field_manager: String,
    /// What happens to unknown fields.
    pub field_validation: FieldValidation,
    /// Whether an apply takes over the fields of others.
    pub force: Option<bool>,
    /// Whether these are the options of a PATCH.
    pub is_patch: bool,
}

/// Longest field manager.
const FIELD_MANAGER_BYTES: usize = 128;

/// When a request must be answered: after its `timeout`, but not later than the server allows.
///
/// Source: `--request-timeout` of upstream, and `WithRequestDeadline` in its `apiserver/pkg/endpoints/filters`.
pub fn deadline(query: &Query) -> Instant {
    const LONGEST: Duration = Duration::from_secs(60);
    let asked = query.get("timeout").and_then(duration::parse).filter(|asked| !asked.is_zero());
    Instant::now() + asked.unwrap_or(LONGEST).min(LONGEST)
}

impl WriteOptions {
    /// Reads and checks the parameters of a method.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(query: &Query, method: &Method) -> Result<Self, ApiError> {
        let kind = match *method {
            Method::POST => "CreateOptions",
            Method::PUT => "UpdateOptions",
            _ => "PatchOptions",
        };
        let mut causes = Vec::new();
        let dry_run = dry_run(&query.all("dryRun"), &mut causes);
        let field_manager = query.get("fieldManager").unwrap_or_default().to_owned();
        if field_manager.len() > FIELD_MANAGER_BYTES {
            let text = format!("Too long: may not be more than {FIELD_MANAGER_BYTES} bytes");
            causes.push(StatusCause::new("FieldValueTooLong", "fieldManager", text));
        }
        if let Some((at, bad)) = field_manager.char_indices().find(|(_, c)| c.is_control()) {
            let text = format!(
                "Invalid value: {}: invalid character U+{:04X} (at position {at})",
                go_quote(&field_manager),
                u32::from(bad)
            );
            causes.push(StatusCause::new("FieldValueInvalid", "fieldManager", text));
        }
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let text = format!(
                    "Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
                );
                causes.push(StatusCause::new("FieldValueNotSupported", "fieldValidation", text));
                FieldValidation::Warn
            }
        };
        if causes.is_empty() {
            let (force, is_patch) = (query.flag("force"), *method == Method::PATCH);
            Ok(Self { dry_run, field_manager, field_validation, force, is_patch })
        } else {
            Err(invalid_options(kind, causes))
        }
    }
}

/// A text as Go's `%q` shows it.
fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\u{7}' => out += "\\a",
            '\u{8}' => out += "\\b",
            '\u{c}' => out += "\\f",
            '\u{b}' => out += "\\v",
            c if c.is_control() && !matches!(c, '\n' | '\r' | '\t') => {
                out += &format!("\\x{:02x}", u32::from(c))
            }
            c => out.extend(c.escape_debug()),
        }
    }
    out + "\""
}

/// Reads `dryRun`, which may only be `All`.
pub fn dry_run(values: &[&str], causes: &mut Vec<StatusCause>) -> bool {
    if values.iter().any(|v| *v != "All") {
        let list = serde_json::to_string(values).unwrap_or_default();
        let text = format!("Unsupported value: {list}: supported values: \"All\"");
        causes.push(StatusCause::new("FieldValueNotSupported", "dryRun", text));
    }
    !values.is_empty()
}

/// The refusal of bad options.
pub fn invalid_options(kind: &str, causes: Vec<StatusCause>) -> ApiError {
    ApiError::Invalid { kind: GroupResource::new("meta.k8s.io", kind), name: String::new(), causes }
}
