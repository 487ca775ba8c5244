use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-01T00:00:00Z";

pub(super) fn maps() -> Schema {
    Schema::for_gvk("", "v1", "ConfigMap").unwrap()
}

pub(super) fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, api_version: "v1", subresource: "", time: NOW }
}

pub(super) fn config(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

#[track_caller]
pub(super) fn apply_map(live: Option<&Value>, manager: &str, data: Value) -> Value {
    maps().apply(live, &config(data), &writer(manager), false, &[]).unwrap()
}

/// `manager operation[/subresource] fields` a line, sorted.
pub(super) fn owners(object: &Value) -> Vec<String> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let mut lines: Vec<String> = entries
        .into_iter()
        .flatten()
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            format!(
                "{} {}{} {}",
                text("manager"),
                text("operation"),
                entry
                    .get("subresource")
                    .map(|s| format!("/{}", s.as_str().unwrap()))
                    .unwrap_or_default(),
                entry["fieldsV1"]
            )
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn apply_creates_and_owns_leaves() {
    let live = apply_map(None, "alpha", json!({"a": "1", "b": "2"}));
    assert_eq!(owners(&live), [r#"alpha Apply {"f:data":{"f:a":{},"f:b":{}}}"#]);
    assert_eq!(live["metadata"]["managedFields"][0]["time"], NOW);
    let again = apply_map(Some(&live), "alpha", json!({"a": "1", "b": "2"}));
    assert_eq!(again, live);
    let less = apply_map(Some(&live), "alpha", json!({"a": "1"}));
    assert_eq!(less["data"], json!({"a": "1"}));
}

#[test]
fn conflicts_name_the_owner_and_force_takes_over() {
    let live = apply_map(None, "alpha", json!({"a": "1", "b": "2"}));
    let theirs = config(json!({"a": "9"}));
    let error = maps().apply(Some(&live), &theirs, &writer("beta"), false, &[]).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"alpha\": .data.a");
    let live = maps().apply(Some(&live), &theirs, &writer("beta"), true, &[]).unwrap();
    assert_eq!(live["data"], json!({"a": "9", "b": "2"}));
    assert_eq!(
        owners(&live),
        [r#"alpha Apply {"f:data":{"f:b":{}}}"#, r#"beta Apply {"f:data":{"f:a":{}}}"#]
    );
    // What an applier no longer names goes if nobody else owns it.
    let live = apply_map(Some(&live), "beta", json!({"c": "3"}));
    assert_eq!(live["data"], json!({"b": "2", "c": "3"}));
    // The same value is shared, not fought over.
    let live = apply_map(Some(&live), "gamma", json!({"b": "2"}));
    let live = apply_map(Some(&live), "alpha", json!({"a": "1"}));
    assert_eq!(live["data"], json!({"a": "1", "b": "2", "c": "3"}));
}

#[test]
fn updates_own_what_they_change() {
    let mut new = config(json!({"a": "b"}));
    maps().track_update(None, &mut new, &writer("replay"));
    assert_eq!(owners(&new), [r#"replay Update {"f:data":{".":{},"f:a":{}}}"#]);
    let live = new.clone();
    let mut new = live.clone();
    new["data"] = json!({"a": "b", "x": "y"});
    maps().track_update(Some(&live), &mut new, &writer("other"));
    assert_eq!(
        owners(&new),
        [r#"other Update {"f:data":{"f:x":{}}}"#, r#"replay Update {"f:data":{".":{},"f:a":{}}}"#]
    );
    // An applier that changes it meets both.
    let error = maps()
        .apply(Some(&new), &config(json!({"a": "c", "x": "z"})), &writer("alpha"), false, &[])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"other\" using v1:\n- .data.x\n\
         conflicts with \"replay\" using v1:\n- .data.a"
    );
}

#[test]
fn a_write_without_change_keeps_the_record() {
    let mut live = config(json!({"a": "b"}));
    maps().track_update(None, &mut live, &writer("replay"));
    let mut new = live.clone();
    let later = Writer { time: "2027-01-01T00:00:00Z", ..writer("replay") };
    maps().track_update(Some(&live), &mut new, &later);
    assert_eq!(new, live);
}

#[test]
fn managed_fields_can_be_forgotten_but_not_forged() {
    let mut live = config(json!({"a": "b"}));
    maps().track_update(None, &mut live, &writer("replay"));
    let mut cleared = live.clone();
    cleared["metadata"]["managedFields"] = json!([{}]);
    maps().track_update(Some(&live), &mut cleared, &writer("replay"));
    assert_eq!(owners(&cleared), [""; 0]);
    let error = maps()
        .apply(Some(&cleared), &config(json!({"a": "c"})), &writer("alpha"), false, &[])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
    );
    // What cannot be read is not believed.
    let mut forged = live.clone();
    forged["metadata"]["managedFields"] = json!([{"manager": "m", "operation": "Steal",
        "fieldsType": "FieldsV9", "apiVersion": "v1"}]);
    maps().track_update(Some(&live), &mut forged, &writer("replay"));
    assert_eq!(owners(&forged), owners(&live));
    let mut config = config(json!({"a": "b"}));
    config["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    let error = maps().apply(None, &config, &writer("alpha"), false, &[]).unwrap_err();
    assert_eq!(error, ApplyError::ManagedFields);
}

#[test]
fn kubectl_may_take_over_what_it_applied_on_the_client_side() {
    let annotation = config(json!({"a": "b"})).to_string();
    let mut live = config(json!({"a": "b"}));
    live["metadata"]["annotations"] = json!({ (last_applied::ANNOTATION): annotation });
    maps().track_update(None, &mut live, &writer("kubectl-client-side-apply"));
    let new = config(json!({"a": "c"}));
    assert!(maps().apply(Some(&live), &new, &writer("alpha"), false, &[]).is_err());
    let live = maps().apply(Some(&live), &new, &writer("kubectl"), false, &[]).unwrap();
    assert_eq!(live["data"]["a"], "c");
    // And the annotation stays true, so that client-side apply could go on.
    assert_eq!(
        live["metadata"]["annotations"][last_applied::ANNOTATION],
        format!(
            "{}\n",
            r#"{"apiVersion":"v1","data":{"a":"c"},"kind":"ConfigMap","metadata":{"name":"c"}}"#
        )
    );
}

pub(super) fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

pub(super) fn apps(manager: &str) -> Writer<'_> {
    Writer { api_version: "apps/v1", ..writer(manager) }
}

#[test]
fn list_maps_sets_and_atomics() {
    let schema = Schema::for_gvk("apps", "v1", "Deployment").unwrap();
    let config = deployment(json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
            {"name": "a", "image": "app:1", "ports": [{"containerPort": 80}],
             "env": [{"name": "X", "value": "1"}]}]}}}));
    let live = schema.apply(None, &config, &apps("alpha"), false, &["status"]).unwrap();
    assert_eq!(
        live["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {},
                "f:env": {"k:{\"name\":\"X\"}": {".": {}, "f:name": {}, "f:value": {}}},
                "f:image": {}, "f:name": {},
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
                    {".": {}, "f:containerPort": {}}}}}}}}})
    );
    // Status through its subresource: nothing else is touched or owned.
    let mut status = deployment(json!({"replicas": 9}));
    status["status"] =
        json!({"replicas": 2, "conditions": [{"type": "Available", "status": "True"}]});
    let controller = Writer { subresource: "status", ..apps("ctl") };
    let live = schema.apply(Some(&live), &status, &controller, false, &["status"]).unwrap();
    assert_eq!(live["spec"]["replicas"], 2);
    assert_eq!(
        owners(&live)[1],
        r#"ctl Apply/status {"f:status":{"f:conditions":{"k:{\"type\":\"Available\"}":{".":{},"f:status":{},"f:type":{}}},"f:replicas":{}}}"#
    );
    status["status"] = json!({"replicas": 2});
    let live = schema.apply(Some(&live), &status, &controller, false, &["status"]).unwrap();
    assert_eq!(live["status"], json!({"replicas": 2}));
}

#[test]
fn creates_are_compared_with_gos_zero_object() {
    let schema = Schema::for_gvk("apps", "v1", "Deployment").unwrap();
    let mut new = deployment(json!({"selector": {"matchLabels": {"app": "web"}}, "template": {
        "metadata": {"labels": {"app": "web"}}, "spec": {
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "a", "image": "x"}]}}}));
    schema.decode(&mut new).unwrap();
    schema.default(&mut new);
    schema.track_update(None, &mut new, &apps("kubectl-create"));
    assert_eq!(
        new["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:spec": {
            "f:progressDeadlineSeconds": {}, "f:replicas": {}, "f:revisionHistoryLimit": {},
            "f:selector": {},
            "f:strategy": {"f:type": {}, "f:rollingUpdate":
                {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}}},
            "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {
                "f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {},
                    "f:resources": {}, "f:terminationMessagePath": {},
                    "f:terminationMessagePolicy": {}}},
                "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {},
                "f:securityContext": {}, "f:terminationGracePeriodSeconds": {},
                "f:volumes": {".": {}, "k:{\"name\":\"v\"}":
                    {".": {}, "f:emptyDir": {}, "f:name": {}}}}}}})
    );
}

#[test]
fn ports_have_their_default_protocol_as_key() {
    let schema = Schema::for_gvk("", "v1", "Service").unwrap();
    let service = |ports: Value| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
               "spec": {"ports": ports}})
    };
    let apply = |live: Option<&Value>, manager: &str, ports: Value| {
        let mut new =
            schema.apply(live, &service(ports), &writer(manager), false, &["status"]).unwrap();
        schema.default(&mut new);
        new
    };
    let live = apply(None, "alpha", json!([{"port": 80, "name": "web"}]));
    let live = apply(Some(&live), "beta", json!([{"port": 80, "protocol": "UDP", "name": "dns"}]));
    let live = apply(Some(&live), "alpha", json!([{"port": 81, "name": "web"}]));
    assert_eq!(
        live["spec"]["ports"],
        json!([{"name": "dns", "protocol": "UDP", "port": 80},
               {"name": "web", "protocol": "TCP", "port": 81}])
    );
    assert_eq!(
        owners(&live),
        [
            r#"alpha Apply {"f:spec":{"f:ports":{"k:{\"port\":81,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{}}}}}"#,
            r#"beta Apply {"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"UDP\"}":{".":{},"f:name":{},"f:port":{},"f:protocol":{}}}}}"#
        ]
    );
}

#[test]
fn atomic_maps_have_one_owner() {
    let schema = Schema::for_gvk("", "v1", "Service").unwrap();
    let service = |selector: Value| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
               "spec": {"selector": selector}})
    };
    let first = service(json!({"a": "1", "b": "2"}));
    let live = schema.apply(None, &first, &writer("alpha"), false, &["status"]).unwrap();
    let second = service(json!({"c": "3"}));
    let error =
        schema.apply(Some(&live), &second, &writer("beta"), false, &["status"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"alpha\": .spec.selector"
    );
    let live = schema.apply(Some(&live), &second, &writer("beta"), true, &["status"]).unwrap();
    assert_eq!(live["spec"]["selector"], json!({"c": "3"}));
    assert_eq!(owners(&live), [r#"beta Apply {"f:spec":{"f:selector":{}}}"#]);
}

#[test]
fn custom_sets_merge() {
    let schema = Schema::from_crd(&json!({"type": "object", "properties": {"spec": {
        "type": "object", "properties": {
            "name": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"},
                     "x-kubernetes-list-type": "set"}}}}}))
    .unwrap();
    let widget = |spec: Value| json!({"apiVersion": "e/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
    let one = widget(json!({"name": "ok", "tags": ["a"]}));
    let live = schema.apply(None, &one, &writer("alpha"), false, &["status"]).unwrap();
    let two = widget(json!({"name": "ok", "tags": ["b"]}));
    let live = schema.apply(Some(&live), &two, &writer("beta"), false, &["status"]).unwrap();
    assert_eq!(live["spec"]["tags"], json!(["a", "b"]));
    let other = widget(json!({"name": "other"}));
    let error =
        schema.apply(Some(&live), &other, &writer("gamma"), false, &["status"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"alpha\":\n- .spec.name\n\
         conflicts with \"beta\":\n- .spec.name"
    );
    let less = widget(json!({"name": "ok"}));
    let live = schema.apply(Some(&live), &less, &writer("alpha"), false, &["status"]).unwrap();
    assert_eq!(live["spec"]["tags"], json!(["b"]));
}

#[test]
fn what_does_not_fit_the_schema_is_told_as_upstream_does() {
    let check = |schema: &Schema, config: Value, expected: &str| {
        let error = schema.apply(None, &config, &writer("alpha"), false, &["status"]).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(
        &Schema::for_gvk("apps", "v1", "Deployment").unwrap(),
        deployment(json!({"replicas": "many"})),
        "failed to create typed patch object (/web; apps/v1, Kind=Deployment): \
         .spec.replicas: expected numeric (int or float), got string",
    );
    check(
        &maps(),
        config(json!(["x"])),
        "failed to create typed patch object (/c; /v1, Kind=ConfigMap): \
         .data: expected map, got &{[x]}",
    );
    let mut unknown = config(json!({}));
    unknown["bogus"] = 1.into();
    check(
        &maps(),
        unknown,
        "failed to create typed patch object (/c; /v1, Kind=ConfigMap): \
         .bogus: field not declared in schema",
    );
}

#[test]
fn field_sets_read_back() {
    let json = json!({"f:spec": {"f:a": {}, "f:l": {".": {}, "k:{\"name\":\"a\"}":
        {".": {}, "f:name": {}}}, "f:s": {"v:\"x\"": {}}}});
    assert_eq!(FieldSet::from_json(&json).into_json(), json);
    assert_eq!(
        FieldSet::from_json(&json).paths(),
        [
            ".spec.a",
            ".spec.l",
            ".spec.l[name=\"a\"]",
            ".spec.l[name=\"a\"].name",
            ".spec.s[=\"x\"]"
        ]
    );
}

#[test]
fn owners_are_forgotten_when_the_client_sends_none() {
    let live =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "uid": "u"}});
    let mut live = live;
    maps().track_update(None, &mut live, &writer("alpha"));
    live["data"] = json!({"a": "b"});
    maps().track_update(None, &mut live, &writer("alpha"));
    for none in [json!([]), json!([{}])] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = none.clone();
        maps().track_update(Some(&live), &mut new, &writer("alpha"));
        assert!(owners(&new).is_empty());
        // A new object has none to forget.
        let mut new = live.clone();
        new["metadata"]["managedFields"] = none;
        maps().track_update(None, &mut new, &writer("alpha"));
        assert_eq!(owners(&new).len(), 1);
    }
}
