//! Events come no faster than configured: altogether, by namespace, by user, or by what they are about.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;
use serde_json::Value;

use super::{Admitted, Attributes, Operation, OptionError, Plugin, Resources, answer};
use crate::status::ApiError;
use crate::types::check::{items, text};

/// Keys that one limit remembers, unless it says otherwise.
///
/// Source: upstream `plugin/pkg/admission/eventratelimit/limitenforcer.go`.
const CACHE_SIZE: i64 = 4096;

/// Source: upstream `plugin/pkg/admission/eventratelimit`.
pub(super) struct EventRateLimit(Vec<Limit>);

impl EventRateLimit {
    /// Reads a `Configuration` of `eventratelimit.admission.k8s.io/v1alpha1`.
    ///
    /// # Errors
    /// There is none, or it makes no sense.
    pub(super) fn new(configuration: Option<&Value>) -> Result<Self, OptionError> {
        let refused = |reason: String| OptionError::Plugin { plugin: "EventRateLimit", reason };
        let limits = configuration.map_or(&[] as &[Value], |c| items(&c["limits"]));
        if limits.is_empty() {
            return Err(refused("limits: Invalid value: must not be empty".to_owned()));
        }
        let read = |(n, limit): (usize, &Value)| {
            Limit::read(limit).map_err(|why| refused(format!("limits[{n}].{why}")))
        };
        limits.iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The refusals of all limits; each of them counts the event.
    fn faults(&self, key: impl Fn(Kind) -> String, now: Instant) -> Vec<String> {
        let keys = self.0.iter().map(|limit| (limit, key(limit.kind)));
        let over = keys.filter(|(limit, key)| !limit.take(key, now));
        over.map(|(limit, key)| {
            format!("limit reached on type {} for key {key}", limit.kind.name())
        })
        .collect()
    }
}

impl Plugin for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "events"), ("events.k8s.io", "events")])
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        event: &'a Value,
    ) -> Admitted<'a> {
        if attributes.dry_run {
            return answer(Ok(()));
        }
        let key = |kind: Kind| match kind {
            Kind::Server => String::new(),
            Kind::Namespace => attributes.namespace.to_owned(),
            Kind::User => attributes.user.name.clone(),
            Kind::SourceAndObject => source_and_object(event),
        };
        let faults = self.faults(key, Instant::now());
        let message = match faults.as_slice() {
            [] => return answer(Ok(())),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("Too many requests: {message}");
        answer(Err(ApiError::TooManyRequests { message, retry_after: 0, causes: Vec::new() }))
    }
}

/// Both forms of events name them.
fn source_and_object(event: &Value) -> String {
    let either =
        |a: &str, b: &str| if event[a].is_null() { event[b].clone() } else { event[a].clone() };
    let (source, object) =
        (either("source", "deprecatedSource"), either("involvedObject", "regarding"));
    let of_object =
        ["kind", "namespace", "name", "uid", "apiVersion"].map(|field| text(&object, field));
    [&[text(&source, "component"), text(&source, "host")][..], &of_object].concat().concat()
}

/// What a limit counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Server, Self::Namespace, Self::User, Self::SourceAndObject];

    fn name(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Namespace => "Namespace",
            Self::User => "User",
            Self::SourceAndObject => "SourceAndObject",
        }
    }
}

/// One limit: a bucket of tokens by key.
struct Limit {
    kind: Kind,
    /// Tokens a second.
    rate: f64,
    /// Most tokens.
    burst: f64,
    /// Most keys; the one that was not used for longest is forgotten.
    keys: usize,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Limit {
    fn read(limit: &Value) -> Result<Self, String> {
        let given = text(limit, "type");
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == given);
        let kind = kind.ok_or_else(|| format!("type: Unsupported value: {given:?}: supported values: \"Namespace\", \"Server\", \"SourceAndObject\", \"User\""))?;
        let positive = |field: &str| {
            let given = limit[field].as_i64().unwrap_or_default();
            let number = u32::try_from(given).ok().filter(|n| *n > 0);
            number.ok_or_else(|| format!("{field}: Invalid value: {given}: must be positive"))
        };
        let keys = match limit["cacheSize"].as_i64().unwrap_or_default() {
            0 => CACHE_SIZE,
            size => size,
        };
        let keys = usize::try_from(keys)
            .map_err(|_| format!("cacheSize: Invalid value: {keys}: must not be negative"))?;
        let (burst, rate) = (positive("burst")?.into(), positive("qps")?.into());
        Ok(Self { kind, rate, burst, keys, buckets: Mutex::default() })
    }

    /// Takes a token, if there is one.
    fn take(&self, key: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock();
        if buckets.len() >= self.keys && !buckets.contains_key(key) {
            let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.filled);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                buckets.remove(&oldest);
            }
        }
        let full = Bucket { tokens: self.burst, filled: now };
        let bucket = buckets.entry(key.to_owned()).or_insert(full);
        let passed = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * self.rate).min(self.burst);
        bucket.filled = now;
        let there = bucket.tokens >= 1.0;
        if there {
            bucket.tokens -= 1.0;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_come_back_with_time() {
        let limit =
            json!({"limits": [{"type": "Namespace", "qps": 1, "burst": 2, "cacheSize": 2}]});
        let plugin = EventRateLimit::new(Some(&limit)).unwrap();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let faults = |key: &str, now| plugin.faults(|_| key.to_owned(), now);
        assert!(faults("a", start).is_empty() && faults("a", start).is_empty());
        assert_eq!(faults("a", start), ["limit reached on type Namespace for key a"]);
        assert!(faults("b", start).is_empty(), "every key has its own");
        assert!(faults("a", after(1)).is_empty());
        assert!(!faults("a", after(1)).is_empty());
        // A third key pushes the oldest out, which starts anew.
        assert!(faults("c", after(2)).is_empty());
        assert!(faults("b", after(2)).is_empty() && faults("b", after(2)).is_empty());
    }

    #[test]
    fn bad_configurations_are_refused() {
        let refused =
            |limits: Value| EventRateLimit::new(Some(&json!({"limits": limits}))).is_err();
        assert!(EventRateLimit::new(None).is_err() && refused(json!([])));
        assert!(refused(json!([{"type": "Other", "qps": 1, "burst": 1}])));
        assert!(refused(json!([{"type": "Server", "qps": 0, "burst": 1}])));
        assert!(refused(json!([{"type": "User", "qps": 1, "burst": 1, "cacheSize": -1}])));
    }

    #[test]
    fn both_forms_of_an_event_have_one_key() {
        let object = json!({"kind": "Pod", "name": "p"});
        let old = json!({"source": {"component": "c"}, "involvedObject": object});
        let new = json!({"deprecatedSource": {"component": "c"}, "regarding": object});
        assert_eq!(source_and_object(&old), "cPodp");
        assert_eq!(source_and_object(&old), source_and_object(&new));
    }
}
