//! No request takes longer than it may: not while it waits or is answered, and not while its answer is read.
//!
//! Source: kubernetes.io, `kube-apiserver` reference, `--request-timeout`; upstream
//! `apiserver/pkg/endpoints/filters/request_deadline.go`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Core;
use crate::duration;
use crate::handlers::options::Query;
use crate::request::RequestInfo;
use crate::status::ApiError;

/// Ends a request at its deadline; watches and streams have none.
pub(super) async fn layer(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let most = core.config.fairness.request_timeout;
    let long = request.extensions().get::<RequestInfo>().is_some_and(RequestInfo::is_long_running);
    if long || most.is_zero() {
        return next.run(request).await;
    }
    let allowed = match wanted(request.uri().query()) {
        Ok(wanted) => wanted.filter(|wanted| *wanted < most).unwrap_or(most),
        Err(error) => return error.into_response(),
    };
    let deadline = Instant::now() + allowed;
    match tokio::time::timeout_at(deadline, next.run(request)).await {
        Ok(response) => bounded(response, deadline),
        Err(_elapsed) => ApiError::Timeout {
            message: "Timeout: request did not complete within the allotted timeout".to_owned(),
            retry_after: 0,
            causes: Vec::new(),
        }
        .into_response(),
    }
}

/// What the client allows; `0s` is no wish.
fn wanted(query: Option<&str>) -> Result<Option<Duration>, ApiError> {
    if !query.is_some_and(|query| query.contains("timeout=")) {
        return Ok(None);
    }
    let query = Query::parse(query);
    let Some(text) = query.get("timeout") else { return Ok(None) };
    if let Some(fault) = duration::fault(text) {
        let start = "invalid timeout specified in the request URL - time:";
        return Err(ApiError::BadRequest(format!("{start} {fault}")));
    }
    Ok(duration::parse(text).filter(|wanted| !wanted.is_zero()))
}

/// Lets go of an answer that is still being made when its time is up, even if nobody reads it.
fn bounded(response: Response, deadline: Instant) -> Response {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| {
        let shared = Arc::new(Mutex::new(Shared { body: Some(body), reader: None }));
        let timer = tokio::spawn({
            let shared = shared.clone();
            async move {
                tokio::time::sleep_until(deadline).await;
                let (body, reader) = {
                    let mut shared = shared.lock();
                    (shared.body.take(), shared.reader.take())
                };
                drop(body);
                reader.into_iter().for_each(Waker::wake);
            }
        });
        Body::new(Bounded { shared, timer: timer.abort_handle() })
    })
}

struct Shared {
    /// Gone when its time is up.
    body: Option<Body>,
    reader: Option<Waker>,
}

struct Bounded {
    shared: Arc<Mutex<Shared>>,
    timer: AbortHandle,
}

impl Drop for Bounded {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut shared = self.shared.lock();
        let Some(body) = &mut shared.body else {
            let late =
                std::io::Error::new(std::io::ErrorKind::TimedOut, "the request took too long");
            return Poll::Ready(Some(Err(axum::Error::new(late))));
        };
        let polled = Pin::new(body).poll_frame(task);
        if polled.is_pending() {
            shared.reader = Some(task.waker().clone());
        }
        Poll::Ready(ready!(polled))
    }

    fn is_end_stream(&self) -> bool {
        self.shared.lock().body.as_ref().is_some_and(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use http_body_util::BodyExt as _;

    #[test]
    fn clients_may_ask_for_less_time() {
        let check = |query: &str, expected: Result<Option<u64>, &str>| {
            let got = wanted(Some(query)).map(|d| d.map(|d| d.as_secs()));
            let got = got.map_err(|error| error.to_string());
            assert_eq!(got.as_ref().map_err(String::as_str), expected.as_ref().map_err(|e| *e));
        };
        check("timeout=5s", Ok(Some(5)));
        check("timeout=0s", Ok(None));
        check("timeout=0", Ok(None));
        check("timeoutSeconds=5", Ok(None));
        let start = "invalid timeout specified in the request URL - time:";
        check("timeout=5", Err(&format!("{start} missing unit in duration \"5\"")));
        check("timeout=soon", Err(&format!("{start} invalid duration \"soon\"")));
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_is_let_go() {
        let held = Arc::new(());
        let inside = held.clone();
        let endless = futures::stream::repeat_with(move || {
            let _ = &inside;
            Ok::<_, std::convert::Infallible>(Bytes::from_static(b"x"))
        });
        let response = Response::new(Body::from_stream(endless));
        let mut body = bounded(response, Instant::now() + Duration::from_millis(30)).into_body();
        assert!(body.frame().await.unwrap().is_ok());
        let patience = Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&held) > 1 {
            assert!(Instant::now() < patience, "the answer is still held");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn whoever_waits_for_more_is_told() {
        let never = futures::stream::pending::<Result<Bytes, std::convert::Infallible>>().boxed();
        let response = Response::new(Body::from_stream(never));
        let mut body = bounded(response, Instant::now() + Duration::from_millis(30)).into_body();
        assert!(body.frame().await.unwrap().is_err());
    }
}
