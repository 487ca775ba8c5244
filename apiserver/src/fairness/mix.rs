//! How many requests read and how many change, while they wait and while they run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::utilization::Utilization;

/// Bounds of requests, as part of those that may be there.
const REQUESTS: &[f64] =
    &[0.0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is in a queue.
    Waiting,
    /// It holds a seat.
    Running,
}

/// Requests of one kind in one phase.
#[derive(Debug)]
struct Group {
    present: u32,
    utilization: Utilization,
}

/// Requests by phase and kind.
#[derive(Debug)]
pub struct Mix {
    epoch: Instant,
    /// Waiting and reading, waiting and changing, running and reading, running and changing.
    groups: [Mutex<Group>; 4],
}

impl Mix {
    /// Nobody is there; times are counted from `epoch` on.
    pub fn new(epoch: Instant) -> Self {
        let group =
            || Group { present: 0, utilization: Utilization::new(REQUESTS, epoch.elapsed()) };
        Self { epoch, groups: std::array::from_fn(|_| Mutex::new(group())) }
    }

    fn group(&self, phase: Phase, changes: bool) -> &Mutex<Group> {
        &self.groups[usize::from(phase == Phase::Running) * 2 + usize::from(changes)]
    }

    /// A request is in this phase until the guard is dropped.
    pub fn enter(self: &Arc<Self>, phase: Phase, changes: bool) -> Present {
        self.change(phase, changes, |present| present + 1);
        Present { mix: self.clone(), phase, changes }
    }

    fn change(&self, phase: Phase, changes: bool, change: impl FnOnce(u32) -> u32) {
        let mut group = self.group(phase, changes).lock();
        group.present = change(group.present);
        let present = group.present.into();
        group.utilization.set(self.epoch.elapsed(), present);
    }

    /// How many requests may be in this phase.
    pub fn measure_by(&self, phase: Phase, changes: bool, most: f64) {
        self.group(phase, changes).lock().utilization.measure_by(self.epoch.elapsed(), most);
    }

    /// What was seen of a phase up to now.
    pub fn seen(&self, phase: Phase, changes: bool) -> Utilization {
        let now: Duration = self.epoch.elapsed();
        self.group(phase, changes).lock().utilization.until(now)
    }
}

/// A request in a phase, until it is dropped.
#[derive(Debug)]
pub struct Present {
    mix: Arc<Mix>,
    phase: Phase,
    changes: bool,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.mix.change(self.phase, self.changes, |present| present - 1);
    }
}
