//! exec and attach: the streams of a process, spliced to the client's.

use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::routes::Query;
use super::session::{self, Outcome, Session, Wish};
use super::{Request, Response, Shared, text};
use crate::runtime::{BoxRead, ContainerId, ExecIo, ExecSpec};

/// A child that keeps the output open must not keep the client: this long after the exit it is over.
const LINGER: Duration = Duration::from_secs(2);

pub(super) fn serve(
    shared: &Shared,
    request: Request,
    query: &Query,
    id: String,
    attach: bool,
) -> Response {
    // The API server's names of the flags, and the API's.
    let wish = Wish {
        stdin: query.flag("input") || query.flag("stdin"),
        stdout: query.flag("output") || query.flag("stdout"),
        stderr: query.flag("error") || query.flag("stderr"),
        tty: query.flag("tty"),
    };
    if !(wish.stdin || wish.stdout || wish.stderr) {
        let refusal = "you must specify at least 1 of stdin, stdout, stderr";
        return text(StatusCode::BAD_REQUEST, refusal);
    }
    let command = query.all("command");
    if !attach && command.is_empty() {
        return text(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 command for the container",
        );
    }
    let runtime = shared.ctx.runtime.clone();
    let id = ContainerId(id);
    session::accept(request, wish, move |session| async move {
        let opened = if attach {
            runtime.attach(&id).await
        } else {
            let spec = ExecSpec {
                command,
                tty: wish.tty,
                stdin: wish.stdin,
                stdout: wish.stdout,
                stderr: wish.stderr && !wish.tty,
                size: None,
            };
            runtime.exec(&id, &spec).await
        };
        match opened {
            Ok(process) => splice(session, process, attach).await,
            Err(error) => {
                let what = if attach { "attaching to" } else { "executing command in" };
                let message = format!("error {what} container: {error}");
                session.error.tell(&Outcome::Internal(message)).await;
            }
        }
    })
}

async fn splice(session: Session, process: ExecIo, attach: bool) {
    let Session { stdin, stdout, stderr, error, mut resize, gone } = session;
    let ExecIo { stdin: to, stdout: out, stderr: err, resize: sizes, exit } = process;
    let feeding = tokio::spawn(async move {
        if let (Some(mut from), Some(mut to)) = (stdin, to) {
            tokio::io::copy(&mut from, &mut to).await.ok();
            to.shutdown().await.ok();
        }
    });
    let resizing = tokio::spawn(async move {
        while let Some(size) = resize.recv().await {
            if let Some(sizes) = &sizes {
                let _ = sizes.send(size).await;
            }
        }
    });
    let output = async { tokio::join!(pour(out, stdout), pour(err, stderr)) };
    tokio::pin!(output);
    let (mut exit, mut drained) = (exit, false);
    let code = loop {
        tokio::select! {
            code = &mut exit => break Some(code),
            _ = &mut output, if !drained => drained = true,
        }
        if drained && attach {
            // Some processes close their output and live on.
            break Some(exit.await);
        }
    };
    if !drained {
        let _ = tokio::time::timeout(LINGER, output).await;
    }
    tracing::debug!(?code, drained, "process ended");
    let outcome = match code {
        Some(Ok(0)) | None => Outcome::Success,
        Some(Ok(code)) => Outcome::Exit(code),
        Some(Err(error)) => Outcome::Internal(error.to_string()),
    };
    error.tell(&outcome).await;
    feeding.abort();
    resizing.abort();
    drop(gone);
}

async fn pour(from: Option<BoxRead>, to: Option<tokio::io::DuplexStream>) {
    match (from, to) {
        (Some(mut from), Some(mut to)) => {
            tokio::io::copy(&mut from, &mut to).await.ok();
            to.shutdown().await.ok();
        }
        // Nobody wants it, but the process must not block.
        (Some(mut from), None) => {
            let mut sink = vec![0; 4096];
            while let Ok(1..) = from.read(&mut sink).await {}
        }
        (None, Some(mut to)) => {
            to.shutdown().await.ok();
        }
        (None, None) => (),
    }
}
