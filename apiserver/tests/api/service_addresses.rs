//! Where services get their addresses from: the ranges of the server's flags, those of ServiceCIDRs, and of which family.

use std::time::Duration;

use apiserver::testing::TestServer;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kit::testing::eventually;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);
const CRDS: [&str; 2] = [
    include_str!("../../../crds/servicecidrs.networking.k8s.io.yaml"),
    include_str!("../../../crds/ipaddresses.networking.k8s.io.yaml"),
];

async fn start(ranges: &str) -> TestServer {
    let ranges = ranges.parse().unwrap();
    let builder =
        CRDS.iter().fold(TestServer::builder(), |builder, crd| builder.install_crds(*crd));
    builder.configure(|config| config.service_ranges = ranges).start().await.unwrap()
}

struct World {
    _server: TestServer,
    services: Api<Service>,
    cidrs: Api<ServiceCIDR>,
    addresses: Api<IPAddress>,
}

impl World {
    async fn new(ranges: &str) -> Self {
        let server = start(ranges).await;
        let client = server.client();
        Self {
            services: Api::default_namespaced(client.clone()),
            cidrs: Api::all(client.clone()),
            addresses: Api::all(client),
            _server: server,
        }
    }

    /// A new service's spec.
    async fn create(&self, name: &str, spec: Value) -> kube::Result<Value> {
        self.create_with(&PostParams::default(), name, spec).await
    }

    async fn create_with(&self, how: &PostParams, name: &str, spec: Value) -> kube::Result<Value> {
        let mut service = json!({"metadata": {"name": name}, "spec": spec});
        service["spec"]["ports"] = json!([{"port": 80}]);
        let service = serde_json::from_value(service).unwrap();
        Ok(json!(self.services.create(how, &service).await?.spec))
    }

    async fn patch(&self, name: &str, spec: Value) -> kube::Result<Value> {
        let patch = Patch::Merge(json!({"spec": spec}));
        Ok(json!(self.services.patch(name, &PatchParams::default(), &patch).await?.spec))
    }

    async fn add_range(&self, name: &str, cidr: &str) {
        let range =
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}}));
        self.cidrs.create(&PostParams::default(), &range.unwrap()).await.unwrap();
    }
}

fn message(result: kube::Result<Value>) -> String {
    match result {
        Err(kube::Error::Api(status)) => status.message.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn services_have_addresses_of_both_families() {
    let world = World::new("10.96.0.0/24,fd00:96::/112").await;
    let master = json!(world.services.get("kubernetes").await.unwrap().spec);
    assert_eq!(master["clusterIPs"], json!(["10.96.0.1"]));

    let single = world.create("single", json!({})).await.unwrap();
    assert_eq!(
        (&single["ipFamilies"], &single["ipFamilyPolicy"]),
        (&json!(["IPv4"]), &json!("SingleStack"))
    );
    let six = world.create("six", json!({"ipFamilies": ["IPv6"]})).await.unwrap();
    assert!(six["clusterIP"].as_str().unwrap().starts_with("fd00:96::"), "{six}");
    let wanted = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"],
        "clusterIP": "fd00:96::7", "clusterIPs": ["fd00:96::7", "10.96.0.7"]});
    let wanted = world.create("wanted", wanted).await.unwrap();
    assert_eq!(wanted["clusterIPs"], json!(["fd00:96::7", "10.96.0.7"]));

    // It gets a second address, and lets go of it; so another service can have it.
    let dual = world.patch("single", json!({"ipFamilyPolicy": "PreferDualStack"})).await.unwrap();
    assert_eq!(dual["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(dual["clusterIP"], single["clusterIP"]);
    let second = dual["clusterIPs"][1].as_str().unwrap().to_owned();
    let claim = world.addresses.get(&second).await.unwrap();
    assert_eq!(claim.metadata.labels.unwrap()["ipaddress.kubernetes.io/ip-family"], "IPv6");
    let same = json!({"clusterIP": second});
    let taken = message(world.create("same", same.clone()).await);
    assert!(
        taken.ends_with(&format!(
            "failed to allocate IP {second}: provided IP is already allocated"
        )),
        "{taken}"
    );
    let again = world.patch("single", json!({"ipFamilyPolicy": "SingleStack"})).await.unwrap();
    assert_eq!(again["clusterIPs"], single["clusterIPs"]);
    eventually(SOON, || world.create("same", same.clone())).await;
}

#[tokio::test]
async fn more_ranges_have_more_addresses() {
    let world = World::new("10.96.0.0/29").await;
    for n in 0..5 {
        world.create(&format!("s{n}"), json!({})).await.unwrap();
    }
    let full = message(world.create("more", json!({})).await);
    assert_eq!(
        full,
        "Internal error occurred: failed to allocate a serviceIP for Service \"more\": range is full"
    );
    let elsewhere = message(world.create("more", json!({"clusterIP": "10.97.0.3"})).await);
    assert_eq!(
        elsewhere,
        "Service \"more\" is invalid: spec.clusterIPs: Invalid value: [\"10.97.0.3\"]: failed to allocate IP 10.97.0.3: the provided network does not match the current range"
    );
    world.add_range("six", "fd00::/112").await;
    assert_eq!(message(world.create("more", json!({})).await), full, "of another family");
    world.add_range("more", "10.97.0.0/24").await;
    let more = world.create("more", json!({})).await.unwrap();
    assert!(more["clusterIP"].as_str().unwrap().starts_with("10.97.0."), "{more}");
    let wanted = world.create("wanted", json!({"clusterIP": "10.97.0.3"})).await.unwrap();
    assert_eq!(wanted["clusterIP"], "10.97.0.3");

    // A range that goes hands out no more, whatever it still has to wait for.
    let keep = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/keep"]}}));
    world.cidrs.patch("more", &PatchParams::default(), &keep).await.unwrap();
    world.cidrs.delete("more", &DeleteParams::default()).await.unwrap();
    assert_eq!(
        message(world.create("even-more", json!({})).await),
        full.replace("more", "even-more")
    );

    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let dry = world.create_with(&dry, "dry", json!({})).await.unwrap();
    assert_eq!(dry["clusterIP"], "10.96.0.0", "nothing that somebody could have");
}

#[tokio::test]
async fn the_range_of_the_flag_is_ready_and_comes_back() {
    let world = World::new("10.96.0.0/24").await;
    let ready = || async {
        let range = world.cidrs.get("kubernetes").await.map_err(|e| e.to_string())?;
        let conditions = range.status.as_ref().and_then(|status| status.conditions.clone());
        let condition = conditions.unwrap_or_default().pop().ok_or("nothing said")?;
        let said = (condition.type_, condition.status, condition.message);
        let wanted = ("Ready", "True", "Kubernetes default Service CIDR is ready");
        if (&*said.0, &*said.1, &*said.2) == wanted { Ok(range) } else { Err(format!("{said:?}")) }
    };
    let range = eventually(SOON, ready).await;
    let managers = range.metadata.managed_fields.unwrap_or_default();
    let said = managers.iter().find(|entry| entry.subresource.as_deref() == Some("status"));
    assert_eq!(said.unwrap().manager.as_deref(), Some("kubernetes-service-cidr-controller"));
    world.services.delete("kubernetes", &DeleteParams::default()).await.unwrap();
    world.cidrs.delete("kubernetes", &DeleteParams::default()).await.unwrap();
    let patience = Duration::from_secs(20);
    eventually(patience, || world.services.get("kubernetes")).await;
    eventually(patience, ready).await;
}
