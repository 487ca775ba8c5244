//! Identity that comes from outside: issuers of OpenID Connect, webhooks that judge tokens and
//! requests, files that change while the server runs. The servers outside are real, small ones.

mod https;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver::identity::authz::config::Mode;
use apiserver::identity::options::{AuthorizationOptions, Options, TokenWebhookOptions};
use apiserver::testing::TestServer;
use apiserver::{Config, Server};
use https::Https;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kit::testing::eventually;
use kube::api::{Api, ListParams, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Error};
use parking_lot::Mutex;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);

/// A server with a socket and these options.
async fn server(identity: Options) -> TestServer {
    let builder = TestServer::builder().configure(|config| config.identity = identity);
    builder.with_socket().start().await.unwrap()
}

/// A client over the socket with a bearer token; none without.
async fn client(server: &TestServer, token: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&server.server().kubeconfig("nobody").unwrap()).unwrap();
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    let token = (!token.is_empty()).then(|| token.to_owned().into());
    config.auth_info = AuthInfo { token, ..AuthInfo::default() };
    Client::try_from(config).unwrap()
}

/// The user's name and groups by the server's own words, or the code of its refusal.
async fn who(server: &TestServer, token: &str) -> Result<(String, Vec<String>), u16> {
    let reviews: Api<SelfSubjectReview> = Api::all(client(server, token).await);
    match reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await {
        Ok(review) => {
            let user = review.status.unwrap().user_info.unwrap();
            Ok((user.username.unwrap(), user.groups.unwrap_or_default()))
        }
        Err(Error::Api(status)) => Err(status.code),
        Err(error) => panic!("{error}"),
    }
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// A key of an issuer, and its public half as a key set.
struct Key {
    private: EncodingKey,
    id: &'static str,
}

impl Key {
    fn new(id: &'static str) -> Self {
        let pair = rcgen::KeyPair::generate().unwrap();
        Self { private: EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap(), id }
    }

    fn set(&self) -> Value {
        let mut key =
            jsonwebtoken::jwk::Jwk::from_encoding_key(&self.private, Algorithm::ES256).unwrap();
        key.common.key_id = Some(self.id.to_owned());
        json!({ "keys": [key] })
    }

    fn token(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.to_owned());
        jsonwebtoken::encode(&header, claims, &self.private).unwrap()
    }
}

/// An issuer whose keys can be exchanged, and how often its keys were asked for.
async fn issuer(keys: Value) -> (Https, Arc<Mutex<Value>>, Arc<AtomicUsize>) {
    let (keys, n_asked) = (Arc::new(Mutex::new(keys)), Arc::new(AtomicUsize::new(0)));
    let (shown, counter) = (keys.clone(), n_asked.clone());
    let server = Https::start(move |base, path, _| match path {
        "/.well-known/openid-configuration" => {
            (200, json!({ "issuer": base, "jwks_uri": format!("{base}/keys") }))
        }
        "/keys" => {
            counter.fetch_add(1, Ordering::SeqCst);
            (200, shown.lock().clone())
        }
        _ => (404, Value::Null),
    });
    (server.await, keys, n_asked)
}

fn authentication(issuer: &Https, prefix: &str) -> String {
    let ca = issuer.ca.replace('\n', "\n      ");
    format!(
        "apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: {}
    certificateAuthority: |
      {ca}
    audiences: [here]
  claimMappings:
    username:
      expression: \"'{prefix}' + claims.sub\"
    groups:
      expression: claims.teams
  userValidationRules:
  - expression: \"!user.username.startsWith('system:')\"
    message: reserved
",
        issuer.base
    )
}

#[tokio::test]
async fn an_issuers_token_is_a_user_and_its_keys_change() {
    let (first, second) = (Key::new("one"), Key::new("two"));
    let (issuer, keys, n_asked) = issuer(first.set()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authn.yaml");
    std::fs::write(&file, authentication(&issuer, "ext:")).unwrap();
    let server = server(Options {
        authentication_config: Some(file.clone()),
        reload_every: Duration::from_millis(20),
        ..Options::default()
    })
    .await;
    let claims = json!({ "iss": issuer.base, "aud": ["here"], "sub": "jane", "exp": now() + 600,
        "teams": ["dev"] });
    let with = |key: &str, value: Value| {
        let mut claims = claims.clone();
        claims[key] = value;
        claims
    };
    let jane = Ok(("ext:jane".to_owned(), vec!["dev".into(), "system:authenticated".into()]));
    assert_eq!(who(&server, &first.token(&claims)).await, jane);
    assert_eq!(who(&server, &first.token(&claims)).await, jane);
    assert_eq!(n_asked.load(Ordering::SeqCst), 1, "keys are remembered");
    for bad in [
        with("aud", json!("elsewhere")),
        with("exp", json!(now() - 1)),
        with("iss", json!("https://elsewhere")),
        with("teams", json!(7)),
    ] {
        assert_eq!(who(&server, &first.token(&bad)).await, Err(401), "{bad}");
    }
    assert_eq!(who(&server, &second.token(&claims)).await, Err(401));
    *keys.lock() = second.set();
    eventually(SOON, async || match who(&server, &second.token(&claims)).await {
        found if found == jane => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(who(&server, &first.token(&claims)).await, Err(401), "the old key is gone");

    // A bad change is told and has no effect, a good one has.
    std::fs::write(&file, "jwt: [").unwrap();
    until_metric(&server, "{config=\"authentication\",status=\"failure\"} 1").await;
    assert_eq!(who(&server, &second.token(&claims)).await, jane);
    std::fs::write(&file, authentication(&issuer, "system:")).unwrap();
    until_metric(&server, "{config=\"authentication\",status=\"success\"} 1").await;
    assert_eq!(who(&server, &second.token(&claims)).await, Err(401), "the rule refuses the name");
}

async fn until_metric(server: &TestServer, wanted: &str) {
    eventually(SOON, async || {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let text = server.client().request_text(request).await.unwrap();
        if text.contains(wanted) { Ok(()) } else { Err(text) }
    })
    .await;
}

/// A kubeconfig of a webhook.
fn kubeconfig(folder: &Path, webhook: &Https, path: &str) -> std::path::PathBuf {
    use base64::Engine as _;
    let ca = base64::engine::general_purpose::STANDARD.encode(&webhook.ca);
    let file = folder.join(format!("{}.kubeconfig", path.trim_start_matches('/')));
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "w", "cluster": {
            "server": format!("{}{path}", webhook.base), "certificate-authority-data": ca } }],
        "users": [{ "name": "u", "user": {} }],
        "contexts": [{ "name": "c", "context": { "cluster": "w", "user": "u" } }],
    });
    std::fs::write(&file, text.to_string()).unwrap();
    file
}

#[tokio::test]
async fn a_webhook_judges_tokens_and_is_remembered() {
    let n_asked = Arc::new(AtomicUsize::new(0));
    let counter = n_asked.clone();
    let webhook = Https::start(move |_, path, review| {
        assert_eq!((path, review["kind"].as_str()), ("/authn", Some("TokenReview")));
        counter.fetch_add(1, Ordering::SeqCst);
        match review["spec"]["token"].as_str().unwrap() {
            "good" => (
                200,
                json!({ "status": { "authenticated": true,
                "audiences": review["spec"]["audiences"],
                "user": { "username": "jane", "groups": ["dev"] } } }),
            ),
            "elsewhere" => (
                200,
                json!({ "status": { "authenticated": true, "audiences": ["x"],
                "user": { "username": "jane" } } }),
            ),
            "redirect" => (302, json!({ "location": "/authn" })),
            _ => (200, json!({ "status": { "authenticated": false } })),
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let server = server(Options {
        token_webhook: Some(TokenWebhookOptions {
            config_file: kubeconfig(folder.path(), &webhook, "/authn"),
            version: "v1".to_owned(),
            cache_ttl: Duration::from_secs(600),
        }),
        ..Options::default()
    })
    .await;
    let jane = Ok(("jane".to_owned(), vec!["dev".into(), "system:authenticated".into()]));
    assert_eq!(who(&server, "good").await, jane);
    assert_eq!(who(&server, "good").await, jane);
    assert_eq!(n_asked.load(Ordering::SeqCst), 1);
    for token in ["bad", "elsewhere", "redirect"] {
        assert_eq!(who(&server, token).await, Err(401), "{token}");
    }
    assert_eq!(n_asked.load(Ordering::SeqCst), 4, "a redirect is not followed");
}

/// Joe's requests, by the authorization webhook of a configuration with this failure policy.
async fn joe(folder: &Path, webhook: &Https, policy: &str) -> TestServer {
    let file = folder.join("authz.yaml");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Webhook
  name: far
  webhook:
    authorizedTTL: 10m
    unauthorizedTTL: 10m
    timeout: 2s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: {policy}
    connectionInfo:
      type: KubeConfigFile
      kubeConfigFile: {}
    matchConditions:
    - expression: request.user == 'joe' && has(request.resourceAttributes)
- type: RBAC
  name: rbac
",
        kubeconfig(folder, webhook, "/authz").display()
    );
    std::fs::write(&file, text).unwrap();
    server(Options {
        authorization: AuthorizationOptions {
            config_file: Some(file),
            ..AuthorizationOptions::default()
        },
        ..Options::default()
    })
    .await
}

#[tokio::test]
async fn a_webhook_judges_requests_that_concern_it() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let webhook = Https::start(move |_, _, review| {
        let asked = &review["spec"]["resourceAttributes"];
        log.lock().push(review["spec"].clone());
        let status = match asked["resource"].as_str().unwrap_or_default() {
            "configmaps" => json!({ "allowed": true }),
            "secrets" => json!({ "allowed": false, "denied": true, "reason": "not today" }),
            _ => return (500, Value::Null),
        };
        (200, json!({ "status": status }))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let server = joe(folder.path(), &webhook, "Deny").await;
    let joe = server.client_as("joe", &[]);
    let maps: Api<ConfigMap> = Api::default_namespaced(joe.clone());
    for _ in 0..2 {
        maps.list(&ListParams::default().labels("a=b")).await.unwrap();
    }
    assert_eq!(seen.lock().len(), 1, "a yes is remembered");
    let asked = seen.lock()[0].clone();
    let selector = &asked["resourceAttributes"]["labelSelector"]["requirements"];
    assert_eq!(*selector, json!([{ "key": "a", "operator": "In", "values": ["b"] }]));
    let refused = Api::<Secret>::default_namespaced(joe.clone()).get("x").await.unwrap_err();
    let Error::Api(status) = refused else { panic!("{refused}") };
    assert!(status.code == 403 && status.message.ends_with(": not today"), "{}", status.message);
    // Jane does not concern it, and nobody else grants her anything.
    let jane: Api<ConfigMap> = Api::default_namespaced(server.client_as("jane", &[]));
    assert!(jane.list(&ListParams::default()).await.is_err());
    assert_eq!(seen.lock().len(), 2);
    // Failures deny, after some tries.
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::default_namespaced(joe);
    assert!(pods.list(&ListParams::default()).await.is_err());
    assert!(seen.lock().len() > 3, "a server that fails is asked again");
}

#[tokio::test]
async fn a_wrong_file_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policies");
    std::fs::write(&file, "\nnonsense\n").unwrap();
    let authorization = AuthorizationOptions {
        modes: vec![Mode::Abac],
        policy_file: Some(file),
        ..AuthorizationOptions::default()
    };
    let identity = Options { authorization, ..Options::default() };
    let started = Server::start(Config { identity, ..Config::default() }).await;
    let error = started.err().unwrap().to_string();
    assert!(error.contains("policies:2: "), "{error}");
}

#[tokio::test]
async fn nobody_is_anonymous_where_it_is_switched_off() {
    let server = server(Options { anonymous: Some(false), ..Options::default() }).await;
    let version = http::Request::get("/version").body(Vec::new()).unwrap();
    let refused = client(&server, "").await.request_text(version).await.unwrap_err();
    assert!(matches!(refused, Error::Api(status) if status.code == 401));
}
