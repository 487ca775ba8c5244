use serde_json::{Value, json};

use super::*;

#[track_caller]
fn check(service: Value, endpoints: &[Value], expected: &str) {
    let mut service: Service = serde_json::from_value(json!({ "spec": service })).unwrap();
    service.metadata.namespace = Some("ns".into());
    service.metadata.name = Some("web".into());
    let slice = serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": "web-1", "labels": {SERVICE_NAME: "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }));
    let observed = Observed {
        services: vec![Arc::new(service)],
        slices: vec![Arc::new(slice.unwrap())],
        node: "n1".into(),
    };
    let rendered: String = plan(&observed).iter().map(render).collect();
    assert_eq!(rendered, expected);
}

fn render(port: &ServicePort) -> String {
    let list = |endpoints: &[Endpoint]| {
        endpoints.iter().map(|e| format!(" {}:{}", e.ip, e.port)).collect::<String>()
    };
    let (internal, external) = (list(&port.internal), list(&port.external));
    format!("{}:{} ->{internal} |{external}\n", port.cluster_ips[0], port.port)
}

fn web() -> Value {
    json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"name": "http", "port": 80, "nodePort": 30080}]})
}

fn with(mut service: Value, key: &str, value: &str) -> Value {
    service[key] = value.into();
    service
}

fn endpoint(ip: &str, node: &str, conditions: Value) -> Value {
    json!({"addresses": [ip], "nodeName": node, "conditions": conditions})
}

#[test]
fn ready_endpoints_serve() {
    let endpoints = [
        endpoint("10.0.0.2", "n1", json!({"ready": true})),
        endpoint("10.0.0.3", "n1", json!({"ready": false})),
        endpoint("10.0.0.4", "n2", json!({})),
    ];
    let both = "10.0.0.2:8080 10.0.0.4:8080";
    check(web(), &endpoints, &format!("10.96.0.9:80 -> {both} | {both}\n"));
}

#[test]
fn addresses_that_are_no_pods_have_no_rules() {
    let forbidden = [
        "127.0.0.1",
        "127.1.2.3",
        "169.254.169.254",
        "224.0.0.5",
        "255.255.255.255",
        "0.0.0.0",
        "::1",
        "fe80::1",
        "ff02::1",
        "::",
        "::ffff:127.0.0.1",
    ];
    let mut endpoints = forbidden.map(|ip| endpoint(ip, "n1", json!({"ready": true}))).to_vec();
    check(web(), &endpoints, "10.96.0.9:80 -> |\n");
    endpoints.push(endpoint("10.0.0.2", "n1", json!({"ready": true})));
    check(web(), &endpoints, "10.96.0.9:80 -> 10.0.0.2:8080 | 10.0.0.2:8080\n");
}

#[test]
fn terminating_endpoints_serve_when_no_other_does() {
    let leaving =
        endpoint("10.0.0.2", "n1", json!({"ready": false, "serving": true, "terminating": true}));
    let gone =
        endpoint("10.0.0.3", "n1", json!({"ready": false, "serving": false, "terminating": true}));
    check(web(), &[leaving, gone], "10.96.0.9:80 -> 10.0.0.2:8080 | 10.0.0.2:8080\n");
}

#[test]
fn local_policies_keep_to_this_node() {
    let endpoints = [endpoint("10.0.0.2", "n1", json!({})), endpoint("10.0.0.4", "n2", json!({}))];
    let local = with(web(), "externalTrafficPolicy", "Local");
    check(local, &endpoints, "10.96.0.9:80 -> 10.0.0.2:8080 10.0.0.4:8080 | 10.0.0.2:8080\n");
    let local = with(web(), "internalTrafficPolicy", "Local");
    check(local, &endpoints, "10.96.0.9:80 -> 10.0.0.2:8080 | 10.0.0.2:8080 10.0.0.4:8080\n");
}

#[test]
fn headless_and_external_names_have_no_rules() {
    let endpoints = [endpoint("10.0.0.2", "n1", json!({}))];
    check(
        json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}),
        &endpoints,
        "",
    );
    check(json!({"type": "ExternalName", "externalName": "example.com"}), &endpoints, "");
}

#[test]
fn a_port_without_endpoints_is_still_there_to_refuse() {
    check(web(), &[], "10.96.0.9:80 -> |\n");
}

#[test]
fn affinity_lasts_three_hours_unless_said() {
    let ports = |service: Value| {
        let service = json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": service});
        let services = vec![Arc::new(serde_json::from_value(service).unwrap())];
        plan(&Observed { services, ..Observed::default() })
    };
    assert_eq!(ports(web())[0].affinity, None);
    let sticky = with(web(), "sessionAffinity", "ClientIP");
    assert_eq!(ports(sticky.clone())[0].affinity, Some(Duration::from_secs(10_800)));
    let mut short = sticky;
    short["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10}});
    assert_eq!(ports(short)[0].affinity, Some(Duration::from_secs(10)));
}
