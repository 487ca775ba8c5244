use serde_json::json;

use super::*;

fn from<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn facts() -> Facts {
    Facts {
        node_name: "node-1".into(),
        host_ips: vec!["10.0.0.1".into()],
        pod_ips: vec!["10.1.0.2".into()],
        allocatable: [("cpu".to_owned(), 2000), ("memory".to_owned(), 1_024_000)].into(),
    }
}

fn sources() -> Sources {
    let map = json!({"metadata": {"name": "settings"}, "data": {"color": "blue", "size": "L"}});
    let secret = json!({"metadata": {"name": "keys"}, "data": {"token": "aHVudGVyMg=="}});
    Sources {
        config_maps: [("settings".to_owned(), Arc::new(from(map)))].into(),
        secrets: [("keys".to_owned(), Arc::new(from(secret)))].into(),
    }
}

#[track_caller]
fn check(container: serde_json::Value, expected: Result<&[&str], &str>) {
    let mut container = container;
    container["name"] = json!("c");
    let container: Container = from(container);
    let pod: Pod = from(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "x", "tier": "y"}},
        "spec": {"containers": [], "enableServiceLinks": false},
    }));
    let got = environment(&pod, &container, &sources(), &facts(), &[])
        .map(|vars| vars.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>());
    let expected = expected.map(|e| e.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(got, expected.map_err(str::to_owned));
}

#[test]
fn variables_may_use_earlier_ones() {
    check(
        json!({"env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)-$(LATER)-$$(A)-$A-$("},
            {"name": "LATER", "value": "2"},
        ]}),
        Ok(&["A=1", "B=1-$(LATER)-$(A)-$A-$(", "LATER=2"]),
    );
}

#[test]
fn whole_objects_come_before_single_variables() {
    check(
        json!({
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "keys"}}],
            "env": [{"name": "P_size", "value": "$(P_color)"}],
        }),
        Ok(&["P_color=blue", "token=hunter2", "P_size=blue"]),
    );
}

#[test]
fn missing_references_are_errors_unless_optional() {
    let key = |name: &str, key: &str, optional: bool| json!({"env": [{"name": "V", "valueFrom": {"configMapKeyRef": {"name": name, "key": key, "optional": optional}}}]});
    check(key("settings", "color", false), Ok(&["V=blue"]));
    check(key("nope", "color", false), Err("configmap \"nope\" not found"));
    check(key("settings", "nope", false), Err("couldn't find key nope in ConfigMap ns/settings"));
    check(key("nope", "color", true), Ok(&[]));
    check(json!({"envFrom": [{"secretRef": {"name": "nope"}}]}), Err("secret \"nope\" not found"));
}

#[test]
fn fields_and_resources_come_from_the_pod_and_the_node() {
    let field = |path: &str| json!({"env": [{"name": "V", "valueFrom": {"fieldRef": {"fieldPath": path}}}]});
    check(field("metadata.labels['tier']"), Ok(&["V=y"]));
    check(field("status.podIP"), Ok(&["V=10.1.0.2"]));
    check(field("spec.nodeName"), Ok(&["V=node-1"]));
    check(field("spec.nope"), Err("unsupported fieldPath: spec.nope"));
    let resource = |what: &str, divisor: &str| {
        json!({
            "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}},
            "env": [{"name": "V", "valueFrom": {"resourceFieldRef": {"resource": what, "divisor": divisor}}}],
        })
    };
    check(resource("limits.memory", "1Mi"), Ok(&["V=64"]));
    check(resource("requests.cpu", "1m"), Ok(&["V=250"]));
    check(resource("requests.cpu", "0"), Ok(&["V=1"]));
    check(resource("limits.cpu", "1"), Ok(&["V=2"]));
}

#[test]
fn services_of_the_namespace_are_linked() {
    let service = |ns: &str, name: &str, ip: &str| -> Arc<Service> {
        from(json!({
            "metadata": {"name": name, "namespace": ns},
            "spec": {"clusterIP": ip, "ports": [{"name": "http-web", "port": 80}]},
        }))
    };
    let services = [
        service("ns", "my-web", "10.2.0.7"),
        service("other", "x", "10.2.0.8"),
        service("ns", "headless", "None"),
    ];
    let vars = service_variables(&services, "ns", true);
    let lines: Vec<_> = vars.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        lines,
        [
            "MY_WEB_SERVICE_HOST=10.2.0.7",
            "MY_WEB_SERVICE_PORT=80",
            "MY_WEB_SERVICE_PORT_HTTP_WEB=80",
            "MY_WEB_PORT=tcp://10.2.0.7:80",
            "MY_WEB_PORT_80_TCP=tcp://10.2.0.7:80",
            "MY_WEB_PORT_80_TCP_PROTO=tcp",
            "MY_WEB_PORT_80_TCP_PORT=80",
            "MY_WEB_PORT_80_TCP_ADDR=10.2.0.7",
        ]
    );
    assert_eq!(service_variables(&services, "ns", false), []);
}
