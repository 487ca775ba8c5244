//! Tokens, certificates and their absence.

use super::*;
use crate::identity::pki::{Pki, ServerNames, to_der};
use crate::identity::tls::ClientAuthority;
use crate::identity::tokens::{Binding, Claims, Reference};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Every object is there with the uid `1`, except for the pod `gone`, and `dying`, deleted at 1000.
struct World;

impl Lookup for World {
    fn find(&self, _resource: &str, _namespace: &str, name: &str) -> Option<Found> {
        let deleted_at = (name == "dying").then_some(1_000);
        (name != "gone").then(|| Found { uid: "1".to_owned(), deleted_at })
    }

    fn object(&self, _: &str, _: &str, _: &str) -> Option<serde_json::Value> {
        None
    }
}

fn reference(name: &str) -> Option<Reference> {
    Some(Reference { name: name.to_owned(), uid: "1".to_owned() })
}

fn claims() -> Claims {
    Claims {
        aud: vec![ISSUER.to_owned()],
        exp: 5_000,
        iat: 0,
        iss: ISSUER.to_owned(),
        jti: "t".to_owned(),
        binding: Binding {
            namespace: "shop".to_owned(),
            serviceaccount: reference("web"),
            ..Binding::default()
        },
        nbf: 0,
        sub: "system:serviceaccount:shop:web".to_owned(),
    }
}

fn authenticator() -> Authenticator {
    let pki = Pki::open(None, &ServerNames::default()).unwrap();
    let authority = ClientAuthority::new(&pki).unwrap();
    Authenticator::new(TokenKeys::of_pki(&pki, ISSUER).unwrap(), authority)
}

fn ask(authenticator: &Authenticator, claims: &Claims, now: i64) -> Result<User, ApiError> {
    let token = authenticator.keys().sign(claims).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    now_or_never(authenticator.authenticate(&headers, "/", None, &World, now))
}

#[test]
fn a_token_stands_for_its_account() {
    let user = ask(&authenticator(), &claims(), 10).unwrap();
    assert_eq!(user.name, "system:serviceaccount:shop:web");
    assert_eq!(user.uid, "1");
    let groups = ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"];
    assert_eq!(user.groups, groups);
}

#[test]
fn a_bound_token_ends_with_its_object() {
    let authenticator = authenticator();
    let bound = |name: &str| {
        let mut claims = claims();
        claims.binding.pod = reference(name);
        claims
    };
    assert!(ask(&authenticator, &bound("web-1"), 10).is_ok());
    assert!(ask(&authenticator, &bound("gone"), 10).is_err());
    assert!(ask(&authenticator, &bound("dying"), 1_060).is_ok());
    assert!(ask(&authenticator, &bound("dying"), 1_061).is_err());
    let mut other = bound("web-1");
    other.binding.pod.as_mut().unwrap().uid = "2".to_owned();
    assert!(ask(&authenticator, &other, 10).is_err());
}

#[test]
fn tokens_for_others_expired_or_without_account_are_refused() {
    let authenticator = authenticator();
    assert!(ask(&authenticator, &Claims { aud: vec!["vault".into()], ..claims() }, 10).is_err());
    assert!(ask(&authenticator, &claims(), 10).is_ok());
    assert!(ask(&authenticator, &claims(), 5_000).is_err(), "remembered, but over");
    let liar = Claims { sub: "system:serviceaccount:kube-system:admin".into(), ..claims() };
    assert!(ask(&authenticator, &liar, 10).is_err());
    let mut nobody = claims();
    nobody.binding.serviceaccount = None;
    assert!(ask(&authenticator, &nobody, 10).is_err());
}

#[test]
fn without_credentials_it_is_anonymous_and_with_bad_ones_nobody() {
    let pki = Pki::open(None, &ServerNames::default()).unwrap();
    let other = Pki::open(None, &ServerNames::default()).unwrap();
    let keys = TokenKeys::of_pki(&pki, ISSUER).unwrap();
    let authenticator = Authenticator::new(keys, ClientAuthority::new(&pki).unwrap());
    let none = HeaderMap::new();
    let ask = |peer: Option<&Peer>, now: i64| {
        now_or_never(authenticator.authenticate(&none, "/", peer, &World, now))
    };
    assert_eq!(ask(None, 0).unwrap(), User::anonymous());
    let peer = |pki: &Pki| Peer::new(to_der(&pki.client_cert("jane", &[]).unwrap()).unwrap().0);
    assert!(matches!(ask(Some(&peer(&other)), 0), Err(ApiError::Unauthorized)));
    let known = peer(&pki);
    assert_eq!(ask(Some(&known), 0).unwrap().groups, ["system:authenticated"]);
}

/// All that is asked here answers at once.
fn now_or_never<T>(future: impl Future<Output = T>) -> T {
    futures::FutureExt::now_or_never(future).expect("an answer without waiting")
}

#[test]
fn a_proxy_that_is_known_tells_for_whom_it_asks() {
    let pki = Pki::open(None, &ServerNames::default()).unwrap();
    let mut authenticator = authenticator();
    let proxies = ClientAuthority::of_pem(pki.front_proxy_ca_certificate()).unwrap();
    authenticator.request_header = Some(RequestHeader {
        authority: Arc::new(Watched::fixed(proxies)),
        allowed_names: vec!["front-proxy-client".to_owned()],
        username: vec!["x-remote-user".parse().unwrap()],
        uid: Vec::new(),
        groups: vec!["x-remote-group".parse().unwrap()],
        extra_prefixes: vec!["x-remote-extra-".to_owned()],
    });
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("x-remote-user", "jane"), ("x-remote-group", "dev"), ("x-remote-extra-scopes", "all")]
    {
        headers.append(name, value.parse().unwrap());
    }
    let ask = |chain, headers: &HeaderMap| {
        let peer = Peer::new(chain);
        now_or_never(authenticator.authenticate(headers, "/", Some(&peer), &World, 0))
    };
    let proxy = to_der(pki.front_proxy_client()).unwrap().0;
    let user = ask(proxy.clone(), &headers).unwrap();
    assert_eq!((user.name.as_str(), user.groups[0].as_str()), ("jane", "dev"));
    assert_eq!(user.extra, [("scopes".to_owned(), vec!["all".to_owned()])]);
    assert!(ask(proxy, &HeaderMap::new()).is_err(), "the proxy itself is nobody");
    let stranger = to_der(&pki.client_cert("front-proxy-client", &[]).unwrap()).unwrap().0;
    assert!(ask(stranger, &headers).is_err(), "the name alone is not enough");
    authenticator.strip(&mut headers);
    assert!(headers.is_empty());
}

#[test]
fn a_websocket_carries_its_token_in_a_protocol() {
    let authenticator = authenticator();
    let token = authenticator.keys().sign(&claims()).unwrap();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, token);
    let mut headers = HeaderMap::new();
    let protocols = format!("v4.channel.k8s.io, {WEBSOCKET_BEARER}{encoded}");
    headers.insert(SEC_WEBSOCKET_PROTOCOL, protocols.parse().unwrap());
    let user = now_or_never(authenticator.authenticate(&headers, "/", None, &World, 10));
    assert_eq!(user.unwrap().name, "system:serviceaccount:shop:web");
    authenticator.strip(&mut headers);
    assert_eq!(headers[SEC_WEBSOCKET_PROTOCOL], "v4.channel.k8s.io");
}
