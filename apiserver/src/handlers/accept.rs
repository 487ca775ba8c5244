//! The `Accept` header, read as upstream reads it.

use std::cmp::Ordering;

use http::{HeaderMap, HeaderValue, header};

use super::negotiate::Format;
use crate::status::ApiError;

/// What a client accepts.
#[derive(Debug)]
pub struct Accept<'a> {
    text: &'a str,
    /// Best first.
    clauses: Vec<Clause<'a>>,
}

/// The type that an answer is to be turned into.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
}

#[derive(Debug)]
struct Clause<'a> {
    media: (&'a str, &'a str),
    quality: f64,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Accept<'a> {
    /// The header of a request.
    pub fn of(headers: &'a HeaderMap) -> Self {
        Self::parse(headers.get(header::ACCEPT))
    }

    fn parse(value: Option<&'a HeaderValue>) -> Self {
        let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut clauses: Vec<Clause<'a>> = text.split(',').filter_map(Clause::parse).collect();
        clauses.sort_by(Clause::by_rank); // Stable: equal ones keep their order.
        Self { text, clauses }
    }

    /// The first look: one of the ranges is, without its parameters, what the route produces.
    ///
    /// # Errors
    /// [`ApiError::NotAcceptableMedia`] if none is.
    pub fn route(&self, produced: &[&str]) -> Result<(), ApiError> {
        let range = |part: &'a str| part.split(';').next().unwrap_or_default().trim_matches(' ');
        let fits = |range: &str| range == "*/*" || produced.contains(&range);
        if self.text.is_empty() || self.text.split(',').map(range).any(fits) {
            return Ok(());
        }
        let list = produced.join(", ");
        let text = format!("406: Not Acceptable\n\nAvailable representations: {list}");
        Err(ApiError::NotAcceptableMedia(text))
    }

    /// The second look: the best clause, in the first format that it covers and that `allows` what it asks for.
    pub fn choose(
        &self,
        allows: impl Fn(Format, Option<&Target>) -> bool,
    ) -> Option<(Format, Option<Target>)> {
        if self.text.is_empty() {
            return Some((Format::Json, None));
        }
        self.clauses.iter().find_map(|clause| {
            let target = clause.target();
            let fits = |format: &Format| {
                clause.covers(format.media_type())
                    && clause.streams_as(*format)
                    && allows(*format, target.as_ref())
            };
            let format = Format::ALL.into_iter().find(fits)?;
            Some((format, target))
        })
    }

    /// The best format for what has one shape alone.
    pub fn plain(&self) -> Option<Format> {
        self.choose(|_, target| target.is_none()).map(|(format, _)| format)
    }

    /// The best of other media types.
    pub fn best_of<'m>(&self, media: &[&'m str]) -> Option<&'m str> {
        if self.text.is_empty() {
            return media.first().copied();
        }
        self.clauses.iter().find_map(|clause| media.iter().copied().find(|m| clause.covers(m)))
    }
}

impl<'a> Clause<'a> {
    fn parse(part: &'a str) -> Option<Self> {
        let (range, rest) = part.split_once(';').unwrap_or((part, ""));
        let media = match range.trim_matches(' ').split_once('/') {
            None if range.trim_matches(' ') == "*" => ("*", "*"),
            Some((kind, subtype)) if !subtype.contains('/') => {
                (kind.trim_matches(' '), subtype.trim_matches(' '))
            }
            _ => return None,
        };
        let mut clause = Self { media, quality: 1.0, parameters: Vec::new() };
        for (name, value) in rest.split(';').filter_map(|parameter| parameter.split_once('=')) {
            match name.trim_matches(' ') {
                "q" => clause.quality = value.parse().unwrap_or(0.0),
                name if !value.contains('=') => {
                    clause.parameters.push((name, value.trim_matches(' ')));
                }
                _ => (),
            }
        }
        Some(clause)
    }

    /// Better quality first, then the more specific.
    fn by_rank(&self, other: &Self) -> Ordering {
        let wild = |clause: &Self| (clause.media.0 == "*", clause.media.1 == "*");
        other.quality.total_cmp(&self.quality).then_with(|| wild(self).cmp(&wild(other)))
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    fn covers(&self, media: &str) -> bool {
        let (kind, subtype) = self.media;
        media.split_once('/').is_some_and(|(k, s)| {
            (kind, subtype) == (k, s)
                || kind == k && subtype == "*"
                || (kind, subtype) == ("*", "*")
        })
    }

    /// Whether the kind of stream that is asked for, and the server's version, are ones that there are.
    fn streams_as(&self, format: Format) -> bool {
        let stream = self.parameter("stream").unwrap_or_default();
        (stream.is_empty() || stream == "watch" && format.streams())
            && self.parameter("sv").unwrap_or_default().is_empty()
    }

    fn target(&self) -> Option<Target> {
        let names = ["g", "v", "as"];
        if !self.parameters.iter().any(|(name, _)| names.contains(name)) {
            return None;
        }
        let [group, version, kind] =
            names.map(|name| self.parameter(name).unwrap_or_default().to_owned());
        Some(Target { group, version, kind })
    }
}

/// The format in which an error is told: what the client likes best, or JSON if that does not exist.
pub fn error_format(accept: Option<&HeaderValue>) -> Format {
    Accept::parse(accept).plain().unwrap_or(Format::Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())])
    }

    #[track_caller]
    fn check(accept: &str, expected: Option<(Format, &str)>) {
        let headers = headers(accept);
        // As built-in types have it: rows are not sent in protobuf.
        let allows = |format, target: Option<&Target>| {
            target.is_none_or(|t| t.kind == "Table" && format != Format::Protobuf)
        };
        let got = Accept::of(&headers).choose(allows);
        let got = got.map(|(format, target)| (format, target.unwrap_or_default().kind));
        assert_eq!(got, expected.map(|(format, kind)| (format, kind.to_owned())), "{accept}");
    }

    #[test]
    fn the_best_acceptable_form_wins() {
        check("", Some((Format::Json, "")));
        check("*/*", Some((Format::Json, "")));
        check("*", Some((Format::Json, "")));
        check("application/*", Some((Format::Json, "")));
        check("APPLICATION/JSON", None);
        check(";;;", None);
        check("text/html, */*;q=0.1", Some((Format::Json, "")));
        check("application/json;q=0.5, application/yaml", Some((Format::Yaml, "")));
        check("application/json;as=Table;v=v1;g=meta.k8s.io", Some((Format::Json, "Table")));
        check("application/json;as=Picture;v=v1;g=meta.k8s.io", None);
        check("application/json;v=v1", None);
        check("application/vnd.kubernetes.protobuf,application/json", Some((Format::Protobuf, "")));
        check(
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some((Format::Json, "")),
        );
        check(
            "application/yaml;stream=watch,application/json;stream=watch",
            Some((Format::Json, "")),
        );
        check("application/json;stream=other", None);
    }

    #[test]
    fn a_route_compares_letter_by_letter() {
        let fits = |accept: &str| Accept::of(&headers(accept)).route(&["application/json"]).is_ok();
        assert!(fits("*/*") && fits("text/html, application/json;as=Table"));
        assert!(!fits("application/*") && !fits("*") && !fits("Application/json"));
    }
}
