use serde_json::{Value, json};

use super::*;
use crate::Schema;

fn find(name: &str) -> Value {
    definitions().into_iter().find(|crd| crd["metadata"]["name"] == name).unwrap()
}

fn schema_of(crd: &Value, version: usize) -> Schema {
    Schema::from_crd(&crd["spec"]["versions"][version]["schema"]["openAPIV3Schema"]).unwrap()
}

#[test]
fn every_upstream_type_that_is_not_hosted_is_there() {
    let names: Vec<String> = crds().into_iter().map(|(file, _)| file).collect();
    assert_eq!(
        names,
        [
            "controllerrevisions.apps.yaml",
            "cronjobs.batch.yaml",
            "csidrivers.storage.k8s.io.yaml",
            "csinodes.storage.k8s.io.yaml",
            "csistoragecapacities.storage.k8s.io.yaml",
            "daemonsets.apps.yaml",
            "deployments.apps.yaml",
            "deviceclasses.resource.k8s.io.yaml",
            "endpointslices.discovery.k8s.io.yaml",
            "horizontalpodautoscalers.autoscaling.yaml",
            "ingressclasses.networking.k8s.io.yaml",
            "ingresses.networking.k8s.io.yaml",
            "ipaddresses.networking.k8s.io.yaml",
            "jobs.batch.yaml",
            "networkpolicies.networking.k8s.io.yaml",
            "poddisruptionbudgets.policy.yaml",
            "priorityclasses.scheduling.k8s.io.yaml",
            "replicasets.apps.yaml",
            "resourceclaims.resource.k8s.io.yaml",
            "resourceclaimtemplates.resource.k8s.io.yaml",
            "resourceslices.resource.k8s.io.yaml",
            "runtimeclasses.node.k8s.io.yaml",
            "servicecidrs.networking.k8s.io.yaml",
            "statefulsets.apps.yaml",
            "storageclasses.storage.k8s.io.yaml",
            "volumeattachments.storage.k8s.io.yaml",
            "volumeattributesclasses.storage.k8s.io.yaml",
        ]
    );
}

#[test]
fn the_yaml_reads_back_as_the_definition() {
    for ((file, text), crd) in crds().into_iter().zip(definitions()) {
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, crd, "{file}");
        assert!(!text.contains("$ref"), "{file}");
        assert!(!text.contains("description: \""), "{file}");
    }
}

#[test]
fn a_crd_behaves_as_the_type_it_was_made_from() {
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w"},
        "spec": {"paused": false, "selector": {"matchLabels": {"a": "b"}}, "bogus": 1, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"imagePullSecrets": [{"name": "s"}],
                "containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": "1000m"}}}]}}}});
    let facts = Schema::for_gvk("apps", "v1", "Deployment").unwrap();
    let custom = schema_of(&find("deployments.apps"), 0);
    let [from_facts, from_crd] = [facts, custom].map(|schema| {
        let mut body = body.clone();
        let unknown = schema.decode(&mut body).unwrap();
        schema.default(&mut body);
        (body, unknown)
    });
    assert_eq!(from_facts, from_crd);
    assert_eq!(from_facts.1, ["spec.bogus"]);
}

#[test]
fn defaults_of_all_types_are_those_of_the_facts() {
    for crd in definitions() {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let group = crd["spec"]["group"].as_str().unwrap();
        let version = crd["spec"]["versions"][0]["name"].as_str().unwrap();
        let facts = Schema::for_gvk(group, version, kind).unwrap();
        let custom = schema_of(&crd, 0);
        let [a, b] = [facts, custom].map(|schema| {
            let mut value = json!({"metadata": {}, "spec": {"template": {"spec": {}}}});
            schema.decode(&mut value).unwrap();
            schema.default(&mut value);
            value
        });
        assert_eq!(a, b, "{kind}");
    }
}

#[test]
fn names_subresources_and_columns_are_upstreams() {
    let crd = find("deployments.apps");
    assert_eq!(
        crd["spec"]["names"],
        json!({"plural": "deployments", "singular": "deployment", "kind": "Deployment",
            "listKind": "DeploymentList", "shortNames": ["deploy"], "categories": ["all"]})
    );
    let version = &crd["spec"]["versions"][0];
    assert_eq!(
        version["subresources"],
        json!({"status": {}, "scale": {
            "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}})
    );
    let columns: Vec<&str> = version["additionalPrinterColumns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Up-to-date", "Available", "Age"]);
    let classes = find("storageclasses.storage.k8s.io");
    assert_eq!(classes["spec"]["scope"], "Cluster");
    assert_eq!(
        classes["metadata"]["annotations"]["api-approved.kubernetes.io"],
        "https://github.com/kubernetes/enhancements"
    );
}

#[test]
fn autoscaling_is_one_storage_with_two_versions() {
    let crd = find("horizontalpodautoscalers.autoscaling");
    let versions: Vec<(&str, bool)> = crd["spec"]["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| (v["name"].as_str().unwrap(), v["storage"].as_bool().unwrap()))
        .collect();
    assert_eq!(versions, [("v2", true), ("v1", false)]);
    assert_eq!(crd["metadata"]["annotations"][CONVERSION_ANNOTATION], "built-in");
}

#[test]
fn keys_of_list_maps_are_required_or_have_defaults() {
    fn walk(schema: &Value, path: &str) {
        let Some(map) = schema.as_object() else { return };
        if map.get("x-kubernetes-list-type") == Some(&json!("map")) {
            let items = &map["items"];
            for key in map["x-kubernetes-list-map-keys"].as_array().unwrap() {
                let name = key.as_str().unwrap();
                let required = items["required"].as_array().is_some_and(|r| r.contains(key));
                let default = items["properties"][name].get("default").is_some();
                assert!(required || default, "{path}[{name}]");
            }
        }
        for (key, value) in map {
            walk(value, &format!("{path}.{key}"));
        }
    }
    for crd in definitions() {
        for version in crd["spec"]["versions"].as_array().unwrap() {
            walk(&version["schema"], crd["metadata"]["name"].as_str().unwrap());
        }
    }
}

/// Writes the files when `IMPROV_WRITE_CRDS` names a folder; `improv generate` does it else.
#[test]
fn files_can_be_written() {
    let Ok(folder) = std::env::var("IMPROV_WRITE_CRDS") else { return };
    for (file, text) in crds() {
        std::fs::write(std::path::Path::new(&folder).join(file), text).unwrap();
    }
}
