//! Many equal writes, begun carefully.

use std::future::Future;

use futures::future::join_all;

/// How far [`slow_start`] came.
#[derive(Debug, PartialEq, Eq)]
pub struct Progress<E> {
    /// Writes that succeeded.
    pub n_done: usize,
    /// Writes that were never tried, because an earlier one failed.
    pub n_skipped: usize,
    /// The first failure.
    pub error: Option<E>,
}

/// Runs `write(0..count)` in batches of 1, 2, 4, … at once, and stops after a batch with a failure.
///
/// A full quota then costs one refusal, not `count`.
///
/// Source: `slowStartBatch` in upstream `pkg/controller/controller_utils.go`.
pub async fn slow_start<F, W, E>(count: usize, mut write: W) -> Progress<E>
where
    W: FnMut(usize) -> F,
    F: Future<Output = Result<(), E>>,
{
    let (mut n_done, mut next, mut batch) = (0, 0, 1);
    while next < count {
        let end = count.min(next + batch);
        let results = join_all((next..end).map(&mut write)).await;
        next = end;
        batch *= 2;
        let mut error = None;
        for result in results {
            match result {
                Ok(()) => n_done += 1,
                Err(failure) => error = error.or(Some(failure)),
            }
        }
        if error.is_some() {
            return Progress { n_done, n_skipped: count - next, error };
        }
    }
    Progress { n_done, n_skipped: 0, error: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(count: usize, fails_from: usize, expected: Progress<usize>) {
        let write = async |i: usize| if i < fails_from { Ok(()) } else { Err(i) };
        assert_eq!(slow_start(count, write).await, expected);
    }

    #[tokio::test]
    async fn a_failure_stops_after_its_batch() {
        check(10, 10, Progress { n_done: 10, n_skipped: 0, error: None }).await;
        check(10, 0, Progress { n_done: 0, n_skipped: 9, error: Some(0) }).await;
        // Batches are 0, 1..=2, 3..=6, 7..=9.
        check(10, 4, Progress { n_done: 4, n_skipped: 3, error: Some(4) }).await;
        check(0, 0, Progress { n_done: 0, n_skipped: 0, error: None }).await;
    }
}
