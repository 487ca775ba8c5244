//! What an update of a service keeps of the service as it was.

use serde_json::{Value, json};

use super::families::both_names;
use super::{has_external, kind, wants_health_check, wants_node_ports};
use crate::types::check::{copy, is_empty, items, items_mut, remove};

/// On an update: takes over what the client left out, and drops what the new type does not have.
pub(super) fn carry_over(spec: &mut Value, old: &Value) {
    addresses(spec, old);
    node_ports(spec, old);
    traffic(spec, old);
    if kind(spec) != "LoadBalancer" && kind(old) == "LoadBalancer" {
        drop_same(spec, old, &["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
}

/// Drops what the client has only repeated.
fn drop_same(spec: &mut Value, old: &Value, fields: &[&str]) {
    for field in fields {
        if spec[*field] == old[*field] {
            remove(spec, field);
        }
    }
}

fn addresses(spec: &mut Value, old: &Value) {
    let has_ip = |spec: &Value| kind(spec) != "ExternalName";
    if !has_ip(spec) {
        let fields =
            ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"];
        drop_same(spec, old, &fields);
        return both_names(spec);
    }
    if !has_ip(old) {
        return;
    }
    if is_empty(&spec["clusterIP"]) {
        copy(spec, old, "clusterIP");
    }
    let (one, many) = (spec["clusterIP"].clone(), spec["clusterIPs"].clone());
    let same = one == old["clusterIP"];
    if same && is_empty(&many) {
        copy(spec, old, "clusterIPs");
    } else if !same && (is_empty(&many) || many == old["clusterIPs"]) {
        spec["clusterIPs"] = json!([one]);
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        if is_empty(&spec[field]) {
            copy(spec, old, field);
        }
    }
}

fn node_ports(spec: &mut Value, old: &Value) {
    let may_have = |spec: &Value| matches!(kind(spec), "NodePort" | "LoadBalancer");
    if !may_have(old) {
        return;
    }
    if wants_node_ports(spec) {
        for port in items_mut(spec, "ports") {
            let same = |o: &&Value| o["port"] == port["port"] && o["protocol"] == port["protocol"];
            if port["nodePort"].as_i64().unwrap_or_default() == 0
                && let Some(known) =
                    items(&old["ports"]).iter().find(same).and_then(|o| o.get("nodePort"))
            {
                port["nodePort"] = known.clone();
            }
        }
    }
    if !may_have(spec) {
        for port in items_mut(spec, "ports") {
            let number = &port["nodePort"];
            if items(&old["ports"]).iter().any(|o| o["nodePort"] == *number) {
                remove(port, "nodePort");
            }
        }
    }
}

fn traffic(spec: &mut Value, old: &Value) {
    if has_external(old) && !has_external(spec) {
        drop_same(spec, old, &["externalTrafficPolicy"]);
    }
    match (wants_health_check(spec), wants_health_check(old)) {
        (true, true) if spec["healthCheckNodePort"].as_i64().unwrap_or_default() == 0 => {
            copy(spec, old, "healthCheckNodePort");
        }
        (true, _) => (),
        (false, _) => drop_same(spec, old, &["healthCheckNodePort"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_what_was_allocated() {
        let old = json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30007}]});
        let mut spec = json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]});
        carry_over(&mut spec, &old);
        assert_eq!(spec["clusterIP"], "10.96.0.9");
        assert_eq!(spec["ports"][0]["nodePort"], 30007);
        assert!(spec["ports"][1]["nodePort"].is_null());
        let mut plain = old.clone();
        plain["type"] = "ClusterIP".into();
        carry_over(&mut plain, &old);
        assert!(
            plain["ports"][0]["nodePort"].is_null() && plain["externalTrafficPolicy"].is_null()
        );
        let mut external = json!({"type": "ExternalName", "externalName": "a", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]});
        carry_over(&mut external, &old);
        assert!(external["clusterIP"].is_null() && external["clusterIPs"].is_null());
    }
}
