//! A connection whose other end does not read is closed, so that what waits for it is freed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::{Instant, Sleep};

/// A connection that fails when a write makes no progress for so long.
pub(super) struct Impatient<I> {
    io: I,
    patience: Duration,
    /// Set while a write waits.
    until: Option<Pin<Box<Sleep>>>,
}

impl<I> Impatient<I> {
    pub(super) fn new(io: I, patience: Duration) -> Self {
        Self { io, patience, until: None }
    }

    fn judge<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        task: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.until = None;
            return polled;
        }
        let deadline = Instant::now() + self.patience;
        let until = self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if until.as_mut().poll(task).is_pending() {
            return Poll::Pending;
        }
        let seconds = self.patience.as_secs();
        let text = format!("the client has not read anything for {seconds} s");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl<I: Read + Unpin> Read for Impatient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(task, into)
    }
}

impl<I: Write + Unpin> Write for Impatient<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(task, bytes);
        self.judge(polled, task)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(task);
        self.judge(polled, task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(task)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(task, bytes);
        self.judge(polled, task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_util::rt::TokioIo;
    use std::future::poll_fn;

    async fn write<I: Write + Unpin>(io: &mut Impatient<I>) -> io::Result<usize> {
        poll_fn(|task| Pin::new(&mut *io).poll_write(task, &[0; 64])).await
    }

    #[tokio::test]
    async fn a_reader_that_stops_is_given_up() {
        let (ours, theirs) = tokio::io::duplex(128);
        let patience = Duration::from_millis(30);
        let mut io = Impatient::new(TokioIo::new(ours), patience);
        let began = Instant::now();
        while let Ok(n) = write(&mut io).await {
            assert_eq!(n, 64);
        }
        assert!(began.elapsed() >= patience);
        drop(theirs);
    }

    #[tokio::test]
    async fn a_slow_reader_is_waited_for() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut io = Impatient::new(TokioIo::new(ours), Duration::from_secs(10));
        let reader = tokio::spawn(async move {
            let mut some = [0; 64];
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(5)).await;
                tokio::io::AsyncReadExt::read_exact(&mut theirs, &mut some).await.unwrap();
            }
        });
        for _ in 0..5 {
            write(&mut io).await.unwrap();
        }
        reader.await.unwrap();
        assert!(io.until.is_none());
    }
}
