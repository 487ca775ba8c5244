use serde_json::{Value, json};

use super::*;

fn zone() -> Zone {
    let services = [
        json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {
            "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}, {"port": 81}]}}),
        json!({"metadata": {"name": "db", "namespace": "shop"}, "spec": {
            "clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "sql", "port": 5432}]}}),
        json!({"metadata": {"name": "old", "namespace": "shop"}, "spec": {
            "type": "ExternalName", "externalName": "example.com"}}),
    ];
    let slices = [json!({
        "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
        "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.0.0.2"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.0.0.3"], "conditions": {}},
            {"addresses": ["10.0.0.4"], "conditions": {"ready": false}},
        ],
    })];
    fn all<T: serde::de::DeserializeOwned>(values: &[Value]) -> Vec<Arc<T>> {
        values
            .iter()
            .map(|value| Arc::new(serde_json::from_value(value.clone()).unwrap()))
            .collect()
    }
    Zone::new(&Name::from_str("cluster.local.").unwrap(), &all(&services), &all(&slices))
}

#[track_caller]
fn check(name: &str, kind: RecordType, expected: &str) {
    let rendered = match zone().lookup(&Name::from_str(name).unwrap(), kind) {
        Lookup::Found { answers, additionals } => {
            let line = |record: &Record| format!("{}", record.data);
            let mut lines: Vec<String> = answers.iter().map(line).collect();
            lines.extend(
                additionals.iter().map(|record| format!("+ {} {}", record.name, record.data)),
            );
            lines.join("\n")
        }
        other => format!("{other:?}"),
    };
    assert_eq!(rendered, expected, "{name} {kind}");
}

#[test]
fn a_service_has_its_cluster_addresses() {
    check("web.shop.svc.cluster.local.", RecordType::A, "10.96.0.9");
    check("WEB.shop.svc.cluster.local.", RecordType::A, "10.96.0.9");
    check("web.shop.svc.cluster.local.", RecordType::AAAA, "fd00::9");
    check("web.shop.svc.cluster.local.", RecordType::MX, "NoData");
}

#[test]
fn a_headless_service_stands_for_its_ready_endpoints() {
    check("db.shop.svc.cluster.local.", RecordType::A, "10.0.0.2\n10.0.0.3");
    check("db-0.db.shop.svc.cluster.local.", RecordType::A, "10.0.0.2");
    check("10-0-0-3.db.shop.svc.cluster.local.", RecordType::A, "10.0.0.3");
}

#[test]
fn ports_have_srv_records_with_addresses() {
    check(
        "_http._tcp.web.shop.svc.cluster.local.",
        RecordType::SRV,
        "0 100 80 web.shop.svc.cluster.local.\n\
         + web.shop.svc.cluster.local. 10.96.0.9\n+ web.shop.svc.cluster.local. fd00::9",
    );
    check(
        "_sql._tcp.db.shop.svc.cluster.local.",
        RecordType::SRV,
        "0 100 5432 db-0.db.shop.svc.cluster.local.\n0 100 5432 10-0-0-3.db.shop.svc.cluster.local.\n\
         + db-0.db.shop.svc.cluster.local. 10.0.0.2\n+ 10-0-0-3.db.shop.svc.cluster.local. 10.0.0.3",
    );
}

#[test]
fn external_names_are_aliases() {
    check("old.shop.svc.cluster.local.", RecordType::A, "example.com.");
}

#[test]
fn pods_are_named_by_address() {
    check("10-1-2-3.shop.pod.cluster.local.", RecordType::A, "10.1.2.3");
    check("nonsense.shop.pod.cluster.local.", RecordType::A, "NoSuchName");
}

#[test]
fn addresses_lead_back_to_names() {
    check("9.0.96.10.in-addr.arpa.", RecordType::PTR, "web.shop.svc.cluster.local.");
    check("2.0.0.10.in-addr.arpa.", RecordType::PTR, "db-0.db.shop.svc.cluster.local.");
}

#[test]
fn what_is_missing_is_told_from_what_is_foreign() {
    check("shop.svc.cluster.local.", RecordType::A, "NoData");
    check("none.shop.svc.cluster.local.", RecordType::A, "NoSuchName");
    check("web.shop.svc.cluster.local.example.com.", RecordType::A, "Foreign");
    check("9.9.9.9.in-addr.arpa.", RecordType::PTR, "Foreign");
    check("dns-version.cluster.local.", RecordType::TXT, "1.1.0");
}
