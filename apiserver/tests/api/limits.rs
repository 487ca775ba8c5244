//! Bodies, names and headers that are too much, or make no sense.

use apiserver::User;
use apiserver::testing::TestServer;
use axum::body::Body;
use http::{Request, header};
use serde_json::Value;
use tower::ServiceExt as _;

async fn send(server: &TestServer, mut request: Request<Body>) -> (u16, Value) {
    request.extensions_mut().insert(User::new("system:admin", &["system:masters"]));
    let response = server.server().router().oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (code, serde_json::from_slice(&body).unwrap_or_default())
}

async fn post(server: &TestServer, content_type: &str, body: impl Into<Body>) -> (u16, Value) {
    let request = Request::post("/api/v1/namespaces/default/configmaps")
        .header(header::CONTENT_TYPE, content_type)
        .body(body.into())
        .unwrap();
    send(server, request).await
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

#[tokio::test]
async fn a_patch_has_at_most_ten_thousand_operations() {
    let server = TestServer::start().await.unwrap();
    let (code, _) = post(&server, "application/json", r#"{"metadata":{"name":"a"}}"#).await;
    assert_eq!(code, 201);
    let patch = async |n: usize| {
        let operation = r#"{"op":"test","path":"/metadata/name","value":"a"}"#;
        let body = format!("[{}]", vec![operation; n].join(","));
        let request = Request::patch("/api/v1/namespaces/default/configmaps/a")
            .header(header::CONTENT_TYPE, "application/json-patch+json")
            .body(Body::from(body));
        send(&server, request.unwrap()).await
    };
    assert_eq!(patch(10_000).await.0, 200);
    let (code, status) = patch(10_001).await;
    let message = "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001";
    assert_eq!((code, status["message"].as_str()), (413, Some(message)));
}

#[tokio::test]
async fn what_there_is_much_of_costs_no_more_than_its_length() {
    let server = TestServer::start().await.unwrap();
    let began = std::time::Instant::now();
    let many = |one: &dyn Fn(usize) -> String, n: usize| {
        let all: Vec<String> = (0..n).map(one).collect();
        all.join(",")
    };
    let unknown = many(&|n| format!(r#""x{n}":1"#), 200_000);
    let twice = many(&|n| format!(r#""x{n}":1"#), 100_000);
    let twice = format!("{twice},{twice}");
    let owner = |n: usize| {
        format!(r#"{{"apiVersion":"v1","kind":"X","name":"x","uid":"{n}","controller":true}}"#)
    };
    let owners =
        format!(r#""metadata":{{"name":"a","ownerReferences":[{}]}}"#, many(&owner, 30_000));
    let labels = many(&|n| format!(r#""-{n}":"""#), 100_000);
    let labels = format!(r#""metadata":{{"name":"a","labels":{{{labels}}}}}"#);
    for (what, fields, expected) in [
        ("unknown", unknown, 422),
        ("twice", twice, 422),
        ("owners", owners, 422),
        ("labels", labels, 422),
    ] {
        let (code, _) = post(&server, "application/json", format!("{{{fields}}}")).await;
        assert_eq!(code, expected, "{what}");
        println!("{what}: {:?}", began.elapsed());
    }
    // Each of them took minutes while it was compared with all others.
    assert!(began.elapsed() < std::time::Duration::from_secs(60), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_upload_that_does_not_end_is_given_up() {
    let server = TestServer::builder()
        .configure(|config| {
            config.fairness.request_timeout = std::time::Duration::from_millis(50);
        })
        .start()
        .await
        .unwrap();
    let endless = futures::stream::pending::<Result<bytes::Bytes, std::convert::Infallible>>();
    let request = Request::post("/api/v1/namespaces/default/configmaps");
    let (code, status) = send(&server, request.body(Body::from_stream(endless)).unwrap()).await;
    assert_eq!((code, status["reason"].as_str()), (504, Some("Timeout")));
    let message = "Timeout: request did not complete within the allotted timeout";
    assert_eq!(status["message"], message);
}

#[tokio::test]
async fn clients_may_name_a_shorter_time() {
    let server = TestServer::start().await.unwrap();
    let endless = futures::stream::pending::<Result<bytes::Bytes, std::convert::Infallible>>();
    let request = Request::post("/api/v1/namespaces/default/configmaps?timeout=50ms");
    let (code, _) = send(&server, request.body(Body::from_stream(endless)).unwrap()).await;
    assert_eq!(code, 504);
    let request = Request::get("/api/v1/namespaces/default/configmaps?timeout=soon");
    let (code, status) = send(&server, request.body(Body::empty()).unwrap()).await;
    let message = "invalid timeout specified in the request URL - time: invalid duration \"soon\"";
    assert_eq!((code, status["message"].as_str()), (400, Some(message)));
}

/// What a list holds in memory does not grow with the list.
#[tokio::test]
async fn a_long_list_comes_in_pieces() {
    use futures::StreamExt as _;
    let server = TestServer::start().await.unwrap();
    for n in 0..30 {
        let object = serde_json::json!({
            "metadata": { "name": format!("m{n}") }, "data": { "x": "x".repeat(100_000) },
        });
        assert_eq!(post(&server, "application/json", object.to_string()).await.0, 201);
    }
    let mut request = Request::get("/api/v1/configmaps").body(Body::empty()).unwrap();
    request.extensions_mut().insert(User::new("system:admin", &["system:masters"]));
    let response = server.server().router().oneshot(request).await.unwrap();
    let mut pieces = response.into_body().into_data_stream();
    let (mut total, mut largest) = (0, 0);
    while let Some(piece) = pieces.next().await {
        let length = piece.unwrap().len();
        (total, largest) = (total + length, largest.max(length));
    }
    assert!(total > 3_000_000, "{total}");
    assert!(largest < 600_000, "a piece of {largest} bytes");
}

#[tokio::test]
async fn long_selectors_are_read_or_refused_quickly() {
    let server = TestServer::start().await.unwrap();
    let began = std::time::Instant::now();
    for selector in
        ["a,".repeat(20_000), "a%20in%20(".to_owned() + &"b,".repeat(20_000), "!".repeat(60_000)]
    {
        let path = format!("/api/v1/configmaps?labelSelector={selector}");
        let (code, _) = send(&server, Request::get(path).body(Body::empty()).unwrap()).await;
        assert!(matches!(code, 200 | 400), "{code}");
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
}
