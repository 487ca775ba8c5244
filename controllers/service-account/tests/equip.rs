//! The controller on a real server, with only its own rights.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::time::Duration;

use apiserver::testing::TestServer;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kit::testing::{Playing, eventually, grant};
use kit::{InProcess, Options};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use serviceaccount_controller::PLAYER;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn every_namespace_is_equipped_and_stays_so() {
    let server = TestServer::start().await.expect("a server");
    let user = grant(server.client(), &PLAYER).await.expect("rights");
    let options = Options::default().set("root-ca", "the authority");
    let with = InProcess { options, ..InProcess::new(server.client_as(&user, &[]), "test") };
    let _playing = Playing::start_with(&PLAYER, with);

    let namespace = serde_json::from_value(json!({"metadata": {"name": "shop"}})).unwrap();
    Api::<Namespace>::all(server.client())
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    let accounts = Api::<ServiceAccount>::namespaced(server.client(), "shop");
    let maps = Api::<ConfigMap>::namespaced(server.client(), "shop");
    let is_equipped = async || {
        eventually(SOON, async || {
            let account = accounts.get_opt("default").await.unwrap().is_some();
            let map = maps.get_opt("kube-root-ca.crt").await.unwrap();
            let data = map.and_then(|m| m.data?.remove("ca.crt"));
            match (account, data.as_deref()) {
                (true, Some("the authority")) => Ok(()),
                found => Err(format!("{found:?}")),
            }
        })
        .await;
    };
    is_equipped().await;
    accounts.delete("default", &DeleteParams::default()).await.unwrap();
    maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.unwrap();
    is_equipped().await;
    let other = Patch::Merge(json!({"data": {"ca.crt": "another", "more": ""}}));
    maps.patch("kube-root-ca.crt", &PatchParams::default(), &other).await.unwrap();
    is_equipped().await;
}
