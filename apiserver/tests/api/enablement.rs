//! What an operator turns off is not served, and is refused.

use apiserver::enablement::runtime;
use apiserver::testing::TestServer;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::api::{Api, ListParams};

const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds");

#[tokio::test]
async fn versions_and_resources_can_be_turned_off() {
    let off = ["apps/v1=false", "batch/v1/cronjobs=false"];
    let off = off.map(|text| runtime::entry(text).unwrap()).to_vec();
    let server = TestServer::builder().install_crds_from(CRDS).unwrap();
    let server = server.configure(|config| config.runtime = off).start().await.unwrap();
    let client = server.client();
    let (all, none) = (ListParams::default(), |error: kube::Error| error.to_string());
    let deployments = Api::<Deployment>::all(client.clone()).list(&all).await.unwrap_err();
    assert!(none(deployments).contains("could not find the requested resource"));
    assert!(Api::<CronJob>::all(client.clone()).list(&all).await.is_err());
    assert!(Api::<Job>::all(client.clone()).list(&all).await.is_ok());
    let groups = client.list_api_groups().await.unwrap();
    assert!(groups.groups.iter().all(|group| group.name != "apps"), "{groups:?}");
}
