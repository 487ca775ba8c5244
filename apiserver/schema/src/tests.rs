//! What a whole schema does, on upstream's types and on custom resources.

use serde_json::{Value, json};

use crate::{DecodeError, Schema, json as parser};

fn deployment() -> Schema {
    Schema::for_gvk("apps", "v1", "Deployment").unwrap()
}

fn widget() -> Schema {
    Schema::from_crd(&json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["name"], "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 10, "default": 3},
            "color": {"type": "string", "enum": ["red", "green"], "default": "red"},
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 8},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3,
                     "x-kubernetes-list-type": "set"},
            "ports": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["port", "proto"],
                "items": {"type": "object", "required": ["port"], "properties": {
                    "port": {"type": "integer", "format": "int32"},
                    "proto": {"type": "string", "default": "tcp"}}}},
            "when": {"type": "string", "format": "date-time"},
            "quantity": {"x-kubernetes-int-or-string": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "extra": {"type": "object", "additionalProperties": {"type": "string"}},
            "maybe": {"type": "string", "nullable": true},
            "tpl": {"type": "object", "x-kubernetes-embedded-resource": true,
                    "x-kubernetes-preserve-unknown-fields": true}}}}}))
    .unwrap()
}

/// Decodes and defaults.
#[track_caller]
fn read(schema: &Schema, mut value: Value) -> (Value, Vec<String>) {
    let unknown = schema.decode(&mut value).unwrap();
    schema.default(&mut value);
    (value, unknown)
}

#[track_caller]
fn refused(schema: &Schema, mut value: Value) -> String {
    schema.decode(&mut value).unwrap_err().to_string()
}

#[track_caller]
fn causes(schema: &Schema, value: Value) -> Vec<String> {
    schema.validate(&value, None).iter().map(ToString::to_string).collect()
}

#[test]
fn deployment_gets_upstreams_defaults() {
    let (value, unknown) = read(
        &deployment(),
        json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80}]}],
                     "volumes": [{"name": "v", "configMap": {"name": "c"}}]}}}}),
    );
    assert!(unknown.is_empty());
    assert_eq!(
        value,
        json!({"metadata": {}, "status": {}, "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "securityContext": {},
                "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30,
                "containers": [{"name": "a", "image": "x", "resources": {},
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File"}],
                "volumes": [{"name": "v", "configMap": {"name": "c", "defaultMode": 420}}]}}}})
    );
}

#[test]
fn zeros_and_nulls_go_as_in_go() {
    let (value, _) = read(
        &Schema::for_gvk("", "v1", "Pod").unwrap(),
        json!({"metadata": {"labels": {}, "name": "a"}, "spec": {
            "hostNetwork": false, "nodeName": "", "volumes": [], "hostUsers": false,
            "nodeSelector": null, "automountServiceAccountToken": false,
            "containers": [{"name": "a", "tty": false, "securityContext": {}}]}}),
    );
    assert_eq!(value["metadata"], json!({"name": "a"}));
    let spec = value["spec"].as_object().unwrap();
    for gone in ["hostNetwork", "nodeName", "volumes", "nodeSelector"] {
        assert!(!spec.contains_key(gone), "{gone}");
    }
    assert_eq!(spec["hostUsers"], false);
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(spec["containers"][0]["securityContext"], json!({}));
    assert!(spec["containers"][0].get("tty").is_none());
}

#[test]
fn go_habits_hold_in_schemas_below_schemas() {
    let crd = Schema::for_gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
    // As clients send it that write protobuf: every text is there.
    let schema = json!({"type": "object", "id": "", "properties": {"a": {"type": "array", "id": "",
        "items": {"type": "object", "id": "", "pattern": "", "unheard": 1, "additionalProperties": {"id": ""}}}}});
    let spec = |schema| json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
    let (read, unknown) = read(&crd, spec(schema));
    assert_eq!(unknown, Vec::<String>::new());
    assert_eq!(
        read["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
        json!({"type": "object", "properties": {"a": {"type": "array",
            "items": {"type": "object", "additionalProperties": {}}}}})
    );
    let error = crd.decode(&mut spec(json!({"items": {"maxLength": "a"}}))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "json: cannot unmarshal string into Go struct field JSONSchemaProps.maxLength of type int64"
    );
}

#[test]
fn lists_without_omitempty_are_null() {
    let role = Schema::for_gvk("rbac.authorization.k8s.io", "v1", "Role").unwrap();
    assert_eq!(read(&role, json!({})).0["rules"], Value::Null);
    assert_eq!(read(&role, json!({"rules": []})).0["rules"], Value::Null);
    assert!(role.validate(&json!({"rules": null}), None).is_empty());
}

#[test]
fn type_errors_read_as_go_writes_them() {
    let pods = Schema::for_gvk("", "v1", "Pod").unwrap();
    let maps = Schema::for_gvk("", "v1", "ConfigMap").unwrap();
    let secrets = Schema::for_gvk("", "v1", "Secret").unwrap();
    let leases = Schema::for_gvk("coordination.k8s.io", "v1", "Lease").unwrap();
    let field = "json: cannot unmarshal";
    for (schema, value, expected) in [
        (
            &deployment(),
            json!({"spec": {"replicas": "many"}}),
            format!(
                "{field} string into Go struct field DeploymentSpec.spec.replicas of type int32"
            ),
        ),
        (
            &pods,
            json!({"spec": {"containers": [{"image": 5}]}}),
            format!(
                "{field} number into Go struct field Container.spec.containers.image of type string"
            ),
        ),
        (
            &maps,
            json!({"data": {"a": 5}}),
            format!("{field} number into Go struct field ConfigMap.data of type string"),
        ),
        (
            &maps,
            json!({"data": "text"}),
            format!("{field} string into Go struct field ConfigMap.data of type map[string]string"),
        ),
        (&maps, json!([]), format!("{field} array into Go value of type v1.ConfigMap")),
        (
            &maps,
            json!({"binaryData": {"a": "!"}}),
            "illegal base64 data at input byte 0".to_owned(),
        ),
        (&secrets, json!({"data": {"a": "?"}}), "illegal base64 data at input byte 0".to_owned()),
        (
            &secrets,
            json!({"data": {"a": [104, "i"]}}),
            "json: cannot unmarshal string into Go struct field Secret.data of type uint8"
                .to_owned(),
        ),
        (
            &pods,
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1 core"}}}]}}),
            "quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                .to_owned(),
        ),
        (
            &leases,
            json!({"spec": {"renewTime": "yesterday"}}),
            "parsing time \"yesterday\" as \"2006-01-02T15:04:05.000000Z07:00\": \
             cannot parse \"yesterday\" as \"2006\""
                .to_owned(),
        ),
        (
            &leases,
            json!({"spec": {"renewTime": "2024-01-02T03:04:06+02:00"}}),
            "parsing time \"2024-01-02T03:04:06+02:00\" as \"2006-01-02T15:04:05.000000Z07:00\": \
             cannot parse \"+02:00\" as \".000000\""
                .to_owned(),
        ),
    ] {
        assert_eq!(refused(schema, value), expected);
    }
}

#[test]
fn bytes_may_come_as_numbers() {
    let secrets = Schema::for_gvk("", "v1", "Secret").unwrap();
    let (secret, _) = read(&secrets, json!({"data": {"a": [104, 105], "b": []}}));
    assert_eq!(secret["data"], json!({"a": "aGk=", "b": ""}));
}

#[test]
fn times_and_raw_json_are_read_as_go_reads_them() {
    let leases = Schema::for_gvk("coordination.k8s.io", "v1", "Lease").unwrap();
    let (lease, _) =
        read(&leases, json!({"spec": {"renewTime": "2024-01-02T04:04:05.500000+01:00"}}));
    assert_eq!(lease["spec"]["renewTime"], "2024-01-02T03:04:05.500000Z");
    let revisions = Schema::for_gvk("apps", "v1", "ControllerRevision").unwrap();
    let (revision, _) = read(&revisions, json!({"data": 5, "revision": 1}));
    assert_eq!(revision["data"], 5);
    let pods = Schema::for_gvk("", "v1", "Pod").unwrap();
    let resources = json!({"requests": {"cpu": "100u", "memory": "1024Mi"}});
    let (pod, _) =
        read(&pods, json!({"spec": {"containers": [{"name": "a", "resources": resources}]}}));
    assert_eq!(
        pod["spec"]["containers"][0]["resources"]["requests"],
        json!({"cpu": "1m", "memory": "1Gi"})
    );
}

#[test]
fn unknown_fields_are_told_with_their_paths() {
    let pods = Schema::for_gvk("", "v1", "Pod").unwrap();
    let (value, unknown) = read(
        &pods,
        json!({"apiVersion": "v1", "metadata": {"name": "w", "bogus": 1}, "spec": {
            "containers": [{"name": "a", "imag": "y"}], "nodename": "z"}}),
    );
    assert_eq!(unknown, ["metadata.bogus", "spec.containers[0].imag", "spec.nodename"]);
    assert!(value["spec"].get("nodename").is_none());
}

#[test]
fn custom_resources_are_pruned_and_defaulted() {
    let (value, unknown) = read(
        &widget(),
        json!({"apiVersion": "e/v1", "kind": "Widget", "metadata": {"name": "w"}, "junk": true,
            "spec": {"name": "abc", "unknown": 1, "ports": [{"port": 80, "junk": "x"}],
                "free": {"any": {"thing": [1]}}, "extra": {"a": "b"}, "maybe": null,
                "size": null, "quantity": 5,
                "tpl": {"apiVersion": "v1", "kind": "Pod",
                        "metadata": {"name": "x", "junk": "y"}, "spec": {"a": 1}}}}),
    );
    assert_eq!(unknown, ["junk", "spec.ports[0].junk", "spec.tpl.metadata.junk", "spec.unknown"]);
    assert_eq!(
        value["spec"],
        json!({"color": "red", "extra": {"a": "b"}, "free": {"any": {"thing": [1]}},
            "maybe": null, "name": "abc", "ports": [{"port": 80, "proto": "tcp"}],
            "quantity": 5, "size": 3,
            "tpl": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
                    "spec": {"a": 1}}})
    );
}

#[test]
fn custom_resources_are_validated_in_upstreams_words() {
    let check = |spec: Value, expected: &[&str]| {
        assert_eq!(causes(&widget(), json!({ "spec": spec })), expected);
    };
    check(json!({"name": "ok"}), &[]);
    check(json!({}), &["spec.name: Required value"]);
    check(
        json!({"name": "ok", "size": 99}),
        &["spec.size: Invalid value: 99: spec.size in body should be less than or equal to 10"],
    );
    check(
        json!({"name": "ok", "size": "x"}),
        &[
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
        ],
    );
    check(
        json!({"name": "ok", "color": "blue"}),
        &["spec.color: Unsupported value: \"blue\": supported values: \"red\", \"green\""],
    );
    // Of a text the first rule that it breaks.
    check(json!({"name": "Notsolittle"}), &["spec.name: Too long: may not be more than 8 bytes"]);
    check(
        json!({"name": "Big"}),
        &["spec.name: Invalid value: \"Big\": spec.name in body should match '^[a-z]+$'"],
    );
    check(
        json!({"name": "ok", "tags": ["a", "b", "a", "c"]}),
        &[
            "spec.tags: Too many: 4: must have at most 3 items",
            "spec.tags[2]: Duplicate value: \"a\"",
        ],
    );
    check(
        json!({"name": "ok", "ports": [{"port": 1, "proto": "a"}, {"port": 1, "proto": "a"}]}),
        &["spec.ports[1]: Duplicate value: {\"port\":1,\"proto\":\"a\"}"],
    );
    check(
        json!({"name": "ok", "tpl": {"kind": "Pod", "metadata": {}}}),
        &["spec.tpl.apiVersion: Required value"],
    );
}

#[test]
fn unchanged_parts_are_not_judged_again() {
    let old = json!({"spec": {"name": "NOT ok", "size": 99}});
    let mut new = old.clone();
    new["spec"]["color"] = "green".into();
    assert!(widget().validate(&new, Some(&old)).is_empty());
    new["spec"]["size"] = 100.into();
    assert_eq!(widget().validate(&new, Some(&old)).len(), 1);
}

#[test]
fn upstream_types_are_judged_by_their_own_rules() {
    let services = Schema::for_gvk("", "v1", "Service").unwrap();
    assert!(causes(&services, json!({"spec": {"sessionAffinity": "Cookie"}})).is_empty());
}

#[test]
fn wrong_types_are_told_with_the_names_of_go() {
    let check = |kind: &str, mut object: Value, expected: &str| {
        let schema = Schema::for_gvk("", "v1", kind).unwrap();
        let error = schema.decode(&mut object).unwrap_err().to_string();
        assert_eq!(error, format!("json: cannot unmarshal {expected}"));
    };
    let cases = [
        (
            "Secret",
            json!({"type": 1}),
            "number into Go struct field Secret.type of type v1.SecretType",
        ),
        (
            "Service",
            json!({"spec": {"ports": [{"targetPort": {}}]}}),
            "object into Go struct field ServicePort.spec.ports.targetPort of type int32",
        ),
        (
            "Namespace",
            json!({"spec": {"finalizers": {}}}),
            "object into Go struct field NamespaceSpec.spec.finalizers of type []v1.FinalizerName",
        ),
        (
            "Pod",
            json!({"spec": {"volumes": [{"configMap": {"name": 1}}]}}),
            "number into Go struct field ConfigMapVolumeSource.spec.volumes.VolumeSource.configMap.LocalObjectReference.name of type string",
        ),
        (
            "Node",
            json!({"spec": {"taints": [{"timeAdded": 1}]}}),
            "number into Go struct field Taint.spec.taints.timeAdded of type string",
        ),
    ];
    for (kind, object, expected) in cases {
        check(kind, object, expected);
    }
}

#[test]
fn every_definition_compiles() {
    for name in crate::facts::names() {
        let schema = Schema::for_definition(name).unwrap();
        let mut value = json!({});
        if schema.decode(&mut value).is_ok() {
            schema.default(&mut value);
        }
    }
}

#[test]
fn equal_parts_are_one_node() {
    let template = |kind: &str| {
        let schema = Schema::for_gvk("apps", "v1", kind).unwrap();
        let spec = schema.root.field("spec").unwrap().edge.node();
        std::ptr::from_ref::<crate::node::Node>(&spec.field("template").unwrap().edge.node())
    };
    // Compiled definitions stay, so that their addresses can be compared.
    assert_eq!(template("Deployment"), template("DaemonSet"));
    assert_eq!(DecodeError::Text("a".to_owned()).to_string(), "a");
}

/// What a Deployment's text is decoded into, or why it is not; and what is unknown in it.
fn decoded_text(text: &str) -> Result<(Value, Vec<String>), String> {
    let parser::Parsed { mut value, overwritten, .. } = parser::parse(text.as_bytes()).unwrap();
    let schema = Schema::for_gvk("apps", "v1", "Deployment").unwrap();
    let unknown = schema.decode_text(&mut value, text.as_bytes(), overwritten);
    unknown.map(|unknown| (value, unknown)).map_err(|fault| fault.to_string())
}

#[test]
fn both_of_two_fields_are_decoded_into_one() {
    let text = r#"{"metadata":{"labels":{"a":"1","b":"1"},"labels":{"b":"2"},"x":1},
        "metadata":{"name":"n"},
        "spec":{"replicas":3,"replicas":null,"paused":true,"paused":null,
            "template":{"spec":{"hostname":"h","hostname":null,
                "nodeSelector":{"a":"b"},"nodeSelector":null,
                "containers":[{"name":"c"}],"containers":[{"image":"i"}]}}}}"#;
    let (value, unknown) = decoded_text(text).unwrap();
    assert_eq!(value["metadata"], json!({"labels": {"a": "1", "b": "2"}, "name": "n"}));
    assert_eq!(unknown, ["metadata.x"]);
    let spec = &value["spec"];
    assert_eq!((&spec["replicas"], &spec["paused"]), (&Value::Null, &json!(true)));
    let pod = &spec["template"]["spec"];
    assert_eq!((&pod["hostname"], &pod["nodeSelector"]), (&json!("h"), &Value::Null));
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    assert_eq!(pod["containers"][0]["image"], "i");

    let fault = decoded_text(r#"{"spec":{"replicas":"x","replicas":1}}"#).unwrap_err();
    assert!(fault.starts_with("json: cannot unmarshal string into Go struct field"), "{fault}");
}

#[test]
fn of_several_faults_the_first_in_the_text_is_told() {
    let list = r#""template":{"spec":{"containers":["x"]}}"#;
    for (text, told) in [
        (format!(r#"{{"spec":{{{list},"replicas":"x"}}}}"#), "containers"),
        (format!(r#"{{"spec":{{"replicas":"x",{list}}}}}"#), "replicas"),
    ] {
        let fault = decoded_text(&text).unwrap_err();
        assert!(fault.contains(&format!("{told} of type")), "{fault}");
    }
}
