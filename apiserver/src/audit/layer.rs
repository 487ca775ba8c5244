//! The layer that records requests, between authentication and whatever follows.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll, ready};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use http_body::{Body as _, Frame, SizeHint};
use jiff::Timestamp;
use rand::Rng as _;

use super::Audit;
use super::context::{CURRENT, Context};
use super::event::{Event, Level, ObjectRef, ResponseStatus, Stage};
use crate::request::{RequestInfo, User};
use crate::server::Core;
use crate::status::{ApiError, Status};
use crate::write::decode;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// Longest user agent that is recorded.
///
/// Source: `maxUserAgentLength` in upstream's `apiserver/pkg/audit/request.go`.
const MOST_AGENT: usize = 1024;
/// Most bytes of an answer that are recorded.
const MOST_RESPONSE: usize = 16 << 20;

/// Address at the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Remote(pub IpAddr);

/// What names a request in all its records and in its answer.
#[derive(Clone, Debug)]
pub struct AuditId(HeaderValue);

impl AuditId {
    /// The client's own, or a new one.
    pub fn of(headers: &HeaderMap) -> Self {
        match headers.get(AUDIT_ID) {
            Some(given) if !given.is_empty() => Self(given.clone()),
            _ => {
                let id = uuid::Builder::from_random_bytes(rand::rng().random()).into_uuid();
                let mut text = uuid::Uuid::encode_buffer();
                let text = id.hyphenated().encode_lower(&mut text);
                Self(HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("0")))
            }
        }
    }

    /// Puts it into an answer, unless another server's stands there.
    pub fn put(self, response: &mut Response) {
        response.headers_mut().entry(AUDIT_ID).or_insert(self.0);
    }
}

/// Records a request whose user is known.
pub async fn layer(State(core): State<Arc<Core>>, mut request: Request, next: Next) -> Response {
    let Some(audit) = core.audit.clone() else { return next.run(request).await };
    let Some(context) = begin(&audit, &request) else { return next.run(request).await };
    if context.level() == Level::RequestResponse {
        // What is recorded must be readable.
        request.headers_mut().remove(header::ACCEPT_ENCODING);
    }
    let long = request.extensions().get::<RequestInfo>().is_some_and(RequestInfo::is_long_running);
    if let Some(event) = context.at(Stage::RequestReceived)
        && audit.send(event).await.is_err()
    {
        audit.metrics.rejected();
        return ApiError::Internal("failed to store audit event".to_owned()).into_response();
    }
    let record = Record { audit: audit.clone(), context: context.clone(), long, ended: false };
    let response = CURRENT.scope(context, next.run(request)).await;
    record.follow(response).await
}

/// Records a request whose credentials were not good.
pub fn refused(core: &Core, request: &Request) -> impl Future<Output = ()> + Send + use<> {
    let event = core.audit.clone().and_then(|audit| {
        let context = begin(&audit, request)?;
        let attempted = attempted(request.headers(), request.uri());
        context.broken(ResponseStatus::with_message(401, "", attempted));
        Some((audit, context.at(Stage::ResponseStarted)?))
    });
    async move {
        if let Some((audit, event)) = event {
            // The request is refused in any case.
            let _ = audit.send(event).await;
        }
    }
}

fn attempted(headers: &HeaderMap, uri: &Uri) -> String {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let scheme = given.and_then(|value| value.trim().split_once(' ')).map(|(scheme, _)| scheme);
    let mut methods = Vec::new();
    for method in ["basic", "bearer"] {
        methods.extend(scheme.filter(|s| s.eq_ignore_ascii_case(method)).map(|_| method));
    }
    if uri.query().is_some_and(|query| query.contains("access_token=")) {
        methods.push("access_token");
    }
    if methods.is_empty() {
        "Authentication failed, no credentials provided".to_owned()
    } else {
        format!("Authentication failed, attempted: {}", methods.join(", "))
    }
}

/// The beginning of a record, if the policy wants one.
fn begin(audit: &Audit, request: &Request) -> Option<Arc<Context>> {
    let extensions = request.extensions();
    let (user, info) = (extensions.get::<User>(), extensions.get::<RequestInfo>()?);
    let decision = audit.policy.decide(user, info);
    audit.metrics.chosen(decision.level);
    if decision.level == Level::None {
        return None;
    }
    let id = extensions.get::<AuditId>().and_then(|id| id.0.to_str().ok()).unwrap_or_default();
    let mut event = Event::new(decision.level, id.to_owned(), Timestamp::now());
    event.verb.clone_from(&info.verb);
    event.request_uri = without_tokens(request.uri());
    event.user_agent = agent(request.headers());
    event.source_ips = source_ips(request.headers(), extensions.get::<Remote>());
    event.user = user.map(Into::into).unwrap_or_default();
    event.object_ref = ObjectRef::of(info);
    Some(Arc::new(Context::new(event, &decision)))
}

/// Path and query; a token that does not belong there is not passed on.
fn without_tokens(uri: &Uri) -> String {
    let text = uri.path_and_query().map_or(uri.path(), |whole| whole.as_str());
    let Some((path, query)) = text.split_once('?') else { return text.to_owned() };
    if !query.contains("token=") {
        return text.to_owned();
    }
    let hide = |pair: &str| match pair.split_once('=') {
        Some((key, _)) if key.ends_with("token") => format!("{key}=REDACTED"),
        _ => pair.to_owned(),
    };
    let pairs: Vec<String> = query.split('&').map(hide).collect();
    format!("{path}?{}", pairs.join("&"))
}

fn agent(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let agent = agent.unwrap_or_default();
    if agent.len() <= MOST_AGENT {
        return agent.to_owned();
    }
    // Header texts are ASCII, so that any place is between two characters.
    format!("{}...TRUNCATED", &agent[..MOST_AGENT])
}

/// The addresses that proxies name, then the one of the connection.
fn source_ips(headers: &HeaderMap, remote: Option<&Remote>) -> Vec<String> {
    let text =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let forwarded = text("x-forwarded-for").split(',');
    let named = forwarded.chain(std::iter::once(text("x-real-ip")));
    let mut addresses: Vec<IpAddr> = Vec::new();
    let all = named.filter_map(|ip| ip.trim().parse().ok()).chain(remote.map(|remote| remote.0));
    for address in all {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.iter().map(IpAddr::to_string).collect()
}

/// Ends a record: when the answer is sent, or when it breaks off.
struct Record {
    audit: Arc<Audit>,
    context: Arc<Context>,
    long: bool,
    ended: bool,
}

impl Record {
    async fn follow(mut self, response: Response) -> Response {
        let code = response.status().as_u16();
        self.context.answered(code, response.extensions().get::<Arc<Status>>().map(|s| &**s));
        if self.long
            && let Some(event) = self.context.at(Stage::ResponseStarted)
        {
            // Too late to refuse anything.
            let _ = self.audit.send(event).await;
        }
        let whole = self.context.level() == Level::RequestResponse && !self.long;
        if !whole && response.body().size_hint().exact().is_some() {
            self.ended = true;
            if let Some(event) = self.context.at(Stage::ResponseComplete) {
                let _ = self.audit.send(event).await;
            }
            return response;
        }
        let media = decode::media_type(response.headers());
        let captured = whole.then(Vec::new);
        response.map(|body| Body::new(Recorded { body, captured, media, record: self }))
    }

    fn end(&mut self, stage: Stage) {
        if !std::mem::replace(&mut self.ended, true)
            && let Some(event) = self.context.at(stage)
        {
            self.audit.send_late(event);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if std::thread::panicking() {
            let message = "APIServer panic'd".to_owned();
            self.context.broken(ResponseStatus::with_message(500, "Failure", message));
            return self.end(Stage::Panic);
        }
        if !self.context.is_answered() {
            let message = "Connection closed early".to_owned();
            self.context.broken(ResponseStatus::with_message(200, "Success", message));
        }
        self.end(Stage::ResponseComplete);
    }
}

/// A body whose end is the end of a record.
struct Recorded {
    body: Body,
    /// What was sent so far, if it is recorded.
    captured: Option<Vec<u8>>,
    media: String,
    record: Record,
}

impl Recorded {
    fn end(&mut self) {
        if let Some(bytes) = self.captured.take()
            && let Some(object) = readable(&self.media, &bytes)
        {
            self.record.context.response_object(object);
        }
        self.record.end(Stage::ResponseComplete);
    }
}

fn readable(media: &str, bytes: &[u8]) -> Option<serde_json::Value> {
    let format = match media {
        "application/json" => decode::BodyFormat::Json,
        "application/yaml" => decode::BodyFormat::Yaml,
        crate::protobuf::MEDIA_TYPE => decode::BodyFormat::Protobuf,
        _ => return None,
    };
    decode::decode(bytes, format).ok().map(|decoded| decoded.value)
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(task));
        match (&frame, &mut self.captured) {
            (Some(Ok(frame)), Some(captured)) => {
                if let Some(data) = frame.data_ref() {
                    captured.extend_from_slice(data);
                }
                if captured.len() > MOST_RESPONSE {
                    self.captured = None;
                    self.record.context.annotate("audit.k8s.io/truncated", "true");
                }
            }
            (Some(Ok(_)), None) => (),
            (None | Some(Err(_)), _) => self.end(),
        }
        if self.body.is_end_stream() {
            self.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.record.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_in_queries_are_hidden() {
        let check = |uri: &str, expected: &str| {
            assert_eq!(without_tokens(&uri.parse().unwrap()), expected);
        };
        check("/api?a=b", "/api?a=b");
        check("/api?access_token=abc&a=b", "/api?access_token=REDACTED&a=b");
    }

    #[test]
    fn addresses_come_in_the_order_of_the_way() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "192.0.2.1, 192.0.2.2, nonsense".parse().unwrap());
        let remote = Remote("192.0.2.2".parse().unwrap());
        assert_eq!(source_ips(&headers, Some(&remote)), ["192.0.2.1", "192.0.2.2"]);
        assert!(source_ips(&HeaderMap::new(), None).is_empty());
    }

    #[test]
    fn an_answer_keeps_the_id_of_its_request() {
        let mut headers = HeaderMap::new();
        let made = AuditId::of(&headers).0;
        assert_eq!((made.len(), made.as_bytes()[14]), (36, b'4'));
        headers.insert("audit-id", HeaderValue::from_static("mine"));
        let mut response = Response::new(Body::empty());
        AuditId::of(&headers).put(&mut response);
        AuditId::of(&HeaderMap::new()).put(&mut response);
        assert_eq!(response.headers()["audit-id"], "mine");
    }

    #[tokio::test]
    async fn a_panic_is_recorded_with_its_request() {
        use crate::audit::flags::{BatchOptions, Format, LogOptions, Mode, Options};
        use crate::audit::log::Rotation;
        use tower::ServiceExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (policy, path) = (folder.path().join("policy"), folder.path().join("log"));
        std::fs::write(
            &policy,
            "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Metadata}]}",
        )
        .unwrap();
        let rotation = Rotation { max_size: 0, max_backups: 0, max_age: None, compress: false };
        let batch = BatchOptions {
            buffer_size: 1,
            max_size: 1,
            max_wait: Default::default(),
            qps: 0.0,
            burst: 1,
        };
        let (format, mode) = (Format::Json, Mode::Blocking);
        let log = LogOptions { path: path.clone(), rotation, format, mode, batch, truncate: None };
        let audit = Options { policy_file: Some(policy), log: Some(log), webhook: None };
        let server = crate::testing::TestServer::builder().configure(|config| config.audit = audit);
        let server = server.start().await.unwrap();
        let core = server.server().core().clone();
        let router = axum::Router::new()
            .fallback(async || -> &'static str { panic!("this panic is part of a test") })
            .layer(axum::middleware::from_fn_with_state(core, layer));
        let mut request = Request::get("/boom").body(Body::empty()).unwrap();
        let info = RequestInfo::parse(&http::Method::GET, "/boom", None);
        request.extensions_mut().insert(info);
        assert!(tokio::spawn(router.oneshot(request)).await.unwrap_err().is_panic());
        let text = std::fs::read_to_string(&path).unwrap();
        let events = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let event = events.into_iter().find(|e: &serde_json::Value| e["stage"] == "Panic").unwrap();
        assert_eq!(
            (&event["requestURI"], &event["responseStatus"]["code"]),
            (&"/boom".into(), &500.into())
        );
        assert!(event["responseStatus"]["message"].as_str().unwrap().contains("panic'd"));
    }
}
