//! Events: what happened to a user's object, told once.
//!
//! kube's own recorder takes two events that differ only in their text for one and drops the
//! second text; here equal events are counted in a series, similar ones are combined after the
//! tenth, and a source that talks too much about one object is quieted, as client-go does.
//!
//! Source: client-go `tools/record/events_cache.go`; events.k8s.io/v1.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event as ApiEvent, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::{Clock, call::is_namespace_ending, error::chain};

/// Events that wait for the server; beyond this they are dropped, since they are only news.
const QUEUE: usize = 1000;

/// Window in which equal and similar events belong together. Source: client-go.
const WINDOW: Duration = Duration::from_mins(10);

/// Similar events (equal but for their text) before they are combined. Source: client-go.
const COMBINE_AFTER: usize = 10;

/// Events at once about one object, and the time after which one more is allowed. Source: client-go.
const BURST: (u32, Duration) = (25, Duration::from_mins(5));

/// Longest text that the API takes, in characters (its limit is 1024 bytes; most texts are ASCII).
const LONGEST_NOTE: usize = 1000;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `Normal`, or `Warning` if somebody may have to act.
    pub warning: bool,
    /// Why, in PascalCase; people and tools match on it, so it equals upstream's.
    pub reason: &'static str,
    /// What was done, in PascalCase; upstream's new-style field, not shown by `kubectl describe`.
    pub action: &'static str,
    /// The sentence that `kubectl describe` shows.
    pub note: String,
    /// Another object that it is about.
    pub related: Option<ObjectReference>,
}

impl Event {
    /// An event of type `Normal` whose action is its reason.
    #[must_use]
    pub fn normal(reason: &'static str, note: impl Into<String>) -> Self {
        Self { warning: false, reason, action: reason, note: note.into(), related: None }
    }

    /// An event of type `Warning` whose action is its reason.
    #[must_use]
    pub fn warning(reason: &'static str, note: impl Into<String>) -> Self {
        Self { warning: true, ..Self::normal(reason, note) }
    }
}

/// Publishes events in the background. Cheap to clone; all clones share.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<(ObjectReference, Event, Timestamp)>,
    clock: Arc<dyn Clock>,
}

impl Recorder {
    /// A recorder that calls itself `source`. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(
        client: Client,
        source: &'static str,
        identity: &str,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let publisher = Publisher {
            client,
            source,
            identity: identity.chars().take(128).collect(),
            correlator: Correlator::default(),
        };
        // Ends with the last clone of the recorder.
        tokio::spawn(publisher.run(receiver));
        Self { sender, clock }
    }

    /// Tells that `event` happened to `object`. Never waits and never fails: a lost event is logged.
    pub fn publish<K: Resource<DynamicType = ()>>(&self, object: &K, event: Event) {
        self.publish_about(object.object_ref(&()), event);
    }

    /// As [`Self::publish`], about an object known only by reference.
    pub fn publish_about(&self, regarding: ObjectReference, event: Event) {
        if self.sender.try_send((regarding, event, self.clock.now())).is_err() {
            warn!("event dropped, too many wait");
        }
    }
}

struct Publisher {
    client: Client,
    source: &'static str,
    identity: String,
    correlator: Correlator,
}

impl Publisher {
    async fn run(mut self, mut receiver: mpsc::Receiver<(ObjectReference, Event, Timestamp)>) {
        while let Some((regarding, event, now)) = receiver.recv().await {
            let decision = self.correlator.decide(&regarding, &event, now);
            match self.publish(regarding, &event, decision, now).await {
                Err(error) if is_namespace_ending(&error) => {
                    debug!(reason = event.reason, "no events are made in a namespace that ends");
                }
                Err(error) => {
                    warn!(reason = event.reason, error = chain(&error), "event was not published");
                }
                Ok(()) => {}
            }
        }
    }

    async fn publish(
        &mut self,
        regarding: ObjectReference,
        event: &Event,
        decision: Decision,
        now: Timestamp,
    ) -> Result<(), kube::Error> {
        let namespace = regarding.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let events = Api::<ApiEvent>::namespaced(self.client.clone(), &namespace);
        match decision {
            Decision::Drop => {
                debug!(reason = event.reason, "event dropped, too many about one object");
                Ok(())
            }
            Decision::Create { name, note } => {
                let event = self.api_event(regarding, event, (name, note), namespace, now);
                events.create(&PostParams::default(), &event).await.map(drop)
            }
            Decision::Repeat { name, note, count } => {
                let series = EventSeries { count, last_observed_time: MicroTime(now) };
                let patch = Patch::Merge(json!({ "series": series, "note": note }));
                match events.patch(&name, &PatchParams::default(), &patch).await {
                    // Expired on the server.
                    Err(kube::Error::Api(status)) if status.is_not_found() => {
                        let event = self.api_event(regarding, event, (name, note), namespace, now);
                        events.create(&PostParams::default(), &event).await.map(drop)
                    }
                    result => result.map(drop),
                }
            }
        }
    }

    fn api_event(
        &self,
        regarding: ObjectReference,
        event: &Event,
        (name, note): (String, String),
        namespace: String,
        now: Timestamp,
    ) -> ApiEvent {
        ApiEvent {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            action: Some(event.action.to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(note.chars().take(LONGEST_NOTE).collect()),
            reason: Some(event.reason.to_owned()),
            regarding: Some(regarding),
            related: event.related.clone(),
            reporting_controller: Some(self.source.to_owned()),
            reporting_instance: Some(self.identity.clone()),
            type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
            ..ApiEvent::default()
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Create { name: String, note: String },
    Repeat { name: String, note: String, count: i32 },
    Drop,
}

/// Which events belong together; no I/O.
#[derive(Default)]
struct Correlator {
    objects: HashMap<String, About>,
    /// Nanoseconds in the last name, so that no two are equal.
    last_name: i128,
}

/// What makes events similar: warning or not, reason and action.
type Kind = (bool, &'static str, &'static str);

/// What was said about one object.
struct About {
    last: Timestamp,
    /// Events that may still be told at once, and when that was worked out.
    budget: (u32, Timestamp),
    /// Different texts, by type, reason and action.
    similar: HashMap<Kind, Vec<(String, Timestamp)>>,
    /// What was created, by what must be equal.
    told: HashMap<(Kind, String), Told>,
}

/// An event object: its name, count and last time.
type Told = (String, i32, Timestamp);

impl Correlator {
    fn decide(&mut self, regarding: &ObjectReference, event: &Event, now: Timestamp) -> Decision {
        let recent = |at: Timestamp, window: Duration| {
            now.duration_since(at) <= jiff::SignedDuration::try_from(window).unwrap_or_default()
        };
        if self.objects.len() >= 256 {
            self.objects.retain(|_, about| recent(about.last, WINDOW));
        }
        let uid = regarding.uid.as_deref().unwrap_or_default();
        let key = format!(
            "{uid}/{}/{}/{}",
            regarding.kind.as_deref().unwrap_or_default(),
            regarding.namespace.as_deref().unwrap_or_default(),
            regarding.name.as_deref().unwrap_or_default()
        );
        let about = self.objects.entry(key).or_insert_with(|| About {
            last: now,
            budget: (BURST.0, now),
            similar: HashMap::new(),
            told: HashMap::new(),
        });
        about.last = now;
        let refilled =
            now.duration_since(about.budget.1).as_secs().max(0) as u64 / BURST.1.as_secs();
        if refilled > 0 {
            let budget = about.budget.0.saturating_add(u32::try_from(refilled).unwrap_or(u32::MAX));
            about.budget = (budget.min(BURST.0), now);
        }
        if about.budget.0 == 0 {
            return Decision::Drop;
        }
        about.budget.0 -= 1;
        about.told.retain(|_, (_, _, at)| recent(*at, WINDOW));

        let kind = (event.warning, event.reason, event.action);
        let texts = about.similar.entry(kind).or_default();
        texts.retain(|(_, at)| recent(*at, WINDOW));
        match texts.iter_mut().find(|(text, _)| *text == event.note) {
            Some((_, at)) => *at = now,
            None => texts.push((event.note.clone(), now)),
        }
        let combined = texts.len() > COMBINE_AFTER;
        let note = if combined {
            texts.drain(..texts.len() - COMBINE_AFTER - 1);
            format!("(combined from similar events): {}", event.note)
        } else {
            event.note.clone()
        };
        let told_as = if combined { String::new() } else { event.note.clone() };
        match about.told.entry((kind, told_as)) {
            Entry::Occupied(mut told) => {
                let (name, count, at) = told.get_mut();
                *count += 1;
                *at = now;
                Decision::Repeat { name: name.clone(), note, count: *count }
            }
            Entry::Vacant(new) => {
                // `<object>.<nanoseconds in hexadecimal>`, as client-go names them.
                self.last_name = now.as_nanosecond().max(self.last_name + 1);
                let name = format!(
                    "{}.{:x}",
                    regarding.name.as_deref().unwrap_or("unnamed"),
                    self.last_name
                );
                new.insert((name.clone(), 1, now));
                Decision::Create { name, note }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn object(name: &str) -> ObjectReference {
        ObjectReference { name: Some(name.into()), ..ObjectReference::default() }
    }

    fn say(correlator: &mut Correlator, note: &str, second: i64) -> String {
        match correlator.decide(&object("rs"), &Event::normal("Did", note), at(second)) {
            Decision::Create { note, .. } => format!("create {note}"),
            Decision::Repeat { note, count, .. } => format!("x{count} {note}"),
            Decision::Drop => "drop".into(),
        }
    }

    #[test]
    fn equal_events_are_counted() {
        let c = &mut Correlator::default();
        assert_eq!(say(c, "a", 0), "create a");
        assert_eq!(say(c, "a", 1), "x2 a");
        assert_eq!(say(c, "b", 2), "create b");
        assert_eq!(say(c, "a", 3), "x3 a");
        assert_eq!(say(c, "a", 3 + 601), "create a");
    }

    #[test]
    fn the_eleventh_similar_event_is_combined() {
        let c = &mut Correlator::default();
        for i in 0..10 {
            assert_eq!(say(c, &i.to_string(), i), format!("create {i}"));
        }
        assert_eq!(say(c, "10", 10), "create (combined from similar events): 10");
        assert_eq!(say(c, "11", 11), "x2 (combined from similar events): 11");
    }

    #[test]
    fn who_talks_too_much_about_one_object_is_quieted() {
        let c = &mut Correlator::default();
        for i in 0..25 {
            assert_ne!(say(c, "a", i), "drop");
        }
        assert_eq!(say(c, "a", 30), "drop");
        let other = c.decide(&object("other"), &Event::normal("Did", "a"), at(30));
        assert!(matches!(other, Decision::Create { .. }));
        assert_ne!(say(c, "a", 330), "drop");
        assert_eq!(say(c, "a", 331), "drop");
    }
}
