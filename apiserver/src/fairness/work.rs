//! How many seats a request takes, judged before it runs.
//!
//! Source: KEP-1040, "Width of requests"; constants of upstream's
//! `apiserver/pkg/util/flowcontrol/request`.

use std::time::Duration;

use store::cache::Cache;

use crate::handlers::options::Query;
use crate::request::RequestInfo;

/// Bytes of a list that one seat stands for.
const BYTES_PER_SEAT: u64 = 100_000;
/// A list is sent in pieces; it never holds more than this.
const MOST_LIST_BYTES: u64 = 1_000_000;
/// Watchers whose events one seat stands for.
const WATCHES_PER_SEAT: usize = 10;
/// How long an event keeps a seat busy.
const EVENT: Duration = Duration::from_millis(5);
/// Most seats of a change.
const MOST_CHANGE_SEATS: u32 = 10;
/// Objects whose size is looked at to know the size of all.
const SAMPLE: usize = 16;

/// What a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Seats, at least one.
    pub seats: u32,
    /// How long it keeps them after its end, while its watchers are served.
    pub after: Duration,
    /// Watchers that are told, if it is a change of something that is watched.
    pub watchers: Option<usize>,
}

impl Estimate {
    const LEAST: Self = Self { seats: 1, after: Duration::ZERO, watchers: None };

    /// What `after` adds, in seat-seconds.
    pub fn work_after(&self) -> f64 {
        f64::from(self.seats) * self.after.as_secs_f64()
    }
}

/// What is known of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Its objects.
    pub objects: usize,
    /// Bytes of one, about.
    pub object_bytes: usize,
    /// Its open watches.
    pub watches: usize,
}

impl Stats {
    /// What a cache says; the size is a sample of its first objects.
    pub fn of(cache: &Cache, verb: &str) -> Self {
        if !matches!(verb, "list" | "watch") {
            return Self { watches: cache.subscribers(), ..Self::default() };
        }
        let snapshot = cache.list(None);
        let sample = snapshot.iter().take(SAMPLE).map(|object| object.json_len());
        let (count, bytes) = sample.fold((0, 0), |(count, sum), len| (count + 1, sum + len));
        Self { objects: snapshot.len(), object_bytes: bytes / usize::max(count, 1), watches: 0 }
    }
}

/// Judges a request; `most` is the widest that its level allows, and `stats` is asked only where it counts.
pub fn estimate(
    info: &RequestInfo,
    query: Option<&str>,
    most: u32,
    stats: impl FnOnce() -> Option<Stats>,
) -> Estimate {
    if !info.is_resource {
        return Estimate::LEAST;
    }
    match info.verb.as_str() {
        "list" | "watch" if info.name.is_empty() => {
            let query = Query::parse(query);
            let resumes = info.verb == "watch"
                && query.flag("sendInitialEvents") != Some(true)
                && !matches!(query.get("resourceVersion"), None | Some("0"));
            if resumes {
                return Estimate::LEAST;
            }
            let limit = query.integer("limit").ok().flatten().and_then(|n| usize::try_from(n).ok());
            stats().map_or(Estimate::LEAST, |stats| list(stats, limit.filter(|n| *n > 0), most))
        }
        "create" | "update" | "patch" | "delete"
            if (info.resource.as_str(), info.subresource.as_str())
                != ("serviceaccounts", "token") =>
        {
            stats().map_or(Estimate::LEAST, |stats| change(stats, most))
        }
        _ => Estimate::LEAST,
    }
}

fn list(stats: Stats, limit: Option<usize>, most: u32) -> Estimate {
    let objects = limit.map_or(stats.objects, |limit| limit.min(stats.objects));
    let bytes = (objects as u64 * stats.object_bytes as u64).min(MOST_LIST_BYTES);
    let seats = u32::try_from(bytes.div_ceil(BYTES_PER_SEAT)).unwrap_or(most);
    Estimate { seats: seats.min(most).max(1), ..Estimate::LEAST }
}

fn change(stats: Stats, most: u32) -> Estimate {
    let least = Estimate { watchers: Some(stats.watches), ..Estimate::LEAST };
    if stats.watches < WATCHES_PER_SEAT {
        return least;
    }
    let wide = u32::try_from(stats.watches.div_ceil(WATCHES_PER_SEAT)).unwrap_or(u32::MAX);
    let seats = wide.min(most).clamp(1, MOST_CHANGE_SEATS);
    // The same work, narrower and longer.
    Estimate { seats, after: EVENT.mul_f64(f64::from(wide) / f64::from(seats)), ..least }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[track_caller]
    fn check(request: &str, stats: Stats, expected: (u32, u64)) {
        let (method, uri) = request.split_once(' ').unwrap();
        let (path, query) = uri.split_once('?').map_or((uri, None), |(p, q)| (p, Some(q)));
        let info = RequestInfo::parse(&method.parse::<Method>().unwrap(), path, query);
        let got = estimate(&info, query, 8, || Some(stats));
        assert_eq!((got.seats, got.after.as_millis() as u64), expected, "{request}");
    }

    #[test]
    fn lists_are_as_wide_as_they_are_long() {
        let stats = Stats { objects: 1000, object_bytes: 500, watches: 0 };
        check("GET /api/v1/pods", stats, (5, 0));
        check("GET /api/v1/pods?limit=100", stats, (1, 0));
        check("GET /api/v1/pods?fieldSelector=metadata.name%3Da", stats, (1, 0));
        check("GET /api/v1/pods?watch=1", stats, (5, 0));
        check("GET /api/v1/pods?watch=1&resourceVersion=7", stats, (1, 0));
        check("GET /api/v1/pods?watch=1&resourceVersion=7&sendInitialEvents=true", stats, (5, 0));
        check("GET /api/v1/namespaces/a/pods/b", stats, (1, 0));
        check("GET /api/v1/pods", Stats { objects: 1_000_000, ..stats }, (8, 0));
        check("GET /api/v1/pods", Stats::default(), (1, 0));
    }

    #[test]
    fn changes_cost_what_their_watchers_cost() {
        let watched = |watches| Stats { watches, ..Stats::default() };
        check("POST /api/v1/namespaces/a/pods", watched(9), (1, 0));
        check("POST /api/v1/namespaces/a/pods", watched(25), (3, 5));
        check("POST /api/v1/namespaces/a/pods", watched(160), (8, 10));
        check("POST /api/v1/namespaces/a/serviceaccounts/s/token", watched(160), (1, 0));
    }
}
