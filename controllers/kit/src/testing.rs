//! Playing in a test, on any server that hands out a `kube::Client`.

use std::{future::Future, time::Duration};

use kube::Client;
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, InProcess, Player,
    lease::{BUILT_IN, CHART, Leadership},
    process::run_with_priority,
};

/// A player that plays until it is stopped, or killed by dropping this.
pub struct Playing {
    task: JoinHandle<Result<(), Error>>,
    shutdown: CancellationToken,
    leadership: watch::Receiver<Leadership>,
}

impl Playing {
    /// Starts `player` as the process named `identity`, through `client`, with a built-in one's rank.
    #[must_use]
    pub fn start(player: &'static Player, client: Client, identity: &str) -> Self {
        Self::start_ranked(player, client, identity, BUILT_IN)
    }

    /// The same with the rank of a chart's instance.
    #[must_use]
    pub fn start_as_chart(player: &'static Player, client: Client, identity: &str) -> Self {
        Self::start_ranked(player, client, identity, CHART)
    }

    fn start_ranked(
        player: &'static Player,
        client: Client,
        identity: &str,
        priority: u32,
    ) -> Self {
        let with = InProcess::new(client, identity);
        let (sender, leadership) = watch::channel(Leadership::Unknown);
        let shutdown = CancellationToken::new();
        let task =
            tokio::spawn(run_with_priority(player, with, priority, sender, shutdown.clone()));
        Self { task, shutdown, leadership }
    }

    /// Whether it leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        *self.leadership.borrow() == Leadership::Leading
    }

    /// Asks it to stop, as SIGTERM does, and waits until it has released its Lease.
    ///
    /// # Errors
    /// The error that it ended with.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.shutdown.cancel();
        match (&mut self.task).await {
            Ok(ended) => ended,
            Err(source) => Err(Error::TaskPanicked { task: "player", source: Box::new(source) }),
        }
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks again and again until the answer is what the test waits for.
///
/// # Panics
/// After `deadline`, with the last answer that was not: what `Err` says.
pub async fn eventually<T, F, R>(deadline: Duration, mut ask: F) -> T
where
    F: FnMut() -> R,
    R: Future<Output = Result<T, String>>,
{
    let give_up = Instant::now() + deadline;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(not_yet) => {
                assert!(Instant::now() < give_up, "still after {deadline:?}: {not_yet}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
