//! The names of a cluster: Services and EndpointSlices become DNS records. Pure.
//!
//! Source: "Kubernetes DNS-Based Service Discovery", specification 1.1.0 (kubernetes/dns).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;

use hickory_proto::rr::rdata::{CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kit::services::{self, SERVICE_NAME, is_ready};
use kube::ResourceExt;

/// How long a resolver may keep an answer, seconds. Short, because endpoints come and go.
const TTL: u32 = 5;
/// Version of the specification that `dns-version.<domain>` announces.
const SPECIFICATION: &str = "1.1.0";

/// Every name that the cluster answers for.
#[derive(Debug)]
pub struct Zone {
    /// e.g. `cluster.local.`
    domain: Name,
    /// Lower-case name with a trailing dot → its records. A name without records exists all the same.
    records: HashMap<String, Vec<RData>>,
}

/// What the zone knows of a name.
#[derive(Debug, PartialEq)]
pub enum Lookup {
    /// Records of the asked type (or the alias that leads to them), and addresses of what they name.
    Found {
        /// The answer section.
        answers: Vec<Record>,
        /// Addresses of SRV targets.
        additionals: Vec<Record>,
    },
    /// The name is there, but has no record of that type.
    NoData,
    /// The cluster has no such name.
    NoSuchName,
    /// Not a name of this cluster: ask elsewhere.
    Foreign,
}

impl Zone {
    /// The names under `domain` for these Services and their slices.
    #[must_use]
    pub fn new(domain: &Name, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Self {
        let mut zone = Self { domain: domain.clone(), records: HashMap::new() };
        zone.add(&zone.name("dns-version"), RData::TXT(TXT::new(vec![SPECIFICATION.into()])));
        zone.add_name(&zone.name("svc"));
        let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
        for slice in slices {
            let service = slice.labels().get(SERVICE_NAME).map_or("", String::as_str);
            by_service
                .entry((slice.metadata.namespace.as_deref().unwrap_or_default(), service))
                .or_default()
                .push(slice);
        }
        for service in services {
            let key = (
                service.metadata.namespace.as_deref().unwrap_or_default(),
                service.metadata.name.as_deref().unwrap_or_default(),
            );
            zone.add_service(service, by_service.get(&key).map_or(&[][..], Vec::as_slice));
        }
        zone
    }

    /// What there is of type `kind` under `name`.
    #[must_use]
    pub fn lookup(&self, name: &Name, kind: RecordType) -> Lookup {
        let key = key(name);
        let is_ours = self.domain.zone_of(name);
        let pod = if is_ours { self.pod_address(name) } else { None };
        let Some(data) = self.records.get(&key).cloned().or(pod.map(|ip| vec![address(ip)])) else {
            return if is_ours { Lookup::NoSuchName } else { Lookup::Foreign };
        };
        let fits = |data: &&RData| {
            let found = data.record_type();
            found == kind || found == RecordType::CNAME || kind == RecordType::ANY
        };
        let record = |data: &RData| Record::from_rdata(name.clone(), TTL, data.clone());
        let answers: Vec<Record> = data.iter().filter(fits).map(record).collect();
        if answers.is_empty() {
            return Lookup::NoData;
        }
        let additionals =
            answers.iter().flat_map(|answer| self.target_addresses(&answer.data)).collect();
        Lookup::Found { answers, additionals }
    }

    /// The start-of-authority record that goes with negative answers.
    #[must_use]
    pub fn authority(&self) -> Record {
        let soa = SOA::new(self.name("ns.dns"), self.name("hostmaster"), 1, 7200, 1800, 86400, TTL);
        let soa: RData = RData::SOA(soa);
        Record::from_rdata(self.domain.clone(), TTL, soa)
    }

    /// `10-1-2-3.<namespace>.pod.<domain>` names an address, whether or not a pod has it.
    fn pod_address(&self, name: &Name) -> Option<IpAddr> {
        let full = key(name);
        let labels: Vec<&str> =
            full.strip_suffix(&key(&self.domain))?.split_terminator('.').collect();
        let [dashed, _namespace, "pod"] = labels[..] else { return None };
        Ipv4Addr::from_str(&dashed.replace('-', ".")).ok().map(IpAddr::V4)
    }

    fn target_addresses(&self, data: &RData) -> Vec<Record> {
        let RData::SRV(srv) = data else { return Vec::new() };
        let addresses = self.records.get(&key(&srv.target)).into_iter().flatten();
        addresses
            .filter(|data| matches!(data, RData::A(_) | RData::AAAA(_)))
            .map(|data| Record::from_rdata(srv.target.clone(), TTL, data.clone()))
            .collect()
    }

    fn add_service(&mut self, service: &Service, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        let namespace = service.metadata.namespace.clone().unwrap_or_default();
        let name = self.name(&format!("{}.{namespace}.svc", service.name_any()));
        if spec.type_.as_deref() == Some("ExternalName") {
            if let Some(target) = spec.external_name.as_deref().and_then(absolute) {
                self.add(&name, RData::CNAME(CNAME(target)));
            }
            return;
        }
        self.add_name(&name);
        let ips = services::cluster_ips(spec);
        for ip in &ips {
            self.add(&name, address(*ip));
            self.add_pointer(*ip, &name);
        }
        for port in spec.ports.iter().flatten().filter(|_| !ips.is_empty()) {
            let number = u16::try_from(port.port).unwrap_or_default();
            self.add_port(&name, port.name.as_deref(), port.protocol.as_deref(), number, &name);
        }
        let unready_too = spec.publish_not_ready_addresses == Some(true);
        let headless = ips.is_empty();
        for slice in slices {
            for endpoint in slice.endpoints.iter().flatten().filter(|e| unready_too || is_ready(e))
            {
                self.add_endpoint(&name, slice, endpoint, headless);
            }
        }
    }

    /// A headless Service's name stands for its endpoints; each endpoint has a name of its own in every Service.
    fn add_endpoint(
        &mut self,
        service: &Name,
        slice: &EndpointSlice,
        endpoint: &Endpoint,
        headless: bool,
    ) {
        let ips: Vec<IpAddr> = endpoint.addresses.iter().filter_map(|ip| ip.parse().ok()).collect();
        let Some(first) = ips.first() else { return };
        let dashed = first.to_string().replace(['.', ':'], "-");
        let label = endpoint.hostname.clone().filter(|name| !name.is_empty()).unwrap_or(dashed);
        let Some(own) =
            Name::from_str(&label).ok().and_then(|label| label.append_name(service).ok())
        else {
            return;
        };
        for ip in ips {
            self.add(&own, address(ip));
            if headless {
                self.add(service, address(ip));
                self.add_pointer(ip, &own);
            }
        }
        for port in slice.ports.iter().flatten().filter(|_| headless) {
            if let Some(number) = port.port.and_then(|port| u16::try_from(port).ok()) {
                self.add_port(
                    service,
                    port.name.as_deref(),
                    port.protocol.as_deref(),
                    number,
                    &own,
                );
            }
        }
    }

    /// `_port._protocol.<service>` for a named port.
    fn add_port(
        &mut self,
        service: &Name,
        port: Option<&str>,
        protocol: Option<&str>,
        number: u16,
        target: &Name,
    ) {
        let Some(port) = port.filter(|name| !name.is_empty()) else { return };
        let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
        let labels = Name::from_str(&format!("_{port}._{protocol}"));
        if let Some(name) = labels.ok().and_then(|labels| labels.append_name(service).ok()) {
            self.add(&name, RData::SRV(SRV::new(0, 100, number, target.clone())));
        }
    }

    fn add_pointer(&mut self, ip: IpAddr, name: &Name) {
        let data = RData::PTR(PTR(name.clone()));
        self.records.entry(key(&Name::from(ip))).or_default().push(data);
    }

    /// Adds a record once, and with it the existence of all names above.
    fn add(&mut self, name: &Name, data: RData) {
        self.add_name(name);
        let records = self.records.entry(key(name)).or_default();
        if !records.contains(&data) {
            records.push(data);
        }
    }

    fn add_name(&mut self, name: &Name) {
        let mut name = name.clone();
        while self.domain.zone_of(&name) && !self.records.contains_key(&key(&name)) {
            self.records.insert(key(&name), Vec::new());
            name = name.base_name();
        }
    }

    /// `labels` under the cluster's domain; labels of API objects are always legal.
    fn name(&self, labels: &str) -> Name {
        Name::from_str(labels)
            .and_then(|labels| labels.append_name(&self.domain))
            .unwrap_or_else(|_| self.domain.clone())
    }
}

fn key(name: &Name) -> String {
    let mut text = name.to_lowercase().to_ascii();
    if !text.ends_with('.') {
        text.push('.');
    }
    text
}

fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_str(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(ip.into()),
        IpAddr::V6(ip) => RData::AAAA(ip.into()),
    }
}

/// An absent condition counts as ready.
#[cfg(test)]
mod tests;
