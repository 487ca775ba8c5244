//! Admission policies.

use std::time::Duration;

use apiserver::testing::TestServer;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kit::testing::eventually;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

async fn create(server: &TestServer, kind: &str, name: &str, spec: Value) {
    let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
    let mut resource = ApiResource::from_gvk(&kind);
    if resource.kind.ends_with("Policy") {
        resource.plural = format!("{}ies", resource.kind.to_lowercase().trim_end_matches('y'));
    }
    let api: Api<DynamicObject> = Api::all_with(server.client(), &resource);
    let object = json!({"apiVersion": kind.api_version(), "kind": kind.kind,
        "metadata": {"name": name}, "spec": spec});
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

/// A validating policy on ConfigMaps, bound to deny.
async fn validating(server: &TestServer, mut spec: Value, binding: Value) {
    spec["matchConstraints"] = json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]});
    create(server, "ValidatingAdmissionPolicy", "p", spec).await;
    let mut bound = json!({"policyName": "p", "validationActions": ["Deny"]});
    for (key, value) in binding.as_object().into_iter().flatten() {
        bound[key] = value.clone();
    }
    create(server, "ValidatingAdmissionPolicyBinding", "b", bound).await;
}

/// What is said of a new ConfigMap with this data.
async fn write(client: kube::Client, name: &str, data: Value) -> String {
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let map = serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).unwrap();
    match maps.create(&PostParams::default(), &map).await {
        Ok(_) => String::new(),
        Err(kube::Error::Api(status)) => status.message.clone(),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn parameters_variables_and_messages() {
    let server = TestServer::start().await.unwrap();
    let limit = json!({"max": "2"});
    assert_eq!(write(server.client(), "limit", limit).await, "");
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "variables": [
            {"name": "n", "expression": "has(object.data) ? object.data.size() : 0"},
            {"name": "fits", "expression": "variables.n <= int(params.data.max)"},
            {"name": "never", "expression": "1 / 0"}],
        "validations": [{"expression": "variables.fits",
            "messageExpression": "'%d keys, %s allowed'.format([variables.n, params.data.max])"}],
    });
    let reference = json!({"paramRef": {"name": "limit", "namespace": "default",
        "parameterNotFoundAction": "Deny"}});
    validating(&server, spec, reference).await;
    assert_eq!(write(server.client(), "a", json!({"a": "1", "b": "2"})).await, "");
    let refused = write(server.client(), "b", json!({"a": "1", "b": "2", "c": "3"})).await;
    let start = "configmaps \"b\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: ";
    assert_eq!(refused, format!("{start}3 keys, 2 allowed"));
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    maps.delete("limit", &kube::api::DeleteParams::default()).await.unwrap();
    let refused = write(server.client(), "c", json!({})).await;
    let start = start.replace("\"b\"", "\"c\"");
    assert_eq!(
        refused,
        format!(
            "{start}failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
        )
    );
}

#[tokio::test]
async fn rights_and_namespaces_can_be_asked_for() {
    let server = TestServer::start().await.unwrap();
    let spec = json!({"validations": [
        {"expression": "authorizer.group('').resource('nodes').check('delete').allowed()",
         "message": "only those who may delete nodes"},
        {"expression": "authorizer.requestResource.check('create').allowed()"},
        {"expression": "namespaceObject.metadata.name == 'default'"}]});
    validating(&server, spec, json!({})).await;
    assert_eq!(write(server.client(), "a", json!({})).await, "");
    let role = json!({"metadata": {"name": "maps"}, "rules": [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]});
    let roles: Api<k8s_openapi::api::rbac::v1::ClusterRole> = Api::all(server.client());
    roles.create(&PostParams::default(), &serde_json::from_value(role).unwrap()).await.unwrap();
    let binding = json!({"metadata": {"name": "maps"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "maps"},
        "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}]});
    let bindings: Api<k8s_openapi::api::rbac::v1::ClusterRoleBinding> = Api::all(server.client());
    bindings
        .create(&PostParams::default(), &serde_json::from_value(binding).unwrap())
        .await
        .unwrap();
    let refused = write(server.client_as("jane", &[]), "b", json!({})).await;
    assert!(refused.ends_with("denied request: only those who may delete nodes"), "{refused}");
}

#[tokio::test]
async fn expensive_expressions_are_stopped() {
    let server = TestServer::start().await.unwrap();
    let spec = json!({"validations": [{"expression":
        "object.data.all(a, object.data.all(b, object.data.all(c, object.data.all(d, a != '' || b != c))))"}]});
    validating(&server, spec, json!({})).await;
    let data: serde_json::Map<String, Value> =
        (0..200).map(|n| (format!("k{n}"), json!("v"))).collect();
    let refused = write(server.client(), "a", data.into()).await;
    assert!(
        refused.ends_with("resulted in error: operation cancelled: actual cost limit exceeded"),
        "{refused}"
    );
}

#[tokio::test]
async fn mutations_are_merged_by_the_schema() {
    let server = TestServer::start().await.unwrap();
    let spec = json!({
        "reinvocationPolicy": "IfNeeded",
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE"], "resources": ["pods"]}]},
        "matchConditions": [{"name": "once", "expression":
            "!object.spec.?initContainers.orValue([]).exists(c, c.name == 'init')"}],
        "variables": [{"name": "image", "expression": "object.spec.containers[0].image"}],
        "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{spec: Object.spec{initContainers: [Object.spec.initContainers{name: 'init', image: variables.image}]}}"}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'add', path: '/metadata/labels', value: {'made-by': object.spec.initContainers[0].name}}]"}}],
    });
    create(&server, "MutatingAdmissionPolicy", "m", spec).await;
    create(&server, "MutatingAdmissionPolicyBinding", "m", json!({"policyName": "m"})).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(server.client(), "default");
    let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
    let _ = accounts.create(&PostParams::default(), &account).await;
    let pods: Api<Pod> = Api::namespaced(server.client(), "default");
    let pod =
        json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let made =
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let made = serde_json::to_value(made).unwrap();
    assert_eq!(made["spec"]["initContainers"][0]["image"], "x");
    // What the policy left out was defaulted.
    assert_eq!(made["spec"]["initContainers"][0]["terminationMessagePolicy"], "File");
    assert_eq!(made["metadata"]["labels"], json!({"made-by": "init"}));
}

#[tokio::test]
async fn expressions_are_checked_against_the_types() {
    let server = TestServer::start().await.unwrap();
    let spec = json!({
        "variables": [{"name": "n", "expression": "object.nothing"}],
        "validations": [{"expression": "object.data.size() < 3 && variables.n == 1"},
            {"expression": "object.metadata.name == 1"}]});
    validating(&server, spec, json!({})).await;
    let kind =
        GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy");
    let resource = ApiResource::from_gvk_with_plural(&kind, "validatingadmissionpolicies");
    let policies: Api<DynamicObject> = Api::all_with(server.client(), &resource);
    let status = eventually(Duration::from_secs(10), async || {
        let status = policies.get("p").await.unwrap().data["status"].clone();
        if status["observedGeneration"] == 1 { Ok(status) } else { Err(status) }
    })
    .await;
    let warnings = status["typeChecking"]["expressionWarnings"].as_array().unwrap();
    let places: Vec<&Value> = warnings.iter().map(|warning| &warning["fieldRef"]).collect();
    assert_eq!(places, ["spec.variables[0].expression", "spec.validations[1].expression"]);
    let text = warnings[0]["warning"].as_str().unwrap();
    assert!(
        text.starts_with("/v1, Kind=ConfigMap: ERROR: <input>:1:7: undefined field 'nothing'"),
        "{text}"
    );
}
