//! Tables of specs, and of what is wrong with them.

use serde_json::json;

use super::*;

#[track_caller]
fn check(spec: Value, expected: &[&str]) {
    let mut causes = Causes::default();
    let metadata = json!({"name": "p"});
    super::spec(&mut causes, &At::new("spec"), &spec, Shape::Pod(&metadata));
    let texts: Vec<String> = causes.0.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), expected.len(), "{texts:#?}");
    for (text, start) in texts.iter().zip(expected) {
        assert!(text.starts_with(start), "{text} does not start with {start}");
    }
}

fn with(container: Value) -> Value {
    let mut container = container;
    container["name"] = "a".into();
    container["image"] = "app:1".into();
    json!({"containers": [container]})
}

#[test]
fn a_plain_pod_is_right() {
    check(with(json!({})), &[]);
}

#[test]
fn containers_are_needed_and_named_once() {
    check(json!({}), &["spec.containers: Required value"]);
    check(
        json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "y"}, {"name": "a.b", "image": "z "}]}),
        &[
            "spec.containers[1].name: Duplicate value: \"a\"",
            "spec.containers[2].name: Invalid value: \"a.b\": must not contain dots",
            "spec.containers[2].image: Invalid value: \"z \": must not have leading",
        ],
    );
}

#[test]
fn probes_need_one_handler() {
    check(
        with(
            json!({"readinessProbe": {"periodSeconds": 5}, "livenessProbe": {"exec": {"command": ["x"]}, "grpc": {"port": 1}, "successThreshold": 2}}),
        ),
        &[
            "spec.containers[0].livenessProbe.grpc: Forbidden: may not specify more than 1",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[0].readinessProbe: Required value: must specify a handler type",
        ],
    );
}

#[test]
fn requests_stay_below_limits() {
    check(
        with(
            json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2", "example.com/x": "1", "foo": "1"}}}),
        ),
        &[
            "spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard resource type",
            "spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard resource for containers",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            "spec.containers[0].resources.limits: Required value: Limit must be set",
        ],
    );
}

#[test]
fn mounts_name_volumes() {
    let mut spec = with(
        json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "ghost", "mountPath": "/a", "subPath": "../x"}]}),
    );
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}, {"name": "u", "emptyDir": {}, "hostPath": {"path": "/x"}}, {"name": "w", "hostPath": {"path": "/a/../b"}}]);
    check(
        spec,
        &[
            "spec.volumes[1].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[2].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            "spec.containers[0].volumeMounts[1].name: Not found: \"ghost\"",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"../x\": must not contain '..'",
        ],
    );
}

#[test]
fn tolerations_and_constraints() {
    let mut spec = with(json!({}));
    spec["tolerations"] = json!([{"operator": "Equal"}, {"key": "a", "tolerationSeconds": 3}]);
    spec["topologySpreadConstraints"] = json!([{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "ScheduleAnyway", "matchLabelKeys": ["a"]}]);
    check(
        spec,
        &[
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists",
            "spec.tolerations[1].effect: Invalid value: \"\": effect must be 'NoExecute'",
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0",
            "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
            "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden",
        ],
    );
}
