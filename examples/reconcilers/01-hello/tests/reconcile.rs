//! The reconciler on a real API server, in this process.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::time::Duration;

use apiserver::testing::TestServer;
use hello_reconciler::{NAME, PLAYER};
use k8s_openapi::api::core::v1::ConfigMap;
use kit::testing::{Playing, eventually};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

#[tokio::test]
async fn a_labelled_config_map_is_greeted() {
    let server = TestServer::start().await.unwrap();
    let _playing = Playing::start(&PLAYER, server.client(), "test");
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let map = json!({ "metadata": { "name": "a", "labels": { NAME: "Ada" } }, "data": { "kept": "yes" } });
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    let says = async |greeting: &str| {
        eventually(Duration::from_secs(10), async || {
            let data = maps.get("a").await.unwrap().data.unwrap_or_default();
            assert_eq!(data["kept"], "yes");
            if data.get("greeting").is_some_and(|said| said == greeting) {
                Ok(())
            } else {
                Err(format!("{data:?}"))
            }
        })
        .await;
    };
    says("Hello, Ada!").await;
    let renamed = Patch::Merge(json!({ "metadata": { "labels": { NAME: "Bob" } } }));
    maps.patch("a", &PatchParams::default(), &renamed).await.unwrap();
    says("Hello, Bob!").await;
}
