//! Time as a value that tests can step.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

/// Where a player gets the time from; planners get it as data instead.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock, for what is written into objects.
    fn now(&self) -> Timestamp;

    /// Time since the clock was made; never goes back, whatever the wall clock does.
    fn elapsed(&self) -> Duration;

    /// Ends once `duration` has passed on this clock.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The machine's clock.
#[derive(Debug)]
pub struct RealClock(Instant);

impl RealClock {
    /// A clock whose [`Clock::elapsed`] starts at zero now.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that stands still until a test steps it.
#[derive(Debug)]
pub struct SteppedClock {
    start: Timestamp,
    elapsed: watch::Sender<Duration>,
}

impl SteppedClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn at(start: Timestamp) -> Arc<Self> {
        Arc::new(Self { start, elapsed: watch::Sender::new(Duration::ZERO) })
    }

    /// Moves the clock forward and wakes the sleepers whose time has come.
    pub fn step(&self, by: Duration) {
        self.elapsed.send_modify(|elapsed| *elapsed += by);
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.elapsed()).unwrap_or(SignedDuration::MAX);
        self.start.checked_add(elapsed).unwrap_or(Timestamp::MAX)
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.borrow()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut elapsed = self.elapsed.subscribe();
        let until = *elapsed.borrow() + duration;
        Box::pin(async move {
            if elapsed.wait_for(|now| *now >= until).await.is_err() {
                std::future::pending::<()>().await; // The clock is gone, so time never comes.
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_sleeper_wakes_when_its_time_has_come() {
        let clock = SteppedClock::at(Timestamp::UNIX_EPOCH);
        let mut sleep = clock.sleep(Duration::from_secs(10));
        assert!((&mut sleep).now_or_never().is_none());
        clock.step(Duration::from_secs(9));
        assert!((&mut sleep).now_or_never().is_none());
        clock.step(Duration::from_secs(1));
        sleep.await;
        assert_eq!(clock.now(), Timestamp::from_second(10).unwrap());
    }
}
