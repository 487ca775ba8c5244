//! One supervisor for everything long-lived, so that no task dies unseen.

use std::{future::Future, time::Duration};

use futures::{Stream, StreamExt};
use tokio::task::JoinSet;
use tracing::warn;

use crate::Error;

/// Time for requests under way when a player is asked to stop.
const FAREWELL: Duration = Duration::from_secs(5);

/// The long-lived tasks of a process or of a player; dropping it aborts them.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<Ended>,
    names: Vec<(tokio::task::Id, &'static str)>,
}

/// A task that has ended, and how.
pub type Ended = (&'static str, Result<(), Error>);

impl Tasks {
    /// Starts `task`; `name` is what the error names if it fails.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        let handle = self.set.spawn(async move { (name, task.await) });
        self.names.push((handle.id(), name));
    }

    /// Waits for whichever task ends first; a panic is an error too. `None` without tasks.
    pub async fn first_to_end(&mut self) -> Option<Ended> {
        match self.set.join_next().await? {
            Ok(ended) => Some(ended),
            Err(join) => {
                let name = self.names.iter().find(|(id, _)| *id == join.id());
                let name = name.map_or("unnamed", |(_, name)| *name);
                Some((name, Err(Error::TaskPanicked { task: name, source: Box::new(join) })))
            }
        }
    }

    /// Waits up to `grace` for all tasks, then aborts the rest; the first error is the result.
    ///
    /// # Errors
    /// The first error of a task, or [`Error::TaskStuck`] if one had to be aborted.
    pub async fn finish(mut self, grace: Duration) -> Result<(), Error> {
        let mut result = Ok(());
        let all = async {
            while let Some((_, ended)) = self.first_to_end().await {
                if result.is_ok() {
                    result = ended;
                }
            }
        };
        if tokio::time::timeout(grace, all).await.is_err() && result.is_ok() {
            return Err(Error::TaskStuck { grace });
        }
        result
    }
}

/// Lets the requests of a player that stops be answered, for a while.
pub async fn let_finish<T>(requests: impl Stream<Item = T>) {
    let all = requests.for_each(|_| std::future::ready(()));
    if tokio::time::timeout(FAREWELL, all).await.is_err() {
        warn!("stopped with requests under way");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_that_names_its_task() {
        let mut tasks = Tasks::default();
        tasks.spawn("waits", std::future::pending());
        tasks.spawn("breaks", async { panic!("on purpose") });
        let (name, result) = tasks.first_to_end().await.unwrap();
        assert_eq!(name, "breaks");
        assert!(matches!(result, Err(Error::TaskPanicked { task: "breaks", .. })));
    }

    #[tokio::test]
    async fn what_does_not_end_is_aborted() {
        let mut tasks = Tasks::default();
        tasks.spawn("waits", std::future::pending());
        let result = tasks.finish(Duration::from_millis(5)).await;
        assert!(matches!(result, Err(Error::TaskStuck { .. })));
    }
}
