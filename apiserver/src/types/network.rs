//! Ingresses, their classes, network policies, service ranges and endpoints.

use std::collections::HashSet;
use std::net::IpAddr;

use schema::Cause;
use serde_json::{Value, json};

use super::check::{At, Causes, default, is_empty, items, items_mut, part, text};
use super::service::validate::{is_cidr, reachable, status};
use super::{Ctx, Strategy, words};
use crate::status::ApiError;

const BAD_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
const LEGACY_CLASS: &str = "kubernetes.io/ingress.class";

/// Strategy of `ingresses`.
pub(super) struct Ingresses;

impl Strategy for Ingresses {
    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({"loadBalancer": {}});
        Ok(())
    }

    fn validate(&self, obj: &Value, _old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource == Some("status") {
            status(&mut causes, &obj["status"], false);
            return causes.0;
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        if let Some(class) = spec["ingressClassName"].as_str() {
            causes.faults(&at.field("ingressClassName"), class, words::subdomain(class));
        }
        if spec["defaultBackend"].is_null() && items(&spec["rules"]).is_empty() {
            causes.invalid(&at, &json!([]), "either `defaultBackend` or `rules` must be specified");
        }
        if !spec["defaultBackend"].is_null() {
            backend(&mut causes, &at.field("defaultBackend"), &spec["defaultBackend"]);
        }
        let rules = at.field("rules");
        for (n, rule) in items(&spec["rules"]).iter().enumerate() {
            ingress_rule(&mut causes, &rules.index(n), rule);
        }
        let tls = at.field("tls");
        for (n, entry) in items(&spec["tls"]).iter().enumerate() {
            let at = tls.index(n);
            let hosts = at.field("hosts");
            for (n, host) in items(&entry["hosts"]).iter().enumerate() {
                self::host(&mut causes, &hosts.index(n), host.as_str().unwrap_or_default());
            }
            let secret = text(entry, "secretName");
            if !secret.is_empty() {
                causes.faults(&at.field("secretName"), secret, words::subdomain(secret));
            }
        }
        causes.0
    }

    fn warnings(&self, obj: &Value) -> Vec<String> {
        if obj["metadata"]["annotations"][LEGACY_CLASS].is_null() {
            return Vec::new();
        }
        vec![format!(
            "annotation \"{LEGACY_CLASS}\" is deprecated, please use 'spec.ingressClassName' instead"
        )]
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

fn host(causes: &mut Causes, at: &At<'_>, host: &str) {
    let name = host.strip_prefix("*.").unwrap_or(host);
    causes.faults(at, host, words::subdomain(name));
}

fn ingress_rule(causes: &mut Causes, at: &At<'_>, rule: &Value) {
    let name = text(rule, "host");
    if !name.is_empty() {
        let at = at.field("host");
        if name.parse::<IpAddr>().is_ok() {
            causes.invalid(&at, &name.into(), "must be a DNS name, not an IP address");
        }
        host(causes, &at, name);
    }
    if rule["http"].is_null() {
        return;
    }
    let http = at.field("http");
    let paths = http.field("paths");
    if items(&rule["http"]["paths"]).is_empty() {
        causes.required(&paths, "");
    }
    for (n, entry) in items(&rule["http"]["paths"]).iter().enumerate() {
        let at = paths.index(n);
        if text(entry, "pathType").is_empty() {
            causes.required(&at.field("pathType"), "pathType must be specified");
            continue;
        }
        path(causes, &at, entry);
        backend(causes, &at.field("backend"), &entry["backend"]);
    }
}

fn path(causes: &mut Causes, at: &At<'_>, entry: &Value) {
    let (kind, path) = (text(entry, "pathType"), text(entry, "path"));
    let path_at = at.field("path");
    match kind {
        "Exact" | "Prefix" => {
            if !path.starts_with('/') {
                causes.invalid(&path_at, &path.into(), "must be an absolute path");
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.contains(sequence) {
                    causes.invalid(
                        &path_at,
                        &path.into(),
                        &format!("must not contain '{sequence}'"),
                    );
                }
            }
            for suffix in ["/..", "/."] {
                if path.ends_with(suffix) {
                    causes.invalid(&path_at, &path.into(), &format!("cannot end with '{suffix}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.starts_with('/') {
                causes.invalid(&path_at, &path.into(), "must be an absolute path");
            }
        }
        _ => causes.not_supported(
            &at.field("pathType"),
            &kind.into(),
            &["Exact", "ImplementationSpecific", "Prefix"],
        ),
    }
}

fn backend(causes: &mut Causes, at: &At<'_>, backend: &Value) {
    let (service, resource) = (&backend["service"], &backend["resource"]);
    match (service.is_null(), resource.is_null()) {
        (true, true) => {
            return causes.invalid(at, &"".into(), "resource or service backend is required");
        }
        (false, false) => {
            return causes.invalid(at, &"".into(), "cannot set both resource and service backends");
        }
        (true, false) => return,
        (false, true) => (),
    }
    let service_at = at.field("service");
    let name = text(service, "name");
    if name.is_empty() {
        causes.required(&service_at.field("name"), "");
    } else {
        causes.faults(&service_at.field("name"), name, words::label(name));
    }
    let port = &service["port"];
    let port_at = service_at.field("port");
    let number = port["number"].as_i64().unwrap_or_default();
    let port_name = text(port, "name");
    if !port_name.is_empty() && number != 0 {
        causes.invalid(at, &"".into(), "cannot set both port name & port number");
    } else if !port_name.is_empty() {
        causes.faults(&port_at.field("name"), port_name, super::check::port_name(port_name));
    } else if number != 0 {
        causes.between(&port_at.field("number"), &port["number"], 1, 65535);
    } else {
        causes.required(at, "port name or number is required");
    }
}

/// Strategy of `ingressclasses`.
pub(super) struct IngressClasses;

impl Strategy for IngressClasses {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        let controller = text(spec, "controller");
        let controller_at = at.field("controller");
        if controller.is_empty() {
            causes.required(&controller_at, "");
        } else {
            let domain = controller.split_once('/').filter(|(_, path)| !path.is_empty());
            match domain {
                Some((domain, _)) => {
                    causes.faults(&controller_at, controller, words::subdomain(domain))
                }
                None => causes.invalid(
                    &controller_at,
                    &controller.into(),
                    "must be a domain-prefixed path (such as \"acme.io/foo\")",
                ),
            }
        }
        if let Some(old) = old {
            causes.immutable(&controller_at, &spec["controller"], &old["spec"]["controller"]);
        }
        let parameters = &spec["parameters"];
        if !parameters.is_null() {
            let at = at.field("parameters");
            for field in ["kind", "name"] {
                causes.present(&at.field(field), &parameters[field], "");
            }
            match text(parameters, "scope") {
                "Namespace" if text(parameters, "namespace").is_empty() => {
                    causes.required(
                        &at.field("namespace"),
                        "`parameters.scope` is set to 'Namespace'",
                    );
                }
                "Cluster" if !parameters["namespace"].is_null() => {
                    causes.forbidden(
                        &at.field("namespace"),
                        "`parameters.scope` is set to 'Cluster'",
                    );
                }
                _ => (),
            }
            causes.one_of(&at.field("scope"), &parameters["scope"], &["Cluster", "Namespace"]);
        }
        causes.0
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// Strategy of `networkpolicies`.
pub(super) struct Policies;

impl Strategy for Policies {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = part(obj, "spec")
            && items(&spec["policyTypes"]).is_empty()
        {
            let egress = !items(&spec["egress"]).is_empty();
            spec["policyTypes"] =
                if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        }
    }

    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        causes.selector(&at.field("podSelector"), &spec["podSelector"]);
        for (list, peers) in [("ingress", "from"), ("egress", "to")] {
            let list_at = at.field(list);
            for (n, rule) in items(&spec[list]).iter().enumerate() {
                let at = list_at.index(n);
                let ports = at.field("ports");
                for (n, port) in items(&rule["ports"]).iter().enumerate() {
                    policy_port(&mut causes, &ports.index(n), port);
                }
                let peers_at = at.field(peers);
                for (n, peer) in items(&rule[peers]).iter().enumerate() {
                    policy_peer(&mut causes, &peers_at.index(n), peer);
                }
            }
        }
        let types = at.field("policyTypes");
        if items(&spec["policyTypes"]).len() > 2 {
            causes.invalid(
                &types,
                &spec["policyTypes"],
                "may not specify more than two policyTypes",
            );
        }
        for (n, kind) in items(&spec["policyTypes"]).iter().enumerate() {
            causes.one_of(&types.index(n), kind, &["Ingress", "Egress"]);
        }
        causes.0
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

fn policy_port(causes: &mut Causes, at: &At<'_>, port: &Value) {
    let (number, end) = (&port["port"], &port["endPort"]);
    if !number.is_null() {
        causes.port_or_name(&at.field("port"), number);
    }
    if end.is_null() {
        return;
    }
    let at = at.field("endPort");
    match number {
        Value::Null => {
            causes.invalid(&at, end, "may not be specified when `port` is not specified")
        }
        Value::String(_) => {
            causes.invalid(&at, end, "may not be specified when `port` is non-numeric")
        }
        first => {
            if end.as_i64() < first.as_i64() {
                causes.invalid(&at, first, "must be greater than or equal to `port`");
            }
            causes.between(&at, end, 1, 65535);
        }
    }
}

fn policy_peer(causes: &mut Causes, at: &At<'_>, peer: &Value) {
    let (pods, namespaces, block) =
        (&peer["podSelector"], &peer["namespaceSelector"], &peer["ipBlock"]);
    if pods.is_null() && namespaces.is_null() && block.is_null() {
        return causes.required(at, "must specify a peer");
    }
    causes.selector(&at.field("podSelector"), pods);
    causes.selector(&at.field("namespaceSelector"), namespaces);
    if block.is_null() {
        return;
    }
    let block_at = at.field("ipBlock");
    let cidr = text(block, "cidr");
    if cidr.is_empty() {
        causes.required(&block_at.field("cidr"), "");
    } else if !is_cidr(cidr) {
        causes.invalid(&block_at.field("cidr"), &cidr.into(), BAD_CIDR);
    } else {
        let except = block_at.field("except");
        for (n, inner) in items(&block["except"]).iter().enumerate() {
            let inner_text = inner.as_str().unwrap_or_default();
            if !is_cidr(inner_text) {
                causes.invalid(&except.index(n), inner, BAD_CIDR);
            } else if !strictly_within(inner_text, cidr) {
                causes.invalid(&except.index(n), inner, "must be a strict subset of `cidr`");
            }
        }
    }
    if !pods.is_null() || !namespaces.is_null() {
        causes.forbidden(at, "may not specify both ipBlock and another peer");
    }
}

/// First address as bits, and prefix length, of a range.
fn bits(cidr: &str) -> Option<(u128, u32, bool)> {
    let (address, prefix) = cidr.split_once('/')?;
    let prefix: u32 = prefix.parse().ok()?;
    Some(match address.parse().ok()? {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, prefix, true),
        IpAddr::V6(v6) => (u128::from(v6), prefix, false),
    })
}

fn strictly_within(inner: &str, outer: &str) -> bool {
    let (Some((a, inner_prefix, inner_v4)), Some((b, outer_prefix, outer_v4))) =
        (bits(inner), bits(outer))
    else {
        return false;
    };
    let mask = if outer_prefix == 0 { 0 } else { u128::MAX << (128 - outer_prefix) };
    inner_v4 == outer_v4 && inner_prefix > outer_prefix && a & mask == b & mask
}

/// Strategy of `servicecidrs`.
pub(super) struct Ranges;

impl Strategy for Ranges {
    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({});
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let at = At::new("spec");
        let at = at.field("cidrs");
        let ranges = items(&obj["spec"]["cidrs"]);
        if let Some(old) = old {
            for (n, (now, before)) in ranges.iter().zip(items(&old["spec"]["cidrs"])).enumerate() {
                causes.immutable(&at.index(n), now, before);
            }
            return causes.0;
        }
        match ranges.len() {
            0 => causes.required(&at, "at least one CIDR required"),
            1 | 2 => (),
            _ => causes.invalid(&at, &obj["spec"], "may only hold up to 2 values"),
        }
        if ranges.len() > 2 {
            return causes.0;
        }
        for (n, range) in ranges.iter().enumerate() {
            let cidr = range.as_str().unwrap_or_default();
            if !is_cidr(cidr) {
                causes.invalid(&at.index(n), range, BAD_CIDR);
            }
        }
        causes.0
    }
}

/// Strategy of `ipaddresses`.
pub(super) struct Addresses;

impl Strategy for Addresses {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let at = At::new("spec");
        let at = at.field("parentRef");
        let parent = &obj["spec"]["parentRef"];
        if let Some(old) = old {
            causes.immutable(&at, parent, &old["spec"]["parentRef"]);
            return causes.0;
        }
        if parent.is_null() {
            causes.required(&at, "");
            return causes.0;
        }
        for field in ["resource", "name"] {
            causes.present(&at.field(field), &parent[field], "");
        }
        causes.0
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        match name.parse::<IpAddr>() {
            Ok(ip) if ip.to_string() == name => Vec::new(),
            Ok(_) => vec!["must be a valid address in canonical form".to_owned()],
            Err(_) => {
                vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
            }
        }
    }
}

/// Strategy of `endpoints`.
pub(super) struct Endpoints;

impl Strategy for Endpoints {
    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        let at = At::new("subsets");
        for (n, subset) in items(&obj["subsets"]).iter().enumerate() {
            let at = at.index(n);
            if items(&subset["addresses"]).is_empty()
                && items(&subset["notReadyAddresses"]).is_empty()
            {
                causes.required(&at, "must specify `addresses` or `notReadyAddresses`");
            }
            for list in ["addresses", "notReadyAddresses"] {
                let at = at.field(list);
                for (n, address) in items(&subset[list]).iter().enumerate() {
                    let at = at.index(n);
                    if let Some(ip) = causes.ip(&at.field("ip"), &address["ip"]) {
                        reachable(&mut causes, &at.field("ip"), &address["ip"], ip);
                    }
                    let host = text(address, "hostname");
                    if !host.is_empty() {
                        causes.faults(&at.field("hostname"), host, words::label(host));
                    }
                }
            }
            let ports = at.field("ports");
            for (n, port) in items(&subset["ports"]).iter().enumerate() {
                let at = ports.index(n);
                let name = text(port, "name");
                if name.is_empty() {
                    if items(&subset["ports"]).len() > 1 {
                        causes.required(&at.field("name"), "");
                    }
                } else {
                    causes.faults(&at.field("name"), name, words::label(name));
                }
                causes.between(&at.field("port"), &port["port"], 1, 65535);
            }
        }
        causes.0
    }
}

/// Strategy of `endpointslices`.
pub(super) struct Slices;

impl Strategy for Slices {
    fn default(&self, obj: &mut Value) {
        for endpoint in items_mut(obj, "endpoints") {
            default(endpoint, "conditions", json!({}));
        }
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let kind = text(obj, "addressType");
        let kind_at = At::new("addressType");
        if !matches!(kind, "" | "FQDN" | "IPv4" | "IPv6") {
            causes.not_supported(&kind_at, &kind.into(), &["FQDN", "IPv4", "IPv6"]);
            return causes.0;
        }
        if let Some(old) = old {
            causes.immutable(&kind_at, &obj["addressType"], &old["addressType"]);
            if !causes.0.is_empty() {
                return causes.0;
            }
        }
        let at = At::new("endpoints");
        for (n, endpoint) in items(&obj["endpoints"]).iter().enumerate() {
            slice_endpoint(&mut causes, &at.index(n), endpoint, kind);
        }
        let at = At::new("ports");
        let mut names = HashSet::new();
        for (n, port) in items(&obj["ports"]).iter().enumerate() {
            let at = at.index(n);
            let name = text(port, "name");
            if !name.is_empty() {
                causes.faults(&at.field("name"), name, words::label(name));
            }
            if !names.insert(name) {
                causes.duplicate(&at.field("name"), &name.into());
            }
            causes.one_of(&at.field("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
            let app = text(port, "appProtocol");
            if !app.is_empty() {
                causes.faults(&at.field("appProtocol"), app, words::qualified(app));
            }
        }
        causes.0
    }

    fn warnings(&self, obj: &Value) -> Vec<String> {
        if text(obj, "addressType") == "FQDN" {
            return vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()];
        }
        Vec::new()
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

fn slice_endpoint(causes: &mut Causes, at: &At<'_>, endpoint: &Value, kind: &str) {
    let addresses = at.field("addresses");
    let list = items(&endpoint["addresses"]);
    if list.is_empty() {
        causes.required(&addresses, "must contain at least 1 address");
    } else if list.len() > 100 {
        causes.0.push(Cause::too_many(addresses.to_string(), list.len(), 100));
    }
    for (n, address) in list.iter().enumerate() {
        let value = address.as_str().unwrap_or_default();
        if kind == "FQDN" {
            causes.faults(&addresses.index(n), value, words::subdomain(value));
            continue;
        }
        match value.parse::<IpAddr>() {
            Ok(ip) if ip.is_ipv4() == (kind == "IPv4") => {
                reachable(causes, &addresses.index(n), address, ip);
            }
            Ok(_) => causes.invalid(&addresses, address, &format!("must be an {kind} address")),
            Err(_) => {
                let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                causes.invalid(&addresses.index(n), address, detail);
            }
        }
    }
    if let Some(host) = endpoint["hostname"].as_str() {
        causes.faults(&at.field("hostname"), host, words::label(host));
    }
    if let Some(node) = endpoint["nodeName"].as_str() {
        causes.faults(&at.field("nodeName"), node, words::subdomain(node));
    }
}

/// Strategy of `poddisruptionbudgets`.
pub(super) struct Budgets;

impl Strategy for Budgets {
    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        Ok(())
    }

    fn default(&self, obj: &mut Value) {
        default(obj, "spec", json!({}));
    }

    fn validate(&self, obj: &Value, _old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource.is_some() {
            return causes.0;
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        let limits = ["minAvailable", "maxUnavailable"];
        if limits.iter().all(|f| !spec[*f].is_null()) {
            causes.invalid(&at, spec, "minAvailable and maxUnavailable cannot be both set");
        }
        for field in limits {
            causes.count_or_percent(&at.field(field), &spec[field]);
            causes.at_most_all(&at.field(field), &spec[field]);
        }
        let policy = at.field("unhealthyPodEvictionPolicy");
        causes.one_of(
            &policy,
            &spec["unhealthyPodEvictionPolicy"],
            &["AlwaysAllow", "IfHealthyBudget"],
        );
        causes.selector(&at.field("selector"), &spec["selector"]);
        causes.0
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// Strategy of `priorityclasses`.
pub(super) struct Priorities;

const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

impl Strategy for Priorities {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let name = text(&obj["metadata"], "name");
        let value = obj["value"].as_i64().unwrap_or_default();
        let system = matches!(
            (name, value),
            ("system-cluster-critical", 2_000_000_000) | ("system-node-critical", 2_000_001_000)
        );
        let meta = At::new("metadata");
        if name.starts_with("system-") && !system {
            let why = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known system priority class"
            );
            causes.forbidden(&meta.field("name"), &why);
        }
        if value > HIGHEST_USER_PRIORITY && !system && !name.starts_with("system-") {
            let why = format!(
                "maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
            );
            causes.forbidden(&At::new("value"), &why);
        }
        if let Some(old) = old {
            if obj["value"] != old["value"] {
                causes.forbidden(&At::new("value"), "may not be changed in an update.");
            }
            causes.immutable(
                &At::new("preemptionPolicy"),
                &obj["preemptionPolicy"],
                &old["preemptionPolicy"],
            );
        }
        causes.0
    }

    fn starts_generation(&self) -> bool {
        true
    }
}

/// Strategy of `runtimeclasses`.
pub(super) struct Runtimes;

impl Strategy for Runtimes {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let handler = text(obj, "handler");
        causes.faults(&At::new("handler"), handler, words::label(handler));
        if let Some(old) = old {
            causes.immutable(&At::new("handler"), &obj["handler"], &old["handler"]);
        }
        super::pod::overhead(&mut causes, &At::new("overhead"), &obj["overhead"]["podFixed"]);
        let at = At::new("scheduling");
        causes.labels(&at.field("nodeSelector"), &obj["scheduling"]["nodeSelector"]);
        super::pod::tolerations(
            &mut causes,
            &at.field("tolerations"),
            &obj["scheduling"]["tolerations"],
        );
        causes.0
    }
}

/// Strategy of `leases`.
pub(super) struct Leases;

impl Strategy for Leases {
    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        causes.positive(&at.field("leaseDurationSeconds"), &spec["leaseDurationSeconds"]);
        causes.not_negative(&at.field("leaseTransitions"), &spec["leaseTransitions"]);
        if let Some(holder) = spec["holderIdentity"].as_str()
            && holder.is_empty()
            && !is_empty(&spec["strategy"])
        {
            causes.required(&at.field("holderIdentity"), "");
        }
        causes.0
    }

    fn creates_on_update(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(causes: Vec<Cause>) -> Vec<String> {
        causes.into_iter().map(|c| c.field).collect()
    }

    #[test]
    fn ranges_contain_ranges() {
        assert!(strictly_within("10.1.0.0/16", "10.0.0.0/8"));
        assert!(!strictly_within("11.0.0.0/16", "10.0.0.0/8"));
        assert!(!strictly_within("10.0.0.0/8", "10.0.0.0/8"));
        assert!(!strictly_within("2001:db8::/64", "0.0.0.0/0"));
    }

    #[test]
    fn policies_default_their_types() {
        let mut policy = json!({"spec": {"egress": [{}]}});
        Policies.default(&mut policy);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    }

    #[test]
    fn ingresses() {
        let with = |path: Value| json!({"spec": {"rules": [{"http": {"paths": [path]}}]}});
        let service = json!({"service": {"name": "s", "port": {"number": 80}}});
        assert_eq!(
            fields(Ingresses.validate(
                &with(json!({"path": "/", "pathType": "Prefix", "backend": service})),
                None,
                None
            )),
            [""; 0]
        );
        assert_eq!(
            fields(Ingresses.validate(
                &with(json!({"path": "rel", "pathType": "Exact", "backend": {}})),
                None,
                None
            )),
            ["spec.rules[0].http.paths[0].path", "spec.rules[0].http.paths[0].backend"]
        );
    }

    #[test]
    fn budgets_have_one_limit() {
        let budget = json!({"spec": {"minAvailable": -1, "maxUnavailable": "150%"}});
        assert_eq!(
            fields(Budgets.validate(&budget, None, None)),
            ["spec", "spec.minAvailable", "spec.maxUnavailable"]
        );
    }

    #[test]
    fn system_priorities_are_reserved() {
        let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
        assert_eq!(
            fields(Priorities.validate(&class("system-x", 1), None, None)),
            ["metadata.name"]
        );
        assert!(
            Priorities
                .validate(&class("system-node-critical", 2_000_001_000), None, None)
                .is_empty()
        );
        assert_eq!(fields(Priorities.validate(&class("x", 2_000_000_000), None, None)), ["value"]);
    }

    #[test]
    fn slices_hold_addresses_of_their_type() {
        let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["2001:db8::1", "127.0.0.1"]}, {"addresses": []}]});
        assert_eq!(
            fields(Slices.validate(&slice, None, None)),
            ["endpoints[0].addresses", "endpoints[0].addresses[1]", "endpoints[1].addresses"]
        );
    }
}
