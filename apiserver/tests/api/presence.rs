//! Several API servers tell of one another.

use std::time::Duration;

use apiserver::testing::TestServer;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kit::testing::eventually;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};

const CRD: &str = include_str!("../../../crds/endpointslices.discovery.k8s.io.yaml");

/// Another server's Lease, renewed `ago` seconds ago.
fn lease(name: &str, address: &str, ago: i64) -> Lease {
    let renewed = Timestamp::from_second(Timestamp::now().as_second() - ago).unwrap();
    let lease = json!({
        "metadata": {
            "name": name, "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver"},
            "annotations": {"improv.dev/advertise-address": address},
        },
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 3600,
            "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()},
    });
    serde_json::from_value(lease).unwrap()
}

#[tokio::test]
async fn the_service_leads_to_the_servers_that_are_alive() {
    let server = TestServer::builder().install_crds(CRD).configure(|config| {
        config.advertise = "192.0.2.1:6443".parse().ok();
    });
    let server = server.start().await.unwrap();
    let leases: Api<Lease> = Api::namespaced(server.client(), "kube-system");
    let all = leases.list(&ListParams::default()).await.unwrap().items;
    let [own] = all.as_slice() else { panic!("{all:?}") };
    let identity =
        own.metadata.labels.as_ref().unwrap()["apiserver.kubernetes.io/identity"].as_str();
    assert_eq!(identity, "kube-apiserver");
    for (name, address, ago) in [
        ("apiserver-b", "192.0.2.2:6443", 0),
        ("apiserver-c", "192.0.2.3:6443", 60),
        ("apiserver-d", "192.0.2.4:6443", 4000),
    ] {
        leases.create(&PostParams::default(), &lease(name, address, ago)).await.unwrap();
    }

    let endpoints: Api<Endpoints> = Api::default_namespaced(server.client());
    let slices: Api<EndpointSlice> = Api::default_namespaced(server.client());
    let told = async || {
        let endpoints = json!(endpoints.get("kubernetes").await.map_err(|e| e.to_string())?);
        let slice = json!(slices.get("kubernetes").await.map_err(|e| e.to_string())?);
        let ips = |list: &Value| -> Vec<Value> {
            list.as_array().unwrap().iter().map(|address| address["ip"].clone()).collect()
        };
        let in_slice: Vec<Value> = slice["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|endpoint| endpoint["addresses"][0].clone())
            .collect();
        let told = (ips(&endpoints["subsets"][0]["addresses"]), in_slice);
        let both = vec![json!("192.0.2.1"), json!("192.0.2.2")];
        if told == (both.clone(), both) { Ok(()) } else { Err(format!("{told:?}")) }
    };
    eventually(Duration::from_secs(20), told).await;
    assert!(leases.get_opt("apiserver-c").await.unwrap().is_some(), "for people to see");
    assert!(leases.get_opt("apiserver-d").await.unwrap().is_none(), "gone long ago");

    server.server().shutdown().await;
    let stored = server.server().core().store().get("/registry/core/endpoints/default/kubernetes");
    let stored: Value = serde_json::from_slice(&stored.await.unwrap().unwrap().value).unwrap();
    assert_eq!(stored["subsets"][0]["addresses"], json!([{"ip": "192.0.2.2"}]));
}
