//! The controller on a real server, with only its own rights.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::collections::BTreeSet;
use std::time::Duration;

use apiserver::testing::TestServer;
use k8s_openapi::api::core::v1::Node;
use kit::testing::{Playing, eventually, grant};
use kit::{InProcess, Options};
use kube::Api;
use kube::api::{ListParams, PostParams};
use node_ipam_controller::PLAYER;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn every_node_gets_a_part_of_its_own_until_none_is_left() {
    let server = TestServer::start().await.expect("a server");
    let user = grant(server.client(), &PLAYER).await.expect("rights");
    let options = Options::default().set("cluster-cidr", "10.9.0.0/22");
    let with = InProcess { options, ..InProcess::new(server.client_as(&user, &[]), "test") };
    let _playing = Playing::start_with(&PLAYER, with);
    let nodes: Api<Node> = Api::all(server.client());
    // One brings its own; of the others, three want the three that are left.
    for (name, cidr) in [("a", Some("10.9.1.0/24")), ("b", None), ("c", None), ("d", None)] {
        let cidrs: Vec<&str> = cidr.into_iter().collect();
        let node =
            json!({ "metadata": { "name": name }, "spec": { "podCIDR": cidr, "podCIDRs": cidrs } });
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    }
    let all = BTreeSet::from(["10.9.0.0/24", "10.9.1.0/24", "10.9.2.0/24", "10.9.3.0/24"]);
    eventually(SOON, async || {
        let nodes = nodes.list(&ListParams::default()).await.unwrap();
        let cidrs: Vec<String> = nodes.iter().filter_map(|n| n.spec.clone()?.pod_cidr).collect();
        let unique: BTreeSet<&str> = cidrs.iter().map(String::as_str).collect();
        if cidrs.len() == 4 && unique == all { Ok(()) } else { Err(format!("{cidrs:?}")) }
    })
    .await;
    let node = json!({ "metadata": { "name": "e" } });
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    let events: Api<k8s_openapi::api::core::v1::Event> = Api::all(server.client());
    eventually(SOON, async || {
        let events = events.list(&ListParams::default()).await.unwrap();
        let told = events.iter().any(|e| e.reason.as_deref() == Some("CIDRNotAvailable"));
        if told { Ok(()) } else { Err("no event".to_owned()) }
    })
    .await;
}
