use serde_json::json;

use super::*;

/// What comes back is what went, apart from what Go writes for fields that are no pointers.
#[track_caller]
fn round_trip(object: Value) {
    let bytes = encode(&object).expect("the kind has a message");
    let kind = |field: &str| object[field].as_str().unwrap();
    let (group, version) = kind("apiVersion").split_once('/').unwrap_or(("", kind("apiVersion")));
    let mut expected = object.clone();
    Schema::for_gvk(group, version, kind("kind")).unwrap().decode(&mut expected).unwrap();
    assert_eq!(decode(&bytes).unwrap(), expected);
}

#[test]
fn zero_values_count_as_absent() {
    let sent = json!({
        "kind": "Deployment", "apiVersion": "apps/v1",
        "metadata": { "name": "web", "namespace": "", "generation": 0 },
        "spec": { "replicas": 0, "minReadySeconds": 0, "strategy": { "type": "" } },
    });
    let got = decode(&encode(&sent).unwrap()).unwrap();
    assert_eq!(got["spec"]["replicas"], 0, "a pointer keeps its zero");
    assert_eq!(got["spec"].get("minReadySeconds"), None);
    assert_eq!(got["spec"]["strategy"].get("type"), None);
    assert_eq!(got["metadata"].get("namespace"), None);
}

#[test]
fn what_clients_sent_is_understood() {
    // Recorded: a ConfigMap as a Go client encodes it.
    let body = [
        &b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12.\n\x1e\n\nproto-made"[..],
        &b"Z\x10\n\x04from\x12\x08protobuf\x12\x0c\n\x03key\x12\x05value\x1a\x00\"\x00"[..],
    ]
    .concat();
    assert_eq!(
        decode(&body).unwrap(),
        json!({
            "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": { "name": "proto-made", "labels": { "from": "protobuf" } },
            "data": { "key": "value" },
        })
    );
}

#[test]
fn junk_is_refused() {
    let fault = decode(b"junk").unwrap_err();
    assert!(fault.contains("expected prefix [107 56 115 0]"), "{fault}");
    assert!(decode(b"k8s\0\xff").is_err());
    assert!(decode(b"k8s\0\n\x0b\n\x02v1\x12\x05Robot").unwrap_err().contains("no kind"));
}

#[test]
fn objects_survive_the_way_there_and_back() {
    round_trip(json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": { "name": "web", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 2 },
        "spec": {
            "containers": [{
                "name": "a", "image": "x",
                "ports": [{ "containerPort": 80 }],
                "resources": { "limits": { "cpu": "500m" } },
                "env": [{ "name": "K", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }],
                "livenessProbe": { "httpGet": { "path": "/", "port": "http" }, "periodSeconds": 5 },
            }],
            "volumes": [{ "name": "v", "configMap": { "name": "c", "defaultMode": 420 } }],
            "terminationGracePeriodSeconds": 0,
            "hostNetwork": true,
        },
    }));
    round_trip(json!({
        "kind": "Deployment", "apiVersion": "apps/v1",
        "metadata": { "name": "web" },
        "spec": { "replicas": 0, "strategy": { "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": 1 } } },
    }));
    round_trip(json!({
        "kind": "Secret", "apiVersion": "v1", "metadata": { "name": "s" }, "data": { "k": "AAEC" },
    }));
    round_trip(json!({
        "kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": { "user": "jane", "extra": { "team": ["a", "b"] } },
    }));
    round_trip(json!({
        "kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
        "spec": { "renewTime": "2026-01-01T00:00:00.123456Z", "leaseDurationSeconds": 15 },
    }));
    round_trip(json!({
        "kind": "ConfigMapList", "apiVersion": "v1", "metadata": { "resourceVersion": "7" },
        "items": [{ "metadata": { "name": "a" }, "binaryData": { "b": "" } }],
    }));
}

#[test]
fn schemas_survive_too() {
    round_trip(json!({
        "kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": { "name": "widgets.example.com" },
        "spec": { "versions": [{ "name": "v1", "schema": { "openAPIV3Schema": {
            "type": "object",
            "properties": { "n": {
                "type": "array", "maximum": 1.5, "default": [1],
                "items": { "type": "integer" },
            }, "m": { "type": "object", "additionalProperties": { "type": "string" } } },
            "x-kubernetes-preserve-unknown-fields": true,
        } } }] },
    }));
}

#[test]
fn custom_types_have_none() {
    assert_eq!(encode(&json!({ "kind": "Widget", "apiVersion": "example.com/v1" })), None);
}
