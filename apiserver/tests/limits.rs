//! Bodies, names and headers that are too much, or make no sense.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use apiserver::User;
use apiserver::testing::TestServer;
use axum::body::Body;
use http::{Request, header};
use serde_json::Value;
use tower::ServiceExt as _;

async fn post(server: &TestServer, content_type: &str, body: impl Into<Body>) -> (u16, Value) {
    let mut request = Request::post("/api/v1/namespaces/default/configmaps")
        .header(header::CONTENT_TYPE, content_type)
        .body(body.into())
        .unwrap();
    request.extensions_mut().insert(User::new("system:admin", &["system:masters"]));
    let response = server.server().router().oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (code, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn what_is_too_much_is_refused() {
    let server = TestServer::start().await.unwrap();
    let (code, status) = post(&server, "application/json", vec![b' '; 4 << 20]).await;
    assert_eq!((code, status["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    let deep = "[".repeat(100_000);
    let (code, _) = post(&server, "application/json", deep.clone()).await;
    assert_eq!(code, 400);
    let (code, _) = post(&server, "application/yaml", deep).await;
    assert_eq!(code, 400);
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned()
        + &(1..9)
            .map(|n| {
                format!(
                    "a{n}: &a{n} [{}]\n",
                    vec![
                        format!("*a{}", if n == 1 { String::new() } else { (n - 1).to_string() });
                        9
                    ]
                    .join(",")
                )
            })
            .collect::<String>();
    let (code, _) = post(&server, "application/yaml", bomb).await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn unknown_formats_are_named() {
    let server = TestServer::start().await.unwrap();
    let (code, status) = post(&server, "application/xml", "<a/>").await;
    assert_eq!((code, status["reason"].as_str()), (415, Some("UnsupportedMediaType")));
}

#[tokio::test]
async fn nobody_gets_in_through_headers() {
    let server = TestServer::start().await.unwrap();
    let request = Request::get("/api/v1/secrets").body(Body::empty()).unwrap();
    let response = server.server().router().oneshot(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 403);
    let request = Request::get("/api/v1/secrets")
        .header("authorization", "Bearer nonsense")
        .body(Body::empty())
        .unwrap();
    let response = server.server().router().oneshot(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 401);
}
