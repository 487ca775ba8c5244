//! What an update of a service keeps of the service as it was.

use serde_json::{Value, json};

use super::{has_external, kind, wants_health_check, wants_node_ports};
use crate::types::check::{copy, is_empty, items, items_mut, remove, text};

/// On an update: takes over what the client left out, before anything is allocated.
pub(super) fn take_over(spec: &mut Value, old: &Value) {
    addresses(spec, old);
    node_ports(spec, old);
    if wants_health_check(spec)
        && wants_health_check(old)
        && spec["healthCheckNodePort"].as_i64().unwrap_or_default() == 0
    {
        copy(spec, old, "healthCheckNodePort");
    }
}

/// On an update, after that: drops what the new type does not have and the client has only repeated.
pub(super) fn drop_unused(spec: &mut Value, old: &Value) {
    let has_ip = |spec: &Value| kind(spec) != "ExternalName";
    if has_ip(old) && !has_ip(spec) {
        if same_addresses(spec, old) {
            remove(spec, "clusterIP");
            remove(spec, "clusterIPs");
        }
        drop_same(spec, old, &["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]);
    }
    let may_have = |spec: &Value| matches!(kind(spec), "NodePort" | "LoadBalancer");
    if may_have(old)
        && !may_have(spec)
        && numbers(spec).all(|number| numbers(old).any(|o| o == number))
    {
        for port in items_mut(spec, "ports") {
            remove(port, "nodePort");
        }
    }
    if wants_health_check(old) && !wants_health_check(spec) {
        drop_same(spec, old, &["healthCheckNodePort"]);
    }
    if kind(old) == "LoadBalancer" && kind(spec) != "LoadBalancer" {
        drop_same(spec, old, &["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if has_external(old) && !has_external(spec) {
        drop_same(spec, old, &["externalTrafficPolicy"]);
    }
}

fn same_addresses(spec: &Value, old: &Value) -> bool {
    text(spec, "clusterIP") == text(old, "clusterIP")
        && items(&spec["clusterIPs"]) == items(&old["clusterIPs"])
}

/// Drops what the client has only repeated.
fn drop_same(spec: &mut Value, old: &Value, fields: &[&str]) {
    for field in fields {
        if spec[*field] == old[*field] {
            remove(spec, field);
        }
    }
}

/// The families follow from the addresses, and both names of the first address from one another.
fn addresses(spec: &mut Value, old: &Value) {
    if kind(spec) != "ExternalName" && kind(old) != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilyPolicy"] {
            if is_empty(&spec[field]) {
                copy(spec, old, field);
            }
        }
    }
    let (one, before) = (text(spec, "clusterIP").to_owned(), text(old, "clusterIP"));
    if one == before {
        if items(&spec["clusterIPs"]).is_empty() {
            copy(spec, old, "clusterIPs");
        }
    } else if items(&spec["clusterIPs"]) == items(&old["clusterIPs"]) {
        remove(spec, "clusterIPs");
        if !one.is_empty() {
            spec["clusterIPs"] = json!([one]);
        }
    }
}

/// Ports are told apart by their names.
fn node_ports(spec: &mut Value, old: &Value) {
    if !wants_node_ports(old) || !wants_node_ports(spec) {
        return;
    }
    let is_old = |number: &&Value| numbers(old).any(|o| o == *number);
    let kept: Vec<Value> = numbers(spec).filter(is_old).cloned().collect();
    for port in items_mut(spec, "ports").filter(|port| !has_number(port)) {
        let namesake = items(&old["ports"]).iter().find(|o| text(o, "name") == text(port, "name"));
        if let Some(known) = namesake.filter(|o| has_number(o) && !kept.contains(&o["nodePort"])) {
            port["nodePort"] = known["nodePort"].clone();
        }
    }
}

/// The node port of a port; 0 if it has none.
pub(super) fn number(port: &Value) -> i64 {
    port["nodePort"].as_i64().unwrap_or_default()
}

/// Whether a port has a node port.
pub(super) fn has_number(port: &Value) -> bool {
    number(port) != 0
}

/// The node ports of a service.
pub(super) fn numbers(spec: &Value) -> impl Iterator<Item = &Value> {
    items(&spec["ports"]).iter().filter(|port| has_number(port)).map(|port| &port["nodePort"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_what_was_allocated() {
        let old = json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30007}]});
        let mut spec = json!({"type": "NodePort", "ports": [{"port": 81, "protocol": "UDP"}, {"name": "b", "port": 80}]});
        take_over(&mut spec, &old);
        assert_eq!(spec["clusterIP"], "10.96.0.9");
        assert_eq!(spec["ports"][0]["nodePort"], 30007, "by the name");
        assert!(spec["ports"][1]["nodePort"].is_null());
        spec["ports"] = json!([{"port": 80}, {"name": "b", "port": 81, "nodePort": 30007}]);
        take_over(&mut spec, &old);
        assert!(spec["ports"][0]["nodePort"].is_null(), "another has it");
        let mut plain = old.clone();
        plain["type"] = "ClusterIP".into();
        drop_unused(&mut plain, &old);
        assert!(
            plain["ports"][0]["nodePort"].is_null() && plain["externalTrafficPolicy"].is_null()
        );
        let mut external = json!({"type": "ExternalName", "externalName": "a", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]});
        drop_unused(&mut external, &old);
        assert!(external["clusterIP"].is_null() && external["clusterIPs"].is_null());
    }
}
