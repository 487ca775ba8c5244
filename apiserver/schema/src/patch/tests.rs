use serde_json::{Value, json};

use super::*;

#[track_caller]
fn json_patch(mut target: Value, patch: &Value) -> Result<Value, PatchError> {
    json(&mut target, patch.to_string().as_bytes()).map(|()| target)
}

#[test]
fn json_patches_follow_upstreams_reading() {
    let doc = || json!({"data": {"k": "v"}, "list": [1, 2]});
    for (patch, expected) in [
        (
            json!([{"op": "add", "path": "/data/x", "value": 1}]),
            json!({"data": {"k": "v", "x": 1}, "list": [1, 2]}),
        ),
        (
            json!([{"op": "replace", "path": "/data/none", "value": "x"}]),
            json!({"data": {"k": "v", "none": "x"}, "list": [1, 2]}),
        ),
        (
            json!([{"op": "add", "path": "/list/-", "value": 3}]),
            json!({"data": {"k": "v"}, "list": [1, 2, 3]}),
        ),
        (
            json!([{"op": "add", "path": "/list/0", "value": 0}]),
            json!({"data": {"k": "v"}, "list": [0, 1, 2]}),
        ),
        (json!([{"op": "remove", "path": "/list/-1"}]), json!({"data": {"k": "v"}, "list": [1]})),
        (
            json!([{"op": "move", "from": "/data/k", "path": "/data/a~1b"}]),
            json!({"data": {"a/b": "v"}, "list": [1, 2]}),
        ),
        (
            json!([{"op": "copy", "from": "/list/0", "path": "/data/c"}]),
            json!({"data": {"k": "v", "c": 1}, "list": [1, 2]}),
        ),
        (json!([{"op": "test", "path": "/data/k", "value": "v"}]), doc()),
        (json!([{"op": "test", "path": "/data/none", "value": null}]), doc()),
        // Nothing is null, and what is before the first slash is nothing.
        (
            json!([{"op": "add", "path": "x/data/n"}]),
            json!({"data": {"k": "v", "n": null}, "list": [1, 2]}),
        ),
        (json!([]), doc()),
    ] {
        assert_eq!(json_patch(doc(), &patch), Ok(expected), "{patch}");
    }
    for patch in [
        json!([{"op": "remove", "path": "/data/none"}]),
        json!([{"op": "add", "path": "/spec/deep/er", "value": "x"}]),
        json!([{"op": "add", "path": "/list/5", "value": "x"}]),
        json!([{"op": "paint", "path": "/data/k", "value": "x"}]),
        json!([{"op": "test", "path": "/data/k", "value": "w"}]),
        json!([{"op": "add", "path": "", "value": {}}]),
        json!([{"op": "add", "path": "data", "value": {}}]),
        json!([{"op": "move", "from": "/data", "path": "/data/k/x"}]),
    ] {
        assert_eq!(json_patch(doc(), &patch), Err(PatchError::Unprocessable), "{patch}");
    }
}

#[test]
fn a_json_patch_cannot_make_what_is_too_large_or_too_deep() {
    let double = |n: usize| json!({"op": "copy", "from": "/data", "path": format!("/data/k{n}")});
    let patch = |n: usize| (0..n).map(double).collect::<Value>();
    assert!(json_patch(json!({"data": {}}), &patch(10)).is_ok());
    assert_eq!(json_patch(json!({"data": {}}), &patch(64)), Err(PatchError::Unprocessable));
    let nested = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!({ "a": inner }));
    let add =
        |at: usize, value: Value| json!({"op": "add", "path": "/a".repeat(at), "value": value});
    assert!(json_patch(json!({}), &json!([add(1, nested(120))])).is_ok());
    let twice = json!([add(1, nested(120)), add(100, nested(120))]);
    assert_eq!(json_patch(json!({}), &twice), Err(PatchError::Unprocessable));
}

#[test]
fn a_failed_json_patch_changes_nothing() {
    let mut doc = json!({"a": 1});
    let patch = br#"[{"op":"add","path":"/b","value":2},{"op":"remove","path":"/c"}]"#;
    assert!(json(&mut doc, patch).is_err());
    assert_eq!(doc, json!({"a": 1}));
}

#[test]
fn what_is_no_patch_is_told_as_upstream_does() {
    let decode = |text: &str| Err(PatchError::Decode(text.to_owned()));
    let mut doc = json!({});
    assert_eq!(
        json(&mut doc, br#"{"op":"add"}"#),
        decode("json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp")
    );
    assert_eq!(
        json(&mut doc, b"not json"),
        decode("invalid character 'o' in literal null (expecting 'u')")
    );
    assert_eq!(
        merge(&mut doc, b"[1]"),
        decode("json: cannot unmarshal array into Go value of type map[string]interface {}")
    );
    assert_eq!(merge(&mut doc, b"{\"data\":"), decode("unexpected end of JSON input"));
    let many: Vec<Value> = vec![json!({"op": "test", "path": "", "value": {}}); MAX_OPERATIONS + 1];
    assert_eq!(
        json(&mut doc, Value::from(many).to_string().as_bytes()),
        Err(PatchError::TooManyOperations(MAX_OPERATIONS + 1))
    );
}

#[test]
fn merge_patches_follow_rfc_7386() {
    let mut doc = json!({"a": {"b": 1, "c": 2}, "l": [1]});
    merge(&mut doc, br#"{"a":{"b":null,"d":{"e":null}},"l":[2],"n":1}"#).unwrap();
    assert_eq!(doc, json!({"a": {"c": 2, "d": {}}, "l": [2], "n": 1}));
    // Upstream's library takes nulls out of objects in lists, too.
    merge(&mut doc, br#"{"l":[null,{"x":null,"y":[{"z":null}]}]}"#).unwrap();
    assert_eq!(doc["l"], json!([null, {"y": [{}]}]));
}

fn deployment() -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "template": {"spec": {
        "volumes": [{"name": "v1", "emptyDir": {}}, {"name": "v2", "configMap": {"name": "c"}}],
        "containers": [
            {"name": "a", "image": "app:1", "args": ["p", "q"],
             "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
             "volumeMounts": [{"name": "v1", "mountPath": "/x"}]},
            {"name": "b", "image": "b:1"}]}}}})
}

#[track_caller]
fn strategic(kind: &str, mut live: Value, patch: Value) -> Result<Value, String> {
    let group = if kind == "Deployment" { "apps" } else { "" };
    let schema = Schema::for_gvk(group, "v1", kind).unwrap();
    let Value::Object(patch) = patch else { panic!("not an object") };
    match schema.strategic_merge(&mut live, &patch) {
        Ok(()) => Ok(live),
        Err(error) => Err(error.to_string()),
    }
}

/// The pod spec of the patched deployment.
#[track_caller]
fn pod_spec(patch: Value) -> Value {
    let patch = json!({"spec": {"template": {"spec": patch}}});
    strategic("Deployment", deployment(), patch).unwrap()["spec"]["template"]["spec"].clone()
}

fn names(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn lists_merge_by_key() {
    let spec = pod_spec(
        json!({"containers": [{"name": "b", "image": "b:2"}, {"name": "c", "image": "c:1"}]}),
    );
    assert_eq!(names(&spec["containers"]), ["a", "b", "c"]);
    assert_eq!(spec["containers"][1]["image"], "b:2");
    assert_eq!(spec["containers"][0]["args"], json!(["p", "q"]));
}

#[test]
fn new_entries_come_first_as_recorded() {
    let owner =
        |n: u8| json!({"apiVersion": "v1", "kind": "Secret", "name": "s", "uid": n.to_string()});
    let live = json!({"metadata": {"ownerReferences": [owner(1)]}});
    let patch = json!({"metadata": {"ownerReferences": [owner(2)]}});
    let result = strategic("ConfigMap", live, patch).unwrap();
    assert_eq!(result["metadata"]["ownerReferences"], json!([owner(2), owner(1)]));
    let patch = json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": "1"}]}});
    let result = strategic("ConfigMap", result, patch).unwrap();
    assert_eq!(result["metadata"]["ownerReferences"], json!([owner(2)]));
}

#[test]
fn atomic_lists_and_nulls() {
    let spec = pod_spec(json!({"volumes": null, "containers": [
        {"name": "a", "args": ["z"], "command": null, "volumeMounts": null}]}));
    assert!(spec.get("volumes").is_none());
    assert_eq!(spec["containers"][0]["args"], json!(["z"]));
    assert!(spec["containers"][0].get("volumeMounts").is_none());
    assert!(spec["containers"][0].get("command").is_none());
}

#[test]
fn delete_and_replace_directives() {
    let spec = pod_spec(json!({"containers": [
        {"$patch": "delete", "name": "b"},
        {"name": "a", "env": [{"$patch": "delete", "name": "X"}]}]}));
    assert_eq!(names(&spec["containers"]), ["a"]);
    assert_eq!(names(&spec["containers"][0]["env"]), ["Y"]);
    let spec =
        pod_spec(json!({"containers": [{"$patch": "replace"}, {"name": "z", "image": "z:1"}]}));
    assert_eq!(spec["containers"], json!([{"name": "z", "image": "z:1"}]));
    let spec = pod_spec(json!({"$patch": "replace", "containers": []}));
    assert_eq!(spec, json!({"containers": []}));
}

#[test]
fn retain_keys_drop_the_others() {
    let spec = pod_spec(json!({"volumes": [
        {"$retainKeys": ["name", "secret"], "name": "v2", "secret": {"secretName": "s"}}]}));
    assert_eq!(spec["volumes"][1], json!({"name": "v2", "secret": {"secretName": "s"}}));
}

#[test]
fn set_element_order_sorts() {
    let spec = pod_spec(json!({
        "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}],
        "containers": [{"name": "c", "image": "c:1"}, {
            "$setElementOrder/env": [{"name": "Z"}, {"name": "Y"}, {"name": "X"}],
            "name": "a", "env": [{"name": "Z", "value": "26"}]}]}));
    assert_eq!(names(&spec["containers"]), ["c", "b", "a"]);
    assert_eq!(names(&spec["containers"][2]["env"]), ["Z", "Y", "X"]);
    let only_order = json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]});
    assert_eq!(names(&pod_spec(only_order)["containers"]), ["b", "a"]);
}

#[test]
fn primitive_lists_merge_and_delete() {
    let live = json!({"metadata": {"finalizers": ["example.com/one", "example.com/two"]}});
    let patch = json!({"metadata": {
        "$deleteFromPrimitiveList/finalizers": ["example.com/one"],
        "$setElementOrder/finalizers": ["example.com/three", "example.com/two"],
        "finalizers": ["example.com/three"]}});
    assert_eq!(
        strategic("Pod", live, patch).unwrap()["metadata"]["finalizers"],
        json!(["example.com/three", "example.com/two"])
    );
}

#[test]
fn contradictions_are_told_as_upstream_does() {
    let check = |patch: Value, expected: &str| {
        let error = strategic("Deployment", deployment(), patch).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    };
    let spec = |patch: Value| json!({"spec": {"template": {"spec": patch}}});
    check(
        spec(json!({"containers": [{"$patch": "explode", "name": "a"}]})),
        "unknown patch type: explode in map: map[$patch:explode name:a]",
    );
    check(json!({"$patch": "explode"}), "unknown patch type: explode in map: map[$patch:explode]");
    check(
        spec(json!({"containers": [{"image": "x:1"}]})),
        "map: map[image:x:1] does not contain declared merge key: name",
    );
    // Where the list is not there yet, nothing has to be found.
    let made =
        strategic("Deployment", deployment(), spec(json!({"initContainers": [{"image": "x:1"}]})));
    assert!(made.is_ok(), "{made:?}");
    check(
        spec(json!({"$setElementOrder/containers": [{"name": "a"}],
                    "containers": [{"name": "b", "image": "b:3"}]})),
        "The order in patch list:\n",
    );
    check(json!({"spec": {"template": "text"}}), "cannot restore struct from: string");
    check(spec(json!({"containers": {"name": "a"}})), "cannot restore slice from map");
}
