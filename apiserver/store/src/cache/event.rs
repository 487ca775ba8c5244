//! Changes of objects, their wire form, and the ring of recent ones.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use super::Object;
use crate::{Error, Result, Revision};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is new.
    Added,
    /// It changed.
    Modified,
    /// It is gone.
    Deleted,
}

impl Kind {
    /// The `type` of a watch event.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Added => "ADDED",
            Kind::Modified => "MODIFIED",
            Kind::Deleted => "DELETED",
        }
    }
}

/// A change of one object, shared by all subscribers.
#[derive(Debug)]
pub struct CacheEvent {
    /// What happened.
    pub kind: Kind,
    /// The object after the change; if deleted, its last state with the revision of the deletion.
    pub object: Arc<Object>,
    /// The object before the change; `None` if added.
    pub previous: Option<Arc<Object>>,
    /// The revision of the change.
    pub revision: Revision,
    frame: OnceLock<Bytes>,
}

impl CacheEvent {
    pub(super) fn set(object: Arc<Object>, previous: Option<Arc<Object>>) -> Self {
        let kind = if previous.is_some() { Kind::Modified } else { Kind::Added };
        let revision = object.revision();
        CacheEvent { kind, object, previous, revision, frame: OnceLock::new() }
    }

    pub(super) fn deleted(previous: Arc<Object>, revision: Revision) -> Self {
        let object = Arc::new(previous.at(revision));
        CacheEvent {
            kind: Kind::Deleted,
            object,
            previous: Some(previous),
            revision,
            frame: OnceLock::new(),
        }
    }

    /// The same change of other forms of the objects.
    #[must_use]
    pub fn of(&self, object: Arc<Object>, previous: Option<Arc<Object>>) -> Self {
        CacheEvent {
            kind: self.kind,
            object,
            previous,
            revision: self.revision,
            frame: OnceLock::new(),
        }
    }

    /// `{"type":…,"object":…}` and a line feed; built once, then shared.
    pub fn frame(&self) -> Bytes {
        self.frame.get_or_init(|| encode(self.kind, &self.object)).clone()
    }

    /// The frame for a watcher to whom this change looks like another kind, since a selector began or ceased to match.
    ///
    /// To one who sees a deletion because the object ceased to match, give the previous state at this revision,
    /// as Kubernetes does.
    pub fn frame_as(&self, kind: Kind) -> Bytes {
        match (kind, &self.previous) {
            _ if kind == self.kind => self.frame(),
            (Kind::Deleted, Some(previous)) => encode(kind, &previous.at(self.revision)),
            _ => encode(kind, &self.object),
        }
    }

    fn weight(&self) -> usize {
        self.object.json_len()
    }
}

fn encode(kind: Kind, object: &Object) -> Bytes {
    let mut frame = Vec::with_capacity(object.json_len() + 32);
    frame.extend_from_slice(br#"{"type":""#);
    frame.extend_from_slice(kind.as_str().as_bytes());
    frame.extend_from_slice(br#"","object":"#);
    object.write_json(&mut frame);
    frame.extend_from_slice(b"}\n");
    frame.into()
}

/// The most recent changes, oldest first.
#[derive(Debug)]
pub(super) struct Ring {
    events: VecDeque<Arc<CacheEvent>>,
    bytes: usize,
    /// All changes after this revision are in `events`.
    floor: Revision,
    most_events: usize,
    most_bytes: usize,
}

impl Ring {
    pub(super) fn new(floor: Revision, most_events: usize, most_bytes: usize) -> Self {
        Ring { events: VecDeque::new(), bytes: 0, floor, most_events, most_bytes }
    }

    pub(super) fn push(&mut self, event: Arc<CacheEvent>) {
        self.bytes += event.weight();
        self.events.push_back(event);
        while self.events.len() > self.most_events || self.bytes > self.most_bytes {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.weight();
            self.floor = oldest.revision;
        }
    }

    /// The changes after `from`.
    pub(super) fn after(&self, from: Revision) -> Result<VecDeque<Arc<CacheEvent>>> {
        if from < self.floor {
            return Err(Error::Compacted { requested: from, compacted: self.floor });
        }
        let start = self.events.partition_point(|e| e.revision <= from);
        Ok(self.events.range(start..).cloned().collect())
    }
}
