//! Configuration files that change under a running server, and who is told.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use std::time::Duration;

use apiserver::identity::pki::{Pki, ServerNames};
use apiserver::testing::TestServer;
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kube::api::{Api, ListParams};
use support::eventually;

fn authority() -> String {
    Pki::open(None, &ServerNames::default()).unwrap().ca_certificate().trim().to_owned()
}

#[tokio::test]
async fn extension_servers_are_told_whom_to_believe_and_users_of_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.crt");
    let (first, second) = (authority(), authority());
    std::fs::write(&file, &first).unwrap();
    let server = TestServer::builder().configure(|config| {
        let identity = &mut config.identity;
        identity.reload_every = Duration::from_millis(20);
        identity.client_ca_file = Some(file.clone());
        identity.request_header.client_ca_file = Some(file.clone());
        identity.request_header.allowed_names = vec!["gate".to_owned()];
        identity.request_header.username_headers = vec!["X-User".to_owned()];
    });
    let server = server.start().await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "kube-system");
    let data = async || {
        let map = maps.get("extension-apiserver-authentication").await.unwrap();
        map.data.unwrap()
    };
    let told = data().await;
    let own = server.server().core().pki.front_proxy_ca_certificate();
    assert_eq!(told["client-ca-file"], first);
    assert_eq!(told["requestheader-client-ca-file"], format!("{first}\n{own}"));
    assert_eq!(told["requestheader-allowed-names"], r#"["gate","front-proxy-client"]"#);
    assert_eq!(told["requestheader-username-headers"], r#"["X-User"]"#);

    std::fs::write(&file, &second).unwrap();
    eventually(|| async { (data().await["client-ca-file"] == second).then_some(()) }).await;
    eventually(|| async {
        let authorities = data().await["requestheader-client-ca-file"].clone();
        (authorities.starts_with(&second) && !authorities.contains(&first)).then_some(())
    })
    .await;

    std::fs::write(&file, "no certificate").unwrap();
    let events: Api<Event> = Api::namespaced(server.client(), "default");
    let event = eventually(|| async {
        let all = events.list(&ListParams::default()).await.unwrap();
        all.into_iter().find(|event| event.reason.as_deref() == Some("FailedConfigReload"))
    })
    .await;
    assert_eq!(event.involved_object.name.as_deref(), Some("kubernetes"));
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    let message = event.message.unwrap();
    assert!(message.contains(file.to_str().unwrap()), "{message}");
    assert_eq!(data().await["client-ca-file"], second);
}
