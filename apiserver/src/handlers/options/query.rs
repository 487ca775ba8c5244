//! The query of a request.

use std::time::{Duration, Instant};

use crate::duration;
use crate::status::ApiError;

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

/// When a request must be answered: after its `timeout`, but not later than `most` from now, the server's own limit.
/// If that is zero, there is none.
///
/// Source: `--request-timeout` of upstream, and `WithRequestDeadline` in its `apiserver/pkg/endpoints/filters`.
pub fn deadline(query: &Query, most: Duration) -> Instant {
    /// As good as never, and far from the end of time.
    const UNLIMITED: Duration = Duration::from_secs(365 * 24 * 3600);
    let most = if most.is_zero() { UNLIMITED } else { most };
    let asked = query.get("timeout").and_then(duration::parse).filter(|asked| !asked.is_zero());
    Instant::now() + asked.map_or(most, |asked| asked.min(most))
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
    fn the_server_limits_what_clients_ask_for() {
        let left = |query: &str, most: u64| {
            let deadline = deadline(&Query::parse(Some(query)), Duration::from_secs(most));
            deadline.saturating_duration_since(Instant::now()).as_secs_f64().ceil()
        };
        assert_eq!(
            (left("", 300), left("timeout=5s", 300), left("timeout=9m", 300)),
            (300., 5., 300.)
        );
        assert_eq!(left("timeout=2h", 0), 7200.);
        assert!(left("timeout=0s", 0) > 7200.);
    }

    #[test]
    fn switches_are_on_whatever_they_say() {
        assert!(["", "x", "F", "no", "true"].into_iter().all(is_on));
        assert!(!["0", "false", "FALSE", "fAlse"].into_iter().any(is_on));
    }
}
