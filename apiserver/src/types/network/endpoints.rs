//! Endpoints of services, in both forms.

use std::collections::HashSet;
use std::net::IpAddr;

use schema::Cause;
use serde_json::{Value, json};

use super::super::check::{At, Causes, default, items, items_mut, remove, text};
use super::super::service::validate::reachable;
use super::super::{Ctx, Strategy, addresses, words};
use crate::status::ApiError;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// Strategy of `endpoints`.
pub(crate) struct Endpoints;

impl Strategy for Endpoints {
    fn creates_on_update(&self) -> bool {
        true
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if old.is_some_and(|old| old["subsets"] == obj["subsets"]) {
            return causes.0;
        }
        let at = At::new("subsets");
        for (n, subset) in items(&obj["subsets"]).iter().enumerate() {
            let at = at.index(n);
            let lists = ["addresses", "notReadyAddresses"];
            if lists.iter().all(|list| items(&subset[*list]).is_empty()) {
                causes.required(&at, "must specify `addresses` or `notReadyAddresses`");
            }
            for list in lists {
                let at = at.field(list);
                for (n, address) in items(&subset[list]).iter().enumerate() {
                    self::address(&mut causes, &at.index(n), address);
                }
            }
            let ports = at.field("ports");
            let several = items(&subset["ports"]).len() > 1;
            for (n, port) in items(&subset["ports"]).iter().enumerate() {
                self::port(&mut causes, &ports.index(n), port, several);
            }
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        for (n, subset) in items(&obj["subsets"]).iter().enumerate() {
            for list in ["addresses", "notReadyAddresses"] {
                for (m, address) in items(&subset[list]).iter().enumerate() {
                    let at = format_args!("subsets[{n}].{list}[{m}].ip");
                    warnings.extend(addresses::ip_warning(at, text(address, "ip")));
                }
            }
        }
        warnings
    }
}

fn address(causes: &mut Causes, at: &At<'_>, address: &Value) {
    let (ip_at, ip) = (at.field("ip"), &address["ip"]);
    causes.ip(&ip_at, ip);
    match text(address, "ip").parse::<IpAddr>() {
        Ok(parsed) => reachable(causes, &ip_at, ip, parsed),
        // Leading zeros were told of already.
        Err(_) if addresses::is_legacy(text(address, "ip")) => (),
        Err(_) => causes.invalid(&ip_at, ip, "must be a valid IP address"),
    }
    if !text(address, "hostname").is_empty() {
        causes.label(&at.field("hostname"), &address["hostname"]);
    }
    causes.subdomain(&at.field("nodeName"), &address["nodeName"]);
}

fn port(causes: &mut Causes, at: &At<'_>, port: &Value, several: bool) {
    let name = &port["name"];
    if !text(port, "name").is_empty() {
        causes.label(&at.field("name"), name);
    } else if several {
        causes.required(&at.field("name"), "");
    }
    let zero = json!(0);
    causes.between(&at.field("port"), port.get("port").unwrap_or(&zero), 1, 65535);
    causes.one_of(&at.field("protocol"), &port["protocol"], &PROTOCOLS);
    app_protocol(causes, at, port);
}

fn app_protocol(causes: &mut Causes, at: &At<'_>, port: &Value) {
    if let Some(protocol) = port["appProtocol"].as_str() {
        causes.faults(&at.field("appProtocol"), protocol, words::qualified(protocol));
    }
}

/// Strategy of `endpointslices`.
pub(crate) struct Slices;

impl Strategy for Slices {
    fn default(&self, obj: &mut Value) {
        for endpoint in items_mut(obj, "endpoints") {
            default(endpoint, "conditions", json!({}));
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        drop_topology(obj);
        Ok(())
    }

    fn prepare_update(
        &self,
        _ctx: &Ctx<'_>,
        obj: &mut Value,
        old: &Value,
        _subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        let differs = ["endpoints", "ports", "addressType"].iter().any(|f| obj[*f] != old[*f]);
        if differs || obj["metadata"]["labels"] != old["metadata"]["labels"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or_default() + 1;
            obj["metadata"]["generation"] = generation.into();
        }
        if obj["endpoints"] != old["endpoints"] {
            drop_topology(obj);
        }
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let kind = text(obj, "addressType");
        let kind_at = At::new("addressType");
        if causes.present(&kind_at, &obj["addressType"], "") {
            causes.one_of(&kind_at, &obj["addressType"], &["FQDN", "IPv4", "IPv6"]);
        }
        ports(&mut causes, &obj["ports"]);
        if old.is_none_or(|old| old["endpoints"] != obj["endpoints"]) {
            endpoints(&mut causes, &obj["endpoints"], kind);
        }
        if let Some(old) = old {
            causes.immutable(&kind_at, &obj["addressType"], &old["addressType"]);
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if text(obj, "addressType") == "FQDN" {
            if old.is_some() {
                return Vec::new();
            }
            return vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()];
        }
        let mut warnings = Vec::new();
        for (n, endpoint) in items(&obj["endpoints"]).iter().enumerate() {
            for (m, address) in items(&endpoint["addresses"]).iter().enumerate() {
                let at = format_args!("endpoints[{n}].addresses[{m}]");
                warnings.extend(addresses::ip_warning(at, address.as_str().unwrap_or_default()));
            }
        }
        warnings
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// The field is from before there was `nodeName`, and this version no longer takes it.
fn drop_topology(slice: &mut Value) {
    for endpoint in items_mut(slice, "endpoints") {
        remove(endpoint, "deprecatedTopology");
    }
}

fn ports(causes: &mut Causes, ports: &Value) {
    const MOST: usize = 20_000;
    let list = At::new("ports");
    if items(ports).len() > MOST {
        causes.0.push(Cause::too_many("ports", items(ports).len(), MOST as u64));
        return;
    }
    let mut names = HashSet::new();
    for (n, port) in items(ports).iter().enumerate() {
        let at = list.index(n);
        let name = text(port, "name");
        if !name.is_empty() {
            causes.label(&at.field("name"), &port["name"]);
        }
        if !names.insert(name) {
            causes.duplicate(&at.field("name"), &name.into());
        }
        causes.one_of(&at.field("protocol"), &port["protocol"], &PROTOCOLS);
        app_protocol(causes, &at, port);
    }
}

fn endpoints(causes: &mut Causes, endpoints: &Value, kind: &str) {
    const MOST: usize = 1000;
    let list = At::new("endpoints");
    if items(endpoints).len() > MOST {
        causes.0.push(Cause::too_many("endpoints", items(endpoints).len(), MOST as u64));
        return;
    }
    for (n, endpoint) in items(endpoints).iter().enumerate() {
        let at = list.index(n);
        slice_addresses(causes, &at.field("addresses"), &endpoint["addresses"], kind);
        causes.subdomain(&at.field("nodeName"), &endpoint["nodeName"]);
        causes.labels(&at.field("deprecatedTopology"), &endpoint["deprecatedTopology"]);
        causes.label(&at.field("hostname"), &endpoint["hostname"]);
        hints(causes, &at.field("hints"), &endpoint["hints"]);
    }
}

fn slice_addresses(causes: &mut Causes, at: &At<'_>, addresses: &Value, kind: &str) {
    let list = items(addresses);
    if list.is_empty() {
        causes.required(at, "must contain at least 1 address");
    } else if list.len() > 100 {
        causes.0.push(Cause::too_many(at.to_string(), list.len(), 100));
    }
    for (n, address) in list.iter().enumerate() {
        let entry = at.index(n);
        let n_before = causes.0.len();
        let ip = match kind {
            "IPv4" => causes.ip(&entry, address),
            "IPv6" => causes.canonical_ip(&entry, address),
            "FQDN" => {
                causes.full_name(&entry, address.as_str().unwrap_or_default());
                continue;
            }
            _ => continue,
        };
        if let Some(ip) = ip.filter(|_| causes.0.len() == n_before) {
            if ip.is_ipv4() != (kind == "IPv4") {
                causes.invalid(at, address, &format!("must be an {kind} address"));
            }
            reachable(causes, &entry, address, ip);
        }
    }
}

fn hints(causes: &mut Causes, at: &At<'_>, hints: &Value) {
    const MOST: usize = 8;
    for list in ["forZones", "forNodes"] {
        let at = at.field(list);
        let entries = items(&hints[list]);
        if entries.len() > MOST {
            causes.0.push(Cause::too_many(at.to_string(), entries.len(), MOST as u64));
            return;
        }
        let mut seen = HashSet::new();
        for (n, entry) in entries.iter().enumerate() {
            let at = at.index(n);
            let at = at.field("name");
            let name = text(entry, "name");
            if !seen.insert(name) {
                causes.duplicate(&at, &name.into());
            }
            let faults =
                if list == "forZones" { words::label_value(name) } else { words::subdomain(name) };
            causes.faults(&at, name, faults);
        }
    }
}

#[test]
fn slices_hold_addresses_of_their_type() {
    let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["2001:db8::1", "127.0.0.1"]}, {"addresses": []}]});
    let fields: Vec<String> =
        Slices.validate(&slice, None, None).into_iter().map(|c| c.field).collect();
    assert_eq!(
        fields,
        ["endpoints[0].addresses", "endpoints[0].addresses[1]", "endpoints[1].addresses"]
    );
}
