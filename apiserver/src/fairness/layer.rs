//! The layer around requests: each one holds a seat from here until its answer is made, streamed answers
//! until they are sent, and watches until their state is.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};

use super::inflight::Slot;
use super::level::{Admission, Permit};
use super::mix::{Phase, Present};
use super::work::{Stats, estimate};
use super::{Fairness, Route};
use crate::identity::authz::MASTERS;
use crate::request::{RequestInfo, User};
use crate::server::Core;

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Holds a request back until there is a seat for it.
pub async fn layer(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let fairness = &core.fairness;
    let (begun, watch, changes) = {
        let info = request.extensions().get::<RequestInfo>();
        let user = request.extensions().get::<User>();
        let (Some(info), Some(user)) = (info, user) else { return next.run(request).await };
        if info.is_long_running() && info.verb != "watch" {
            return next.run(request).await;
        }
        (begin(&core, user, info, request.uri().query()), info.verb == "watch", info.changes())
    };
    match begun {
        Begun::Plain(None) => too_many_requests(1),
        Begun::Plain(Some(slot)) => {
            let running = fairness.mix().enter(Phase::Running, changes);
            held(next.run(request).await, (slot, running), watch)
        }
        Begun::Fair(route, admission) => {
            let patience = fairness.patience();
            let seat = match admission {
                Admission::Runs(permit) => Ok(permit),
                Admission::Waits(waiting) => {
                    let _waiting = fairness.mix().enter(Phase::Waiting, changes);
                    waiting.seat(patience).await
                }
                Admission::Refused { retry_after } => Err(retry_after),
            };
            let mut response = match seat {
                Ok(mut permit) => {
                    if watch {
                        permit.of_watch();
                    }
                    let running = fairness.mix().enter(Phase::Running, changes);
                    let response = next.run(request).await;
                    held(response, (permit, running), watch)
                }
                Err(retry_after) => too_many_requests(retry_after),
            };
            let headers = response.headers_mut();
            headers.insert(SCHEMA_UID, route.schema_uid.clone());
            headers.insert(LEVEL_UID, route.level_uid.clone());
            response
        }
    }
}

enum Begun {
    /// Without priorities: a place, or none.
    Plain(Option<Slot>),
    Fair(Arc<Route>, Admission),
}

fn begin(core: &Core, user: &User, info: &RequestInfo, query: Option<&str>) -> Begun {
    let fairness: &Fairness = &core.fairness;
    let route = fairness.route(user, info).filter(|_| fairness.options().enabled);
    let Some(route) = route else {
        return Begun::Plain(fairness.inflight.enter(info.changes(), user.in_group(MASTERS)));
    };
    let estimate = estimate(info, query, route.widest, || {
        let registry = core.registry();
        let resource = registry.find(&info.group, &info.resource)?;
        Some(Stats::of(resource.storage.as_ref()?.started()?, &info.verb))
    });
    let admission = fairness.admit(&route, user, info, estimate);
    Begun::Fair(route, admission)
}

/// The answer of a server that has no seat, in upstream's words.
fn too_many_requests(retry_after: u64) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::RETRY_AFTER, HeaderValue::from(retry_after)),
    ];
    let text = "Too many requests, please try again later.\n";
    (StatusCode::TOO_MANY_REQUESTS, headers, text).into_response()
}

/// Keeps the seat while the body is made, unless it is there already.
fn held<S: Seat>(response: Response, seat: S, watch: bool) -> Response {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| Body::new(Held { body, seat: Some(seat), watch }))
}

/// What is given back when a request is done.
trait Seat: Send + Unpin + 'static {}
impl Seat for (Permit, Present) {}
impl Seat for (Slot, Present) {}

/// A body that holds a seat until its end; that of a watch only until it has nothing more to send at once.
struct Held<S> {
    body: Body,
    seat: Option<S>,
    watch: bool,
}

impl<S: Seat> http_body::Body for Held<S> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_pending() && self.watch {
            self.seat = None;
        }
        let frame = ready!(polled);
        if !matches!(frame, Some(Ok(_))) {
            self.seat = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
