//! What is wrong with a service.

use std::collections::HashSet;
use std::net::IpAddr;

use schema::Cause;
use schema::print::{Fields, Shown};
use serde_json::{Value, json};

use super::{is_headless, kind};
use crate::types::check::{At, Causes, is_empty, items, text};
use crate::types::words;

const DAY: i64 = 86400;
const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const ONLY_BALANCERS: &str = "may only be used when `type` is 'LoadBalancer'";

/// Everything that is wrong with a service; `old` is there on updates.
pub(super) fn service(causes: &mut Causes, service: &Value, old: Option<&Value>) {
    topology(causes, &service["metadata"]["annotations"]);
    spec(causes, &service["spec"], old.map(|old| &old["spec"]));
    let ranges = &service["metadata"]["annotations"][RANGES];
    if is_empty(&service["spec"]["loadBalancerSourceRanges"])
        && let Some(ranges) = ranges.as_str()
    {
        let at = At::new("metadata");
        let at = at.field("annotations");
        let at = at.key(RANGES);
        if kind(&service["spec"]) != "LoadBalancer" {
            causes.forbidden(&at, ONLY_BALANCERS);
        }
        let known = old.is_some_and(|old| old["metadata"]["annotations"][RANGES] == ranges);
        let listed =
            ranges.split(',').map(str::trim).filter(|_| !known && !ranges.trim().is_empty());
        for range in listed {
            causes.range(&at, &range.into());
        }
    }
}

/// Two annotations that say the same must agree.
fn topology(causes: &mut Causes, annotations: &Value) {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    const MODE: &str = "service.kubernetes.io/topology-mode";
    let (hints, mode) = (&annotations[HINTS], &annotations[MODE]);
    if hints.is_string() && mode.is_string() && hints != mode {
        let at = At::new("metadata");
        let at = at.field("annotations");
        let why = format!("must match annotations[{HINTS}] when both are specified");
        causes.invalid(&at.key(MODE), mode, &why);
    }
}

/// Everything that is wrong with a service's spec.
pub(super) fn spec(causes: &mut Causes, spec: &Value, old: Option<&Value>) {
    let at = At::new("spec");
    let external = kind(spec) == "ExternalName";
    if !external && !is_headless(spec) {
        causes.present(&at.field("ports"), &spec["ports"], "");
    }
    if external {
        for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if !is_empty(&spec[field]) {
                causes.forbidden(&at.field(field), "may not be set for ExternalName services");
            }
        }
        let name = text(spec, "externalName");
        let name = name.strip_suffix('.').unwrap_or(name);
        if causes.present(&at.field("externalName"), &name.into(), "") {
            causes.faults(&at.field("externalName"), name, words::subdomain(name));
        }
    } else if is_headless(spec) && matches!(kind(spec), "NodePort" | "LoadBalancer") {
        let why = format!("may not be set to 'None' for {} services", kind(spec));
        causes.invalid(&at.field("clusterIPs").index(0), &"None".into(), &why);
    }
    ports(causes, &at.field("ports"), spec);
    causes.labels(&at.field("selector"), &spec["selector"]);
    affinity(causes, &at, spec);
    if !external {
        addresses(causes, &at, spec, old);
    }
    let list = at.field("externalIPs");
    for (n, ip) in items(&spec["externalIPs"]).iter().enumerate() {
        let at = list.index(n);
        let known = old.is_some_and(|old| items(&old["externalIPs"]).contains(ip));
        let parsed = if known { text_of(ip).parse().ok() } else { causes.ip(&at, ip) };
        if let Some(parsed) = parsed {
            reachable(causes, &at, ip, parsed);
        }
    }
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    causes.one_of(&at.field("type"), &spec["type"], &kinds);
    load_balancer(causes, &at, spec, old);
    policies(causes, &at, spec);
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn ports(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let ports = items(&spec["ports"]);
    let (mut names, mut numbers, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (n, port) in ports.iter().enumerate() {
        let at = at.index(n);
        let name = text(port, "name");
        if !name.is_empty() {
            causes.label(&at.field("name"), &port["name"]);
            if !names.insert(name) {
                causes.duplicate(&at.field("name"), &name.into());
            }
        } else if ports.len() > 1 {
            causes.required(&at.field("name"), "");
        }
        let zero = json!(0);
        let number = port.get("port").unwrap_or(&zero);
        causes.between(&at.field("port"), number, 1, 65535);
        causes.port_or_name(&at.field("targetPort"), port.get("targetPort").unwrap_or(&zero));
        let protocol = text(port, "protocol");
        causes.one_of(&at.field("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        if let Some(app) = port["appProtocol"].as_str() {
            causes.faults(&at.field("appProtocol"), app, words::qualified(app));
        }
        if !numbers.insert((protocol, number.as_i64())) {
            let shown = json!({"protocol": protocol, "port": number});
            causes.duplicate_part(&at, PORT, &shown);
        }
        let node_port = port["nodePort"].as_i64().unwrap_or_default();
        if node_port == 0 {
            continue;
        }
        if kind(spec) == "ClusterIP" {
            let detail = "may not be used when `type` is 'ClusterIP'";
            causes.forbidden(&at.field("nodePort"), detail);
        }
        if !node_ports.insert((protocol, node_port)) {
            causes.duplicate(&at.field("nodePort"), &node_port.into());
        }
    }
}

/// A port as Go shows it.
const PORT: Fields = &[
    ("name", Shown::Text),
    ("protocol", Shown::Text),
    ("appProtocol", Shown::Any),
    ("port", Shown::Number),
    ("targetPort", Shown::Number),
    ("nodePort", Shown::Number),
];

fn affinity(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    const WHEN: &str = "when session affinity type is ClientIP";
    let affinity = &spec["sessionAffinity"];
    causes.one_of(&at.field("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let config = &spec["sessionAffinityConfig"];
    let at = at.field("sessionAffinityConfig");
    if affinity == "None" && !config.is_null() {
        causes.forbidden(&at, "must not be set when session affinity is None");
    }
    if affinity != "ClientIP" {
        return;
    }
    if config.is_null() {
        return causes.required(&at, WHEN);
    }
    let at = at.field("clientIP");
    if config["clientIP"].is_null() {
        return causes.required(&at, WHEN);
    }
    let at = at.field("timeoutSeconds");
    let seconds = &config["clientIP"]["timeoutSeconds"];
    match seconds.as_i64() {
        None => causes.required(&at, WHEN),
        Some(n) if n <= 0 || n > DAY => {
            let why = format!("must be greater than 0 and less than {DAY}");
            causes.invalid(&at, seconds, &why);
        }
        Some(_) => (),
    }
}

/// What is wrong with the cluster addresses: it is told alone, since nothing can be allocated.
pub(super) fn cluster_addresses(spec: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Causes::default();
    if spec.is_object() && kind(spec) != "ExternalName" {
        addresses(&mut causes, &At::new("spec"), spec, old);
    }
    causes.0
}

/// Both names of the cluster addresses, and their families.
fn addresses(causes: &mut Causes, at: &At<'_>, spec: &Value, old: Option<&Value>) {
    let list_at = at.field("clusterIPs");
    let (one, list) = (text(spec, "clusterIP"), items(&spec["clusterIPs"]));
    match list.first() {
        None if !one.is_empty() => causes.required(&list_at, ""),
        Some(_) if one.is_empty() => {
            let detail = "must be empty when `clusterIP` is not specified";
            causes.invalid(&list_at, &spec["clusterIPs"], detail);
        }
        Some(first) if *first != one => {
            causes.invalid(&list_at, &spec["clusterIPs"], "first value must match `clusterIP`");
        }
        _ => (),
    }
    let families_at = at.field("ipFamilies");
    let mut seen = HashSet::new();
    for (n, family) in items(&spec["ipFamilies"]).iter().enumerate() {
        causes.one_of(&families_at.index(n), family, &["IPv4", "IPv6"]);
        if !seen.insert(family) {
            causes.duplicate(&families_at.index(n), family);
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    causes.one_of(&at.field("ipFamilyPolicy"), &spec["ipFamilyPolicy"], &policies);
    let n_before = causes.0.len();
    for (n, ip) in list.iter().enumerate() {
        let known = old.is_some_and(|old| items(&old["clusterIPs"]).contains(ip));
        if n == 0 && ip == "None" {
            if list.len() > 1 {
                let detail = "'None' must be the first and only value";
                causes.invalid(&list_at, &spec["clusterIPs"], detail);
            }
        } else if !known {
            causes.ip(&list_at.index(n), ip);
        }
    }
    let all_right = causes.0.len() == n_before;
    if list.len() > 2 {
        causes.invalid(&list_at, &spec["clusterIPs"], "may only hold up to 2 values");
    }
    if all_right {
        fit_families(causes, &list_at, spec);
    }
}

fn fit_families(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let list = items(&spec["clusterIPs"]);
    let is_v6 = |ip: &Value| text_of(ip).contains(':');
    let n_v6 = list.iter().filter(|ip| is_v6(ip)).count();
    if list.len() > 1 && (n_v6 == 0 || n_v6 == list.len()) {
        let detail = "may specify no more than one IP for each IP family";
        causes.invalid(at, &spec["clusterIPs"], detail);
    }
    if is_headless(spec) {
        return;
    }
    for (n, (ip, family)) in list.iter().zip(items(&spec["ipFamilies"])).enumerate() {
        if (*family == "IPv6") != is_v6(ip) {
            let why =
                format!("expected an {} value as indicated by `ipFamilies[{n}]`", text_of(family));
            causes.invalid(&at.index(n), ip, &why);
        }
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

fn load_balancer(causes: &mut Causes, at: &At<'_>, spec: &Value, old: Option<&Value>) {
    let balancer = kind(spec) == "LoadBalancer";
    // Upstream shows its own name of this field.
    let list = at.field("LoadBalancerSourceRanges");
    if !is_empty(&spec["loadBalancerSourceRanges"]) && !balancer {
        causes.forbidden(&list, ONLY_BALANCERS);
    }
    for (n, range) in items(&spec["loadBalancerSourceRanges"]).iter().enumerate() {
        let known = old.is_some_and(|old| items(&old["loadBalancerSourceRanges"]).contains(range));
        if !known {
            causes.range(&list.index(n), &text_of(range).trim().into());
        }
    }
    let allocate = &spec["allocateLoadBalancerNodePorts"];
    if balancer && allocate.is_null() {
        causes.required(&At::new("allocateLoadBalancerNodePorts"), "");
    } else if !balancer && !allocate.is_null() {
        causes.forbidden(&at.field("allocateLoadBalancerNodePorts"), ONLY_BALANCERS);
    }
    self::class(causes, at, spec);
}

fn class(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let at = at.field("loadBalancerClass");
    match spec["loadBalancerClass"].as_str() {
        Some(class) if kind(spec) == "LoadBalancer" => {
            causes.faults(&at, class, words::qualified(class));
        }
        Some(_) => causes.forbidden(&at, ONLY_BALANCERS),
        None => (),
    }
}

fn policies(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    const WHERE: [&str; 2] = ["Cluster", "Local"];
    let external = &spec["externalTrafficPolicy"];
    let external_at = at.field("externalTrafficPolicy");
    if super::has_external(spec) {
        if causes.present(&external_at, external, "") {
            causes.one_of(&external_at, external, &WHERE);
        }
    } else if !is_empty(external) {
        let detail = "may only be set for externally-accessible services";
        causes.invalid(&external_at, external, detail);
    }
    let health = spec["healthCheckNodePort"].as_i64().unwrap_or_default();
    let health_at = at.field("healthCheckNodePort");
    if super::wants_health_check(spec) {
        if health != 0 {
            causes.between(&health_at, &health.into(), 1, 65535);
        }
    } else if health != 0 {
        let detail =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.invalid(&health_at, &health.into(), detail);
    }
    let internal = &spec["internalTrafficPolicy"];
    causes.one_of(&at.field("internalTrafficPolicy"), internal, &WHERE);
    const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    causes.one_of(&at.field("trafficDistribution"), &spec["trafficDistribution"], &DISTRIBUTIONS);
}

/// What may not change.
pub(super) fn update(causes: &mut Causes, new: &Value, old: &Value) {
    let at = At::new("spec");
    if kind(new) == "LoadBalancer" && kind(old) == "LoadBalancer" {
        let class = &new["loadBalancerClass"];
        if *class != old["loadBalancerClass"] {
            causes.invalid(&at.field("loadBalancerClass"), class, "may not change once set");
        }
    }
    // Upstream judges the class of an update a second time, beside the rest of the spec.
    self::class(causes, &at, new);
    let health = "healthCheckNodePort";
    let both = super::wants_health_check(new) && super::wants_health_check(old);
    if both && new.get(health) != old.get(health) {
        causes.forbidden(&at.field(health), "field is immutable");
    }
    if kind(new) == "ExternalName" || kind(old) == "ExternalName" {
        return;
    }
    let headless = (is_headless(new), is_headless(old));
    if headless != (true, true) {
        kept(causes, &at, new, old, "clusterIPs", "clusterIP");
    }
    if headless == (false, false) {
        kept(causes, &at, new, old, "ipFamilies", "ipFamily");
    }
}

/// A second address or family may come and go; what is first stays.
fn kept(causes: &mut Causes, at: &At<'_>, new: &Value, old: &Value, list: &str, one: &str) {
    let (now, before) = (items(&new[list]), items(&old[list]));
    let list_at = at.field(list);
    let first = list_at.index(0);
    if now.len() == before.len() {
        for (n, _) in now.iter().zip(before).enumerate().filter(|(_, (a, b))| a != b) {
            let n = if list == "ipFamilies" { 0 } else { n };
            causes.invalid(&list_at.index(n), &new[list], "may not change once set");
        }
        return;
    }
    if now.is_empty() {
        return causes.invalid(&first, &new[list], &format!("primary {one} can not be unset"));
    }
    if !before.is_empty() && now[0] != before[0] {
        causes.invalid(&first, &new["clusterIPs"], "may not change once set");
    }
    if now.len() == 1 && before.len() > 1 && text(new, "ipFamilyPolicy") != "SingleStack" {
        let why = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        causes.invalid(&at.field("ipFamilyPolicy"), &new["ipFamilyPolicy"], &why);
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
            causes.faults(&at.field("hostname"), host, words::subdomain(host));
            if host.parse::<IpAddr>().is_ok() {
                let detail = "must be a DNS name, not an IP address";
                causes.invalid(&at.field("hostname"), &host.into(), detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spec: Value, expected: &[&str]) {
        let mut causes = Causes::default();
        super::spec(&mut causes, &spec, None);
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
