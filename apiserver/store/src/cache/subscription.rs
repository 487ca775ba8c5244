//! A subscriber's queue.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc;

use super::CacheEvent;
use crate::Revision;

/// Which changes a subscriber wants.
#[derive(Clone)]
pub enum Interest {
    /// All of the resource.
    All,
    /// Those of one namespace.
    Namespace(Arc<str>),
    /// Those for which the function says yes; it runs for each change, so it must be fast.
    ///
    /// A selector must say yes if the object *or* its previous state matches.
    Only(Arc<dyn Fn(&CacheEvent) -> bool + Send + Sync>),
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Interest::All => f.write_str("All"),
            Interest::Namespace(namespace) => write!(f, "Namespace({namespace})"),
            Interest::Only(_) => f.write_str("Only(…)"),
        }
    }
}

impl Interest {
    fn includes(&self, event: &CacheEvent) -> bool {
        match self {
            Interest::All => true,
            Interest::Namespace(namespace) => event.object.namespace() == Some(namespace),
            Interest::Only(decide) => decide(event),
        }
    }
}

/// The cache's end of a subscription.
pub(super) struct Slot {
    interest: Interest,
    queue: mpsc::Sender<Arc<CacheEvent>>,
}

impl Slot {
    pub(super) fn is_open(&self) -> bool {
        !self.queue.is_closed()
    }

    /// Queues the event if it is of interest; `false` if the queue is full and the subscriber is to be closed.
    pub(super) fn offer(&mut self, event: &Arc<CacheEvent>) -> bool {
        !self.interest.includes(event) || self.queue.try_send(event.clone()).is_ok()
    }
}

pub(super) fn pair(
    interest: Interest,
    mut backlog: VecDeque<Arc<CacheEvent>>,
    from: Revision,
    capacity: usize,
    delivered: Arc<AtomicU64>,
) -> (Slot, Subscription) {
    let start = backlog.back().map_or(from, |e| e.revision);
    backlog.retain(|event| interest.includes(event));
    let (sender, queue) = mpsc::channel(capacity);
    let subscription = Subscription { backlog, queue, start, seen: start, delivered };
    (Slot { interest, queue: sender }, subscription)
}

/// Changes of one resource, in order, each once.
#[derive(Debug)]
pub struct Subscription {
    backlog: VecDeque<Arc<CacheEvent>>,
    queue: mpsc::Receiver<Arc<CacheEvent>>,
    /// Changes up to here came before the subscription, or were in its first backlog.
    start: Revision,
    /// The newest change that was delivered, or was in the backlog.
    seen: Revision,
    delivered: Arc<AtomicU64>,
}

impl Subscription {
    /// The next change; `None` if the subscription was closed, because its queue was full or because the
    /// cache had to start again.
    pub async fn recv(&mut self) -> Option<Arc<CacheEvent>> {
        if let Some(event) = self.backlog.pop_front() {
            return Some(event);
        }
        loop {
            let event = self.queue.recv().await?;
            if self.is_new(&event) {
                return Some(event);
            }
        }
    }

    /// The next change if it is there already.
    pub fn try_recv(&mut self) -> Option<Arc<CacheEvent>> {
        if let Some(event) = self.backlog.pop_front() {
            return Some(event);
        }
        loop {
            let event = self.queue.try_recv().ok()?;
            if self.is_new(&event) {
                return Some(event);
            }
        }
    }

    /// The revision up to which everything was received, to be sent as a bookmark; `None` while changes wait.
    pub fn progress(&self) -> Option<Revision> {
        let delivered = self.delivered.load(Ordering::Acquire); // Before the look at the queue.
        (self.backlog.is_empty() && self.queue.is_empty()).then(|| delivered.max(self.seen))
    }

    /// Whether no more changes will come, once those that wait are received.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// The backlog and the queue overlap if a change was visible but not yet handed out at the start.
    /// One revision may bring several changes: etcd deletes all entries of a lease at once.
    fn is_new(&mut self, event: &CacheEvent) -> bool {
        self.seen = self.seen.max(event.revision);
        event.revision > self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entry, cache::Decoder};

    #[tokio::test]
    async fn one_revision_may_bring_several_changes() {
        let gone = |name: &str, revision: Revision| {
            let text = format!(r#"{{"metadata":{{"name":"{name}","namespace":"a"}}}}"#);
            let key = format!("/registry/core/events/a/{name}").into();
            let entry = Entry { key, value: text.into(), revision: 1 };
            let decode: crate::cache::Decode = Decoder::new(Vec::new()).into();
            Arc::new(CacheEvent::deleted(Arc::new(decode(&entry).unwrap()), revision))
        };
        let backlog = VecDeque::from([gone("a", 5)]);
        let (mut slot, mut subscription) =
            pair(Interest::All, backlog, 1, 8, Arc::new(AtomicU64::new(0)));
        for event in [gone("a", 5), gone("b", 6), gone("c", 6)] {
            assert!(slot.offer(&event));
        }
        drop(slot);
        let mut seen = Vec::new();
        while let Some(event) = subscription.recv().await {
            seen.push((event.object.name().to_owned(), event.revision));
        }
        assert_eq!(seen, [("a".into(), 5), ("b".into(), 6), ("c".into(), 6)]);
    }
}
