//! What is wrong with a service.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{is_headless, kind};
use crate::types::check::{At, Causes, is_empty, items, text};
use crate::types::words;

const DAY: i64 = 86400;

/// Everything that is wrong with a service's spec.
pub(super) fn spec(causes: &mut Causes, spec: &Value) {
    let at = At::new("spec");
    let external = kind(spec) == "ExternalName";
    if !external && !is_headless(spec) && items(&spec["ports"]).is_empty() {
        causes.required(&at.field("ports"), "");
    }
    ports(causes, &at.field("ports"), spec);
    causes.labels(&at.field("selector"), &spec["selector"]);
    affinity(causes, &at, spec);
    cluster_ips(causes, &at, spec);
    if external {
        let name = text(spec, "externalName");
        let name_at = at.field("externalName");
        if name.is_empty() {
            causes.required(&name_at, "");
        } else {
            causes.faults(&name_at, name, words::subdomain(name.strip_suffix('.').unwrap_or(name)));
        }
    }
    external_ips(causes, &at.field("externalIPs"), &spec["externalIPs"]);
    load_balancer(causes, &at, spec);
    policies(causes, &at, spec);
}

fn ports(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let ports = items(&spec["ports"]);
    let (mut names, mut numbers, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (n, port) in ports.iter().enumerate() {
        let at = at.index(n);
        let name = text(port, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                causes.required(&at.field("name"), "");
            }
        } else {
            causes.faults(&at.field("name"), name, words::label(name));
            if !names.insert(name) {
                causes.duplicate(&at.field("name"), &name.into());
            }
        }
        let zero = json!(0);
        let number = port.get("port").unwrap_or(&zero);
        causes.between(&at.field("port"), number, 1, 65535);
        let target = port.get("targetPort").unwrap_or(&zero);
        causes.port_or_name(&at.field("targetPort"), target);
        let protocol = text(port, "protocol");
        let app = text(port, "appProtocol");
        if !app.is_empty() {
            causes.faults(&at.field("appProtocol"), app, words::qualified(app));
        }
        if !numbers.insert((protocol, number.as_i64())) {
            causes.duplicate(&at, &json!({"protocol": protocol, "port": number}));
        }
        let node_port = port["nodePort"].as_i64().unwrap_or_default();
        if node_port != 0 {
            if matches!(kind(spec), "ClusterIP" | "ExternalName") {
                let detail = "may not be used when `type` is 'ClusterIP'";
                causes.forbidden(&at.field("nodePort"), detail);
            } else if !node_ports.insert((protocol, node_port)) {
                causes.duplicate(&at.field("nodePort"), &node_port.into());
            }
        }
    }
}

fn affinity(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let config = &spec["sessionAffinityConfig"];
    let at = at.field("sessionAffinityConfig");
    match text(spec, "sessionAffinity") {
        "ClientIP" => {
            let seconds = &config["clientIP"]["timeoutSeconds"];
            let at = at.field("clientIP");
            let at = at.field("timeoutSeconds");
            match seconds.as_i64() {
                None => causes.required(&at, "when session affinity type is ClientIP"),
                Some(n) if n <= 0 || n > DAY => {
                    causes.invalid(
                        &at,
                        seconds,
                        &format!("must be greater than 0 and less than {DAY}"),
                    );
                }
                Some(_) => (),
            }
        }
        "None" if !config.is_null() => {
            causes.forbidden(&at, "must not be set when session affinity is None");
        }
        _ => (),
    }
}

fn cluster_ips(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let at = at.field("clusterIPs");
    let listed = items(&spec["clusterIPs"]);
    if kind(spec) == "ExternalName" {
        if !listed.is_empty() {
            causes.forbidden(&at, "may not be set for ExternalName services");
        }
        return;
    }
    if is_headless(spec) {
        if matches!(kind(spec), "NodePort" | "LoadBalancer") {
            let detail = format!("may not be set to 'None' for {} services", kind(spec));
            causes.invalid(&at.index(0), &spec["clusterIPs"], &detail);
        }
        return;
    }
    for (n, ip) in listed.iter().enumerate() {
        if ip.as_str().is_none_or(|ip| ip.parse::<IpAddr>().is_err()) {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            causes.invalid(&at.index(n), ip, detail);
        }
    }
}

fn external_ips(causes: &mut Causes, at: &At<'_>, ips: &Value) {
    for (n, ip) in items(ips).iter().enumerate() {
        let at = at.index(n);
        let Some(parsed) = causes.ip(&at, ip) else { continue };
        reachable(causes, &at, ip, parsed);
    }
}

/// An address that other machines could reach.
pub(crate) fn reachable(causes: &mut Causes, at: &At<'_>, shown: &Value, ip: IpAddr) {
    if ip.is_unspecified() {
        causes.invalid(at, shown, &format!("may not be unspecified ({ip})"));
    }
    if ip.is_loopback() {
        causes.invalid(at, shown, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if local {
        causes.invalid(at, shown, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    let multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] == 0xff02,
    };
    if multicast {
        causes.invalid(
            at,
            shown,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        );
    }
}

fn load_balancer(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balancer = kind(spec) == "LoadBalancer";
    let ranges = at.field("loadBalancerSourceRanges");
    if !balancer {
        for field in
            ["loadBalancerSourceRanges", "loadBalancerClass", "allocateLoadBalancerNodePorts"]
        {
            if !is_empty(&spec[field]) {
                causes.forbidden(&at.field(field), ONLY);
            }
        }
    } else if spec["allocateLoadBalancerNodePorts"].is_null() {
        causes.required(&at.field("allocateLoadBalancerNodePorts"), "");
    }
    for (n, range) in items(&spec["loadBalancerSourceRanges"]).iter().enumerate() {
        let cidr = range.as_str().unwrap_or_default().trim();
        if !is_cidr(cidr) {
            causes.invalid(
                &ranges.index(n),
                range,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            );
        }
    }
    let class = text(spec, "loadBalancerClass");
    if !class.is_empty() {
        causes.faults(&at.field("loadBalancerClass"), class, words::qualified(class));
    }
    let health = &spec["healthCheckNodePort"];
    if health.as_i64().unwrap_or_default() != 0 && !super::wants_health_check(spec) {
        let detail =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.invalid(&at.field("healthCheckNodePort"), health, detail);
    }
}

/// Whether the text is an address range.
pub(crate) fn is_cidr(cidr: &str) -> bool {
    let Some((address, prefix)) = cidr.split_once('/') else { return false };
    let Ok(prefix) = prefix.parse::<u8>() else { return false };
    match address.parse() {
        Ok(IpAddr::V4(_)) => prefix <= 32,
        Ok(IpAddr::V6(_)) => prefix <= 128,
        Err(_) => false,
    }
}

fn policies(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let external = text(spec, "externalTrafficPolicy");
    if !external.is_empty() && !super::has_external(spec) {
        let detail = "may only be set for externally-accessible services";
        causes.invalid(&at.field("externalTrafficPolicy"), &external.into(), detail);
    }
    const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    causes.one_of(&at.field("trafficDistribution"), &spec["trafficDistribution"], &DISTRIBUTIONS);
}

/// What may not change.
pub(super) fn update(causes: &mut Causes, new: &Value, old: &Value) {
    let at = At::new("spec");
    if kind(new) == "ExternalName" || kind(old) == "ExternalName" {
        return;
    }
    let (before, now) = (&old["clusterIPs"], &new["clusterIPs"]);
    let first =
        |ips: &Value| items(ips).first().and_then(Value::as_str).unwrap_or_default().to_owned();
    if !first(before).is_empty() && first(before) != first(now) {
        let at = at.field("clusterIPs");
        causes.invalid(&at.index(0), now, "may not change once set");
    }
    if kind(new) == "LoadBalancer" && kind(old) == "LoadBalancer" {
        let class = &new["loadBalancerClass"];
        if *class != old["loadBalancerClass"] {
            causes.invalid(&at.field("loadBalancerClass"), class, "may not change once set");
        }
    }
}

/// `status.loadBalancer` of services and ingresses.
pub(crate) fn status(causes: &mut Causes, status: &Value, of_service: bool) {
    let at = At::new("status");
    let at = at.field("loadBalancer");
    let at = at.field("ingress");
    for (n, ingress) in items(&status["loadBalancer"]["ingress"]).iter().enumerate() {
        let at = at.index(n);
        let ip = text(ingress, "ip");
        if !ip.is_empty() {
            causes.ip(&at.field("ip"), &ingress["ip"]);
        }
        let mode = &ingress["ipMode"];
        if of_service && !ip.is_empty() && mode.is_null() {
            causes.required(&at.field("ipMode"), "must be specified when `ip` is set");
        } else if !mode.is_null() && ip.is_empty() {
            causes.forbidden(&at.field("ipMode"), "may not be specified when `ip` is not set");
        } else {
            causes.one_of(&at.field("ipMode"), mode, &["Proxy", "VIP"]);
        }
        let host = text(ingress, "hostname");
        if !host.is_empty() {
            if host.parse::<IpAddr>().is_ok() {
                causes.invalid(
                    &at.field("hostname"),
                    &host.into(),
                    "must be a DNS name, not an IP address",
                );
            }
            causes.faults(&at.field("hostname"), host, words::subdomain(host));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spec: Value, expected: &[&str]) {
        let mut causes = Causes::default();
        super::spec(&mut causes, &spec);
        let texts: Vec<String> = causes.0.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), expected.len(), "{texts:#?}");
        for (text, start) in texts.iter().zip(expected) {
            assert!(text.starts_with(start), "{text} does not start with {start}");
        }
    }

    #[test]
    fn ports_are_needed_named_and_unique() {
        let port = |name: &str, port: i64| json!({"name": name, "port": port, "targetPort": port, "protocol": "TCP"});
        check(json!({"type": "ClusterIP"}), &["spec.ports: Required value"]);
        check(json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}), &[]);
        check(
            json!({"type": "ClusterIP", "ports": [port("", 80), port("a", 80), port("a", 81), port("b", 0)]}),
            &[
                "spec.ports[0].name: Required value",
                "spec.ports[1]: Duplicate value",
                "spec.ports[2].name: Duplicate value: \"a\"",
                "spec.ports[3].port: Invalid value: 0",
                "spec.ports[3].targetPort: Invalid value: 0",
            ],
        );
    }

    #[test]
    fn external_names() {
        check(json!({"type": "ExternalName"}), &["spec.externalName: Required value"]);
        check(
            json!({"type": "ExternalName", "externalName": "a.b", "clusterIPs": ["10.96.0.1"]}),
            &["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
        );
    }

    #[test]
    fn the_address_stays() {
        let with = |ip: &str| json!({"type": "ClusterIP", "clusterIPs": [ip]});
        let mut causes = Causes::default();
        update(&mut causes, &with("10.96.0.9"), &with("10.96.0.9"));
        assert!(causes.0.is_empty());
        update(&mut causes, &with("10.96.0.9"), &with("10.96.0.8"));
        assert_eq!(
            causes.0[0].to_string(),
            "spec.clusterIPs[0]: Invalid value: [\"10.96.0.9\"]: may not change once set"
        );
    }
}
