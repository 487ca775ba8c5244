//! Configuration files that change under a running server, and who is told.

use std::time::Duration;

use apiserver::identity::pki::{Pki, ServerNames};
use apiserver::testing::TestServer;
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kit::testing::eventually;
use kube::api::{Api, ListParams, Patch, PatchParams};

const SOON: Duration = Duration::from_secs(10);

fn authority() -> String {
    Pki::open(None, &ServerNames::default()).unwrap().ca_certificate().to_owned()
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
    assert_eq!(told["requestheader-client-ca-file"], format!("{first}{own}"));
    assert_eq!(told["requestheader-allowed-names"], r#"["gate","front-proxy-client"]"#);
    assert_eq!(told["requestheader-username-headers"], r#"["X-User"]"#);

    std::fs::write(&file, &second).unwrap();
    eventually(SOON, async || {
        let data = data().await;
        if data["client-ca-file"] == second { Ok(()) } else { Err(format!("{data:?}")) }
    })
    .await;
    eventually(SOON, async || {
        let authorities = data().await["requestheader-client-ca-file"].clone();
        let is_new = authorities.contains(&second) && !authorities.contains(&first);
        if is_new { Ok(()) } else { Err(authorities) }
    })
    .await;

    // What another server of the cluster says stays beside it.
    let theirs = authority();
    let add = serde_json::json!({ "data": { "client-ca-file": format!("{second}{theirs}") } });
    let patch = Patch::Merge(&add);
    maps.patch("extension-apiserver-authentication", &PatchParams::default(), &patch)
        .await
        .unwrap();
    std::fs::write(&file, &first).unwrap();
    let both = format!("{theirs}{first}");
    eventually(SOON, async || {
        let data = data().await;
        if data["client-ca-file"] == both { Ok(()) } else { Err(format!("{data:?}")) }
    })
    .await;

    std::fs::write(&file, "no certificate").unwrap();
    let events: Api<Event> = Api::namespaced(server.client(), "default");
    let event = eventually(SOON, async || {
        let mut all = events.list(&ListParams::default()).await.unwrap().into_iter();
        all.find(|event| event.reason.as_deref() == Some("FailedConfigReload")).ok_or("no event")
    })
    .await;
    assert_eq!(event.involved_object.name.as_deref(), Some("kubernetes"));
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    let message = event.message.unwrap();
    assert!(message.contains(file.to_str().unwrap()), "{message}");
    assert_eq!(data().await["client-ca-file"], both);
}

#[tokio::test]
async fn users_are_told_of_an_encryption_configuration_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("encryption.yaml");
    let good = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
        - resources: [secrets]\n  providers: [identity: {}]\n";
    std::fs::write(&file, good).unwrap();
    let server = TestServer::builder().configure(|config| {
        config.identity.reload_every = Duration::from_millis(20);
        config.storage.encryption = Some(file.clone());
        config.storage.reload_encryption = true;
    });
    let server = server.start().await.unwrap();
    std::fs::write(&file, good.replace("identity", "plain")).unwrap();
    let events: Api<Event> = Api::namespaced(server.client(), "default");
    let event = eventually(SOON, async || {
        let mut all = events.list(&ListParams::default()).await.unwrap().into_iter();
        all.find(|event| event.reason.as_deref() == Some("FailedConfigReload")).ok_or("no event")
    })
    .await;
    let message = event.message.unwrap();
    let place = format!("{}:5: ", file.display());
    assert!(
        message.starts_with("encryption configuration") && message.contains(&place),
        "{message}"
    );
    // A good one is taken, and counted beside the wrong one.
    std::fs::write(&file, format!("{good}# Another.\n")).unwrap();
    let counter = "apiserver_config_automatic_reloads_total";
    eventually(SOON, async || {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let text = server.client().request_text(request).await.unwrap();
        let line = |status| format!("{counter}{{config=\"encryption\",status=\"{status}\"}} 1\n");
        let has_both = text.contains(&line("failure")) && text.contains(&line("success"));
        if has_both { Ok(()) } else { Err(text) }
    })
    .await;
}
