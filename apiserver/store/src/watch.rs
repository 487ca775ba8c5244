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
/// A reader who has seen this much has seen every answered commit, without asking the store.
#[derive(Debug, Clone)]
pub struct Position(Arc<AtomicU64>);

impl Position {
    /// The revision now.
    pub fn get(&self) -> Revision {
        self.0.load(Ordering::Acquire)
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
        match self.items.try_send(WatchItem::Event(event.clone())) {
            Ok(()) => {
                self.position.store(event.revision, Ordering::Release);
                true
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lagged.store(true, Ordering::Release);
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    /// Tells the watch that it is complete up to `revision`; skipped if its queue is full.
    pub fn progress(&self, revision: Revision) {
        let _ = self.items.try_send(WatchItem::Progress(revision));
    }
}

/// Changes under a prefix, in order, each once.
#[derive(Debug)]
pub struct WatchStream {
    prefix: Arc<str>,
    backlog: VecDeque<Arc<Event>>,
    items: mpsc::Receiver<WatchItem>,
    position: Option<Position>,
    lagged: Arc<AtomicBool>,
}

impl WatchStream {
    /// A watch that first delivers `backlog`, then what is sent; at most `capacity` changes may wait.
    ///
    /// Only a store in this process knows the watch's [`Position`]; others set `local` to false.
    pub fn channel(
        prefix: Arc<str>,
        from: Revision,
        backlog: VecDeque<Arc<Event>>,
        capacity: usize,
        local: bool,
    ) -> (WatchSender, WatchStream) {
        let (sender, items) = mpsc::channel(capacity);
        let position = Arc::new(AtomicU64::new(backlog.back().map_or(from, |e| e.revision)));
        let lagged = Arc::new(AtomicBool::new(false));
        let stream = WatchStream {
            prefix,
            backlog,
            items,
            position: local.then(|| Position(position.clone())),
            lagged: lagged.clone(),
        };
        (WatchSender { items: sender, position, lagged }, stream)
    }

    /// Where the store is with this watch, if the store lives in this process.
    pub fn position(&self) -> Option<Position> {
        self.position.clone()
    }

    /// The next item, as soon as there is one.
    ///
    /// # Errors
    /// [`Error::Lagged`] once if the watch was not read fast enough, [`Error::Closed`] if the store is gone.
    pub async fn recv(&mut self) -> Result<WatchItem> {
        if let Some(event) = self.backlog.pop_front() {
            return Ok(WatchItem::Event(event));
        }
        match self.items.recv().await {
            Some(item) => Ok(item),
            None => Err(self.end()),
        }
    }

    /// The next item if it is there already.
    ///
    /// # Errors
    /// As [`WatchStream::recv`].
    pub fn try_recv(&mut self) -> Result<Option<WatchItem>> {
        if let Some(event) = self.backlog.pop_front() {
            return Ok(Some(WatchItem::Event(event)));
        }
        match self.items.try_recv() {
            Ok(item) => Ok(Some(item)),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => Err(self.end()),
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
