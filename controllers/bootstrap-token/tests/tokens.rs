//! The controller on a real server, with only its own rights.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::time::Duration;

use apiserver::testing::TestServer;
use bootstrap_token_controller::{PLAYER, jws, plan, token};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kit::InProcess;
use kit::testing::{Playing, eventually, grant};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);
const SECRET: &str = "0123456789abcdef";

fn secret(id: &str, expiration: &str) -> Secret {
    let data = json!({
        "token-id": id, "token-secret": SECRET, "usage-bootstrap-signing": "true",
        "expiration": expiration,
    });
    let name = format!("{}{id}", token::PREFIX);
    let secret = json!({ "metadata": { "name": name }, "type": token::TYPE, "stringData": data });
    serde_json::from_value(secret).unwrap()
}

#[tokio::test]
async fn tokens_sign_while_they_last_and_go_when_they_are_over() {
    let server = TestServer::start().await.expect("a server");
    let user = grant(server.client(), &PLAYER).await.expect("rights");
    let with = InProcess::new(server.client_as(&user, &[]), "test");
    let _playing = Playing::start_with(&PLAYER, with);
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), plan::PUBLIC);
    let secrets: Api<Secret> = Api::namespaced(server.client(), token::NAMESPACE);
    let post = PostParams::default();
    secrets.create(&post, &secret("aaaaaa", "")).await.unwrap();
    let map = json!({
        "metadata": { "name": plan::CLUSTER_INFO },
        "data": { plan::KUBECONFIG: "first", "jws-kubeconfig-zzzzzz": "old" },
    });
    maps.create(&post, &serde_json::from_value(map).unwrap()).await.unwrap();

    let signed = async |expected: &[&str]| {
        eventually(SOON, async || {
            let data = maps.get(plan::CLUSTER_INFO).await.unwrap().data.unwrap_or_default();
            let content = &data[plan::KUBECONFIG];
            let signatures = data.iter().filter_map(|(key, signature)| {
                Some((key.strip_prefix(plan::SIGNATURE)?, signature))
            });
            let right: Vec<&str> = signatures
                .map(|(id, signature)| match jws::verifies(signature, content, id, SECRET) {
                    true => id,
                    false => "wrong",
                })
                .collect();
            if right == expected { Ok(()) } else { Err(format!("{data:?}")) }
        })
        .await;
    };
    signed(&["aaaaaa"]).await;
    let end = k8s_openapi::jiff::Timestamp::now() + Duration::from_secs(2);
    secrets.create(&post, &secret("bbbbbb", &end.to_string())).await.unwrap();
    signed(&["aaaaaa", "bbbbbb"]).await;
    let changed = Patch::Merge(json!({ "data": { plan::KUBECONFIG: "second" } }));
    maps.patch(plan::CLUSTER_INFO, &PatchParams::default(), &changed).await.unwrap();
    // By then the second one is over, and its Secret is gone.
    signed(&["aaaaaa"]).await;
    eventually(SOON, async || match secrets.get_opt("bootstrap-token-bbbbbb").await.unwrap() {
        None => Ok(()),
        Some(_) => Err("the Secret is there".to_owned()),
    })
    .await;
    secrets.delete("bootstrap-token-aaaaaa", &DeleteParams::default()).await.unwrap();
    signed(&[]).await;
}
