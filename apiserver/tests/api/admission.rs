//! Admission as clients see it: plugins by flag and file, on every kind of request.

use std::sync::Arc;

use apiserver::admission::Options;
use apiserver::testing::TestServer;
use apiserver::{Config, Server};
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, Pod, ReplicationController, ResourceQuota, Service, ServiceAccount,
};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store::{MemoryStore, Store};

fn typed<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn enabled(names: &[&str]) -> Options {
    let enable = names.iter().map(|name| (*name).to_owned()).collect();
    Options { enable, ..Options::default() }
}

async fn with(options: Options) -> TestServer {
    let server = TestServer::builder().with_admission(options).start().await.unwrap();
    account(server.client(), "default").await;
    server
}

async fn account(client: Client, namespace: &str) {
    let accounts: Api<ServiceAccount> = Api::namespaced(client, namespace);
    let account = json!({"metadata": {"name": "default"}, "automountServiceAccountToken": false});
    accounts.create(&PostParams::default(), &typed(account)).await.unwrap();
}

fn pod(name: &str, spec: Value) -> Pod {
    let mut object =
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    typed(object)
}

async fn create(server: &TestServer, pod: &Pod) -> Result<Pod, Error> {
    Api::namespaced(server.client(), "default").create(&PostParams::default(), pod).await
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, code: u16, words: &str) {
    match result {
        Err(Error::Api(status)) => {
            assert!(status.code == code && status.message.contains(words), "{status:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn plugins_are_chosen_by_name() {
    let pod = pod("p", json!({}));
    let default = with(Options::default()).await;
    let created = create(&default, &pod).await.unwrap();
    assert_eq!(created.spec.unwrap().tolerations.unwrap_or_default().len(), 2);
    let disable = vec!["DefaultTolerationSeconds".to_owned(), "Priority".to_owned()];
    let other = with(Options { disable, ..enabled(&["AlwaysPullImages"]) }).await;
    let spec = create(&other, &pod).await.unwrap().spec.unwrap();
    assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("Always"));
    assert_eq!((spec.tolerations, spec.priority), (None, None));
}

#[tokio::test]
async fn bad_choices_stop_the_start() {
    let starts = async |admission: Options| {
        let server = Server::start(Config { admission, ..Config::default() }).await;
        server.err().map(|error| format!("{:#}", error_chain(&error)))
    };
    let why = starts(enabled(&["Unheard"])).await.unwrap();
    assert!(why.contains("\"Unheard\" is unknown") && why.contains("NamespaceLifecycle"), "{why}");
    let disable = vec!["PodSecurity".to_owned()];
    let why = starts(Options { disable, ..enabled(&["PodSecurity"]) }).await.unwrap();
    assert!(why.contains("PodSecurity in enable-admission-plugins and disable"), "{why}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("admission.yaml");
    let configured = Options { config_file: Some(file.clone()), ..Options::default() };
    assert!(starts(configured.clone()).await.unwrap().contains("failed to read"));
    std::fs::write(&file, "apiVersion: v1\nkind: ConfigMap\n").unwrap();
    assert!(starts(configured.clone()).await.unwrap().contains("not AdmissionConfiguration"));
    std::fs::write(&file, "apiVersion: [\n").unwrap();
    assert!(starts(configured).await.unwrap().contains("failed to understand"));
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

#[tokio::test]
async fn a_file_configures_plugins() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("admission.yaml");
    std::fs::write(
        &file,
        "apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  path: pod-security.yaml
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources:
    - resource: pods
      matchScopes:
      - {scopeName: CrossNamespacePodAffinity, operator: Exists}
",
    )
    .unwrap();
    std::fs::write(
        folder.path().join("pod-security.yaml"),
        "apiVersion: pod-security.admission.config.k8s.io/v1
kind: PodSecurityConfiguration
defaults: {enforce: baseline}
exemptions: {usernames: [exempt]}
",
    )
    .unwrap();
    let server = with(Options { config_file: Some(file), ..Options::default() }).await;
    let host = pod("host", json!({"hostNetwork": true}));
    refused(
        create(&server, &host).await,
        403,
        "violates PodSecurity \"baseline:latest\": host namespaces",
    );
    let exempt: Api<Pod> =
        Api::namespaced(server.client_as("exempt", &["system:masters"]), "default");
    exempt.create(&PostParams::default(), &host).await.unwrap();
    let affinity = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "a", "namespaces": ["other"]}]}}});
    let words = "insufficient quota to match these scopes: [{CrossNamespacePodAffinity Exists []}]";
    refused(create(&server, &pod("far", affinity)).await, 500, words);
}

#[tokio::test]
async fn every_kind_of_request_is_admitted() {
    // One store and one set of certificates, and then a server that refuses everything. It could not write its own
    // first objects either, but they are there.
    let folder = tempfile::tempdir().unwrap();
    let config = Config { data_dir: Some(folder.path().to_owned()), ..Config::default() };
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let admin = |server: &Server| server.client("system:admin", &["system:masters"]);
    let server = Server::start_on(config.clone(), store.clone()).await.unwrap();
    account(admin(&server), "default").await;
    let pods: Api<Pod> = Api::namespaced(admin(&server), "default");
    pods.create(&PostParams::default(), &pod("p", json!({}))).await.unwrap();
    server.shutdown().await;
    let denying = Config { admission: enabled(&["AlwaysDeny"]), ..config };
    let denying = Server::start_on(denying, store).await.unwrap();
    let client = admin(&denying);
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let words = "admission control is denying all modifications";
    refused(pods.create(&PostParams::default(), &pod("q", json!({}))).await, 403, words);
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    refused(pods.patch("p", &PatchParams::default(), &patch).await, 403, words);
    let status = Patch::Merge(json!({"status": {"phase": "Running"}}));
    refused(pods.patch_status("p", &PatchParams::default(), &status).await, 403, words);
    refused(pods.delete("p", &DeleteParams::default()).await, 403, words);
    refused(
        pods.delete_collection(&DeleteParams::default(), &Default::default()).await,
        403,
        words,
    );
    for (path, body) in [
        ("binding", json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}})),
        ("eviction", json!({"metadata": {"name": "p"}})),
    ] {
        let request = http::Request::post(format!("/api/v1/namespaces/default/pods/p/{path}"))
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&body).unwrap())
            .unwrap();
        refused(client.request::<Value>(request).await, 403, words);
    }
    let request = http::Request::post("/api/v1/namespaces/default/pods/p/exec?command=sh&stdout=1");
    refused(client.request::<Value>(request.body(Vec::new()).unwrap()).await, 403, words);
    let request = http::Request::post("/api/v1/namespaces/default/serviceaccounts/default/token")
        .header("content-type", "application/json");
    refused(
        client.request::<Value>(request.body(b"{\"spec\":{}}".to_vec()).unwrap()).await,
        403,
        words,
    );
    pods.get("p").await.unwrap();
}

#[tokio::test]
async fn labels_of_a_namespace_are_checked_against_its_pods() {
    let server = with(Options::default()).await;
    create(&server, &pod("host", json!({"hostPID": true}))).await.unwrap();
    let request = |level: &str| {
        let body = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
        http::Request::patch("/api/v1/namespaces/default")
            .header("content-type", "application/merge-patch+json")
            .body(kube::client::Body::from(serde_json::to_vec(&body).unwrap()))
            .unwrap()
    };
    let answer = server.client().send(request("baseline")).await.unwrap();
    let warnings = answer.headers().get_all(http::header::WARNING).iter();
    let warnings: Vec<&str> = warnings.map(|warning| warning.to_str().unwrap()).collect();
    assert_eq!(
        warnings,
        [
            "299 - \"existing pods in namespace \\\"default\\\" violate the new PodSecurity enforce level \\\"baseline:latest\\\"\"",
            "299 - \"host: host namespaces\"",
        ]
    );
    assert_eq!(server.client().send(request("strict")).await.unwrap().status(), 422);
    // What is there stays, and can be changed in other ways.
    let pods: Api<Pod> = Api::namespaced(server.client(), "default");
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    pods.patch("host", &PatchParams::default(), &patch).await.unwrap();
    let image = Patch::Strategic(json!({"spec": {"containers": [{"name": "a", "image": "y"}]}}));
    refused(pods.patch("host", &PatchParams::default(), &image).await, 403, "violates PodSecurity");
}

#[tokio::test]
async fn privileged_containers_can_be_forbidden() {
    let server = TestServer::builder().configure(|config| config.allow_privileged = false);
    let server = server.start().await.unwrap();
    account(server.client(), "default").await;
    let privileged =
        json!({ "name": "a", "image": "a", "securityContext": { "privileged": true } });
    let made = pod("p", json!({ "containers": [{ "name": "b", "image": "b" }, privileged] }));
    let words =
        "spec.containers[1].securityContext.privileged: Forbidden: disallowed by cluster policy";
    refused(create(&server, &made).await, 422, words);
    let allowed = pod("p", json!({ "containers": [{ "name": "b", "image": "b" }] }));
    create(&server, &allowed).await.unwrap();
}

#[tokio::test]
async fn ephemeral_containers_are_no_way_around() {
    let server = with(Options::default()).await;
    let namespaces: Api<Namespace> = Api::all(server.client());
    let labels = Patch::Merge(
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}),
    );
    namespaces.patch("default", &PatchParams::default(), &labels).await.unwrap();
    create(&server, &pod("p", json!({}))).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(server.client(), "default");
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "x", "securityContext": {"privileged": true}}]}});
    let (params, debug) = (PatchParams::default(), Patch::Strategic(debug));
    let patched = pods.patch_ephemeral_containers("p", &params, &debug).await;
    refused(patched, 403, "container \"d\" must not set securityContext.privileged=true");
}

#[tokio::test]
async fn a_scale_is_admitted_as_a_scale() {
    let server = with(Options::default()).await;
    let controllers: Api<ReplicationController> = Api::namespaced(server.client(), "default");
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    let controller =
        json!({"metadata": {"name": "r"}, "spec": {"replicas": 1, "template": template}});
    controllers.create(&PostParams::default(), &typed(controller)).await.unwrap();
    let scale = Patch::Merge(json!({"spec": {"replicas": 3}}));
    let scaled = controllers.patch_scale("r", &PatchParams::default(), &scale).await.unwrap();
    assert_eq!(scaled.spec.unwrap().replicas, Some(3));
}

#[tokio::test]
async fn a_bound_pod_learns_where_it_is() {
    let server = with(Options::default()).await;
    let nodes: Api<Node> = Api::all(server.client());
    let node = json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z", "other": "o"}}});
    nodes.create(&PostParams::default(), &typed(node)).await.unwrap();
    create(&server, &pod("p", json!({}))).await.unwrap();
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let request = http::Request::post("/api/v1/namespaces/default/pods/p/binding")
        .header("content-type", "application/json")
        .body(binding.to_string().into_bytes())
        .unwrap();
    server.client().request::<Value>(request).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(server.client(), "default");
    let labels = pods.get("p").await.unwrap().metadata.labels.unwrap();
    assert_eq!(
        labels.into_iter().collect::<Vec<_>>(),
        [("topology.kubernetes.io/zone".to_owned(), "z".to_owned())]
    );
}

#[tokio::test]
async fn namespaces_can_come_with_their_first_object() {
    let server = with(enabled(&["NamespaceAutoProvision"])).await;
    account(server.client(), "fresh").await;
    let namespaces: Api<Namespace> = Api::all(server.client());
    namespaces.get("fresh").await.unwrap();
}

#[tokio::test]
async fn plugins_that_are_off_can_be_had() {
    let names = [
        "PodNodeSelector",
        "PodTolerationRestriction",
        "ExtendedResourceToleration",
        "LimitPodHardAntiAffinityTopology",
        "DenyServiceExternalIPs",
    ];
    let server = with(enabled(&names)).await;
    let namespaces: Api<Namespace> = Api::all(server.client());
    let annotations = json!({"metadata": {"annotations": {
        "scheduler.alpha.kubernetes.io/node-selector": "pool=a",
        "scheduler.alpha.kubernetes.io/defaultTolerations": "[{\"key\": \"pool\", \"operator\": \"Exists\"}]",
    }}});
    namespaces.patch("default", &PatchParams::default(), &Patch::Merge(annotations)).await.unwrap();
    let spec = create(&server, &pod("p", json!({}))).await.unwrap().spec.unwrap();
    assert_eq!(spec.node_selector.unwrap()["pool"], "a");
    assert!(spec.tolerations.unwrap().iter().any(|t| t.key.as_deref() == Some("pool")));
    let elsewhere = pod("q", json!({"nodeSelector": {"pool": "b"}}));
    refused(
        create(&server, &elsewhere).await,
        403,
        "conflicts with its namespace node label selector",
    );
    let term = json!({"topologyKey": "zone", "labelSelector": {}});
    let apart = pod(
        "r",
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}),
    );
    refused(
        create(&server, &apart).await,
        403,
        "TopologyKey zone but only key kubernetes.io/hostname is allowed",
    );
    let services: Api<Service> = Api::namespaced(server.client(), "default");
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}], "externalIPs": ["1.2.3.4"]}});
    let created = services.create(&PostParams::default(), &typed(service)).await;
    refused(created, 403, "Use of external IPs is denied by admission control");
}

#[tokio::test]
async fn owners_are_set_by_those_who_could_delete() {
    let server = with(enabled(&["OwnerReferencesPermissionEnforcement"])).await;
    let roles: Api<Role> = Api::namespaced(server.client(), "default");
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "create", "patch"]}]);
    let role = json!({"metadata": {"name": "bob"}, "rules": rules});
    roles.create(&PostParams::default(), &typed(role)).await.unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(server.client(), "default");
    let binding = json!({"metadata": {"name": "bob"}, "subjects": [{"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "Role", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}});
    bindings.create(&PostParams::default(), &typed(binding)).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(server.client_as("bob", &[]), "default");
    let owner = |blocks: bool| json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u", "blockOwnerDeletion": blocks}]);
    let map = |name: &str, owners: Value| {
        typed::<ConfigMap>(json!({"metadata": {"name": name, "ownerReferences": owners}}))
    };
    maps.create(&PostParams::default(), &map("a", json!([]))).await.unwrap();
    let patch = Patch::Merge(json!({"metadata": {"ownerReferences": owner(false)}}));
    let patched = maps.patch("a", &PatchParams::default(), &patch).await;
    refused(patched, 403, "cannot set an ownerRef on a resource you can't delete");
    maps.create(&PostParams::default(), &map("b", owner(false))).await.unwrap();
    let blocking = maps.create(&PostParams::default(), &map("c", owner(true))).await;
    refused(blocking, 403, "refers to a resource you can't set finalizers on");
}

/// Without the controller: the charge alone must keep the limit.
#[tokio::test]
async fn a_quota_is_never_exceeded() {
    const HARD: usize = 7;
    let server = with(Options::default()).await;
    let quotas: Api<ResourceQuota> = Api::namespaced(server.client(), "default");
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": HARD.to_string()}}});
    quotas.create(&PostParams::default(), &typed(quota)).await.unwrap();
    let status = json!({"status": {"hard": {"pods": HARD.to_string()}, "used": {"pods": "0"}}});
    quotas.patch_status("q", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let creations = (0..60).map(|n| {
        let (client, pod) = (server.client(), pod(&format!("p{n}"), json!({})));
        tokio::spawn(async move {
            let pods: Api<Pod> = Api::namespaced(client, "default");
            pods.create(&PostParams::default(), &pod).await
        })
    });
    let mut n_created = 0;
    for creation in futures::future::join_all(creations).await {
        match creation.unwrap() {
            Ok(_) => n_created += 1,
            refusal => refused(
                refusal,
                403,
                "exceeded quota: q, requested: pods=1, used: pods=7, limited: pods=7",
            ),
        }
    }
    assert_eq!(n_created, HARD);
    let used = quotas.get("q").await.unwrap().status.unwrap().used.unwrap();
    assert_eq!(used["pods"].0, HARD.to_string());
}
