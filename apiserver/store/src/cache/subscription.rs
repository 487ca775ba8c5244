//! A subscriber's queue.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
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
    slow: Arc<AtomicBool>,
}

impl Slot {
    pub(super) fn is_open(&self) -> bool {
        !self.queue.is_closed()
    }

    /// Queues the event if it is of interest; `false` if the queue is full and the subscriber is to be closed.
    pub(super) fn offer(&mut self, event: &Arc<CacheEvent>) -> bool {
        if !self.interest.includes(event) {
            return true;
        }
        match self.queue.try_send(event.clone()) {
            Ok(()) => true,
            Err(refused) => {
                let full = matches!(refused, mpsc::error::TrySendError::Full(_));
                self.slow.store(full, Ordering::Release);
                false
            }
        }
    }
}

pub(super) fn pair(
    interest: Interest,
    mut backlog: VecDeque<Arc<CacheEvent>>,
    from: Revision,
    capacity: usize,
    delivered: Arc<AtomicU64>,
) -> (Slot, Subscription) {
    let newest = backlog.back().map_or(from, |e| e.revision);
    backlog.retain(|event| interest.includes(event));
    let (sender, queue) = mpsc::channel(capacity);
    let slow = Arc::new(AtomicBool::new(false));
    let subscription = Subscription { backlog, queue, seen: newest, slow: slow.clone(), delivered };
    (Slot { interest, queue: sender, slow }, subscription)
}

/// Changes of one resource, in order, each once.
#[derive(Debug)]
pub struct Subscription {
    backlog: VecDeque<Arc<CacheEvent>>,
    queue: mpsc::Receiver<Arc<CacheEvent>>,
    /// Changes up to here were delivered, or are in the backlog.
    seen: Revision,
    slow: Arc<AtomicBool>,
    delivered: Arc<AtomicU64>,
}

impl Subscription {
    /// The next change; `None` if the subscription was closed, because it was [slow](Subscription::was_slow)
    /// or because the cache had to start again.
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

    /// Whether the subscription was closed because its queue was full.
    pub fn was_slow(&self) -> bool {
        self.slow.load(Ordering::Acquire)
    }

    /// The backlog and the queue overlap if a change was visible but not yet handed out at the start.
    fn is_new(&mut self, event: &CacheEvent) -> bool {
        let new = event.revision > self.seen;
        self.seen = self.seen.max(event.revision);
        new
    }
}
