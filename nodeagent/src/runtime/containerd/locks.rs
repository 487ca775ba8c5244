//! One lock a name.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

/// Locks by name; names are forgotten with their last holder.
#[derive(Default)]
pub(super) struct Locks {
    by_name: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

impl Locks {
    /// The lock of a name, the same one for all that ask while somebody has it.
    pub(super) fn of(&self, name: &str) -> Arc<AsyncMutex<()>> {
        let mut by_name = self.by_name.lock();
        by_name.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = by_name.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(AsyncMutex::new(()));
        by_name.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }
}
