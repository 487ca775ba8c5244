//! The stream of one watch, the same for every store.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc;

use crate::{Error, Event, Result, Revision};

/// What a watch delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// A change.
    Event(Arc<Event>),
    /// Every change up to this revision has been delivered.
    Progress(Revision),
}

/// The revision of the newest change that a store has handed to a watch.
///
/// A reader who has seen this much has seen every change under the watch's prefix that the store knew, without
/// asking it; see [`Store::catch_up`](crate::Store::catch_up).
#[derive(Debug, Clone)]
pub struct Position(Arc<AtomicU64>);

/// The position of a watch that gets no more changes.
const ENDED: Revision = Revision::MAX;

impl Position {
    /// The revision now; `None` if the watch has ended, and so tells nothing about what is new.
    pub fn get(&self) -> Option<Revision> {
        Some(self.0.load(Ordering::Acquire)).filter(|revision| *revision != ENDED)
    }
}

/// A store's end of a watch.
#[derive(Debug)]
pub struct WatchSender {
    items: mpsc::Sender<WatchItem>,
    position: Arc<AtomicU64>,
    lagged: Arc<AtomicBool>,
}

impl WatchSender {
    /// Queues a change; `false` if the watch is gone or has fallen behind, and the sender is to be dropped.
    pub fn send(&self, event: &Arc<Event>) -> bool {
        // Before it is there: who has read it must not be told an older position. Who waits for it will get it, or
        // hear that the watch has ended.
        self.position.store(event.revision, Ordering::Release);
        match self.items.try_send(WatchItem::Event(event.clone())) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lag();
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    /// Tells the watch that it has missed changes; the sender is to be dropped.
    pub fn lag(&self) {
        self.lagged.store(true, Ordering::Release);
    }

    /// Tells the watch that it is complete up to `revision`; skipped if its queue is full.
    pub fn progress(&self, revision: Revision) {
        let _ = self.items.try_send(WatchItem::Progress(revision));
    }
}

impl Drop for WatchSender {
    fn drop(&mut self) {
        self.position.store(ENDED, Ordering::Release);
    }
}

/// Changes under a prefix, in order, each once.
pub struct WatchStream {
    prefix: Arc<str>,
    backlog: VecDeque<Arc<Event>>,
    items: mpsc::Receiver<WatchItem>,
    position: Position,
    lagged: Arc<AtomicBool>,
    map: Option<Map>,
    /// Why `map` gave up; nothing comes after the change that it could not do.
    failed: Option<Error>,
}

/// What a store above another one makes of its changes.
type Map = Box<dyn Fn(Arc<Event>) -> Result<Arc<Event>> + Send + Sync>;

impl std::fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchStream").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl WatchStream {
    /// A watch that first delivers `backlog`, then what is sent; at most `capacity` changes may wait.
    pub fn channel(
        prefix: Arc<str>,
        from: Revision,
        backlog: VecDeque<Arc<Event>>,
        capacity: usize,
    ) -> (WatchSender, WatchStream) {
        let (sender, items) = mpsc::channel(capacity);
        let position = Arc::new(AtomicU64::new(backlog.back().map_or(from, |e| e.revision)));
        let lagged = Arc::new(AtomicBool::new(false));
        let stream = WatchStream {
            prefix,
            backlog,
            items,
            position: Position(position.clone()),
            lagged: lagged.clone(),
            map: None,
            failed: None,
        };
        (WatchSender { items: sender, position, lagged }, stream)
    }

    /// The same watch with another form of each change.
    #[must_use]
    pub fn map(
        mut self,
        map: impl Fn(Arc<Event>) -> Result<Arc<Event>> + Send + Sync + 'static,
    ) -> Self {
        self.map = Some(match self.map.take() {
            Some(first) => Box::new(move |event| map(first(event)?)),
            None => Box::new(map),
        });
        self
    }

    /// Where the store is with this watch.
    pub fn position(&self) -> Position {
        self.position.clone()
    }

    /// The next item, as soon as there is one.
    ///
    /// # Errors
    /// [`Error::Lagged`] once if the watch was not read fast enough, [`Error::Unreadable`] if a change cannot be
    /// decrypted, [`Error::Closed`] if the store is gone.
    pub async fn recv(&mut self) -> Result<WatchItem> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if let Some(event) = self.backlog.pop_front() {
            return self.mapped(WatchItem::Event(event));
        }
        match self.items.recv().await {
            Some(item) => self.mapped(item),
            None => Err(self.end()),
        }
    }

    /// The next item if it is there already.
    ///
    /// # Errors
    /// As [`WatchStream::recv`].
    pub fn try_recv(&mut self) -> Result<Option<WatchItem>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if let Some(event) = self.backlog.pop_front() {
            return self.mapped(WatchItem::Event(event)).map(Some);
        }
        match self.items.try_recv() {
            Ok(item) => self.mapped(item).map(Some),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => Err(self.end()),
        }
    }

    fn mapped(&mut self, item: WatchItem) -> Result<WatchItem> {
        let (Some(map), WatchItem::Event(event)) = (&self.map, &item) else { return Ok(item) };
        match map(event.clone()) {
            Ok(event) => Ok(WatchItem::Event(event)),
            Err(error) => {
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    fn end(&self) -> Error {
        if self.lagged.load(Ordering::Acquire) {
            Error::Lagged { prefix: self.prefix.clone() }
        } else {
            Error::Closed
        }
    }
}
