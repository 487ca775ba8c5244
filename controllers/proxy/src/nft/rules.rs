//! What the table must hold for a list of Service ports. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Family;
use crate::plan::{Endpoint, PortId, ServicePort};

/// Longest name that nftables takes for a chain is 127 bytes; a longer one is cut and made unique by a hash.
const LONGEST_NAME: usize = 120;

/// The changing part of one family's table. Everything else in the table is fixed (see [`super::script::create`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Chain → its rules, in order.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Affinity set → seconds that a client stays in it.
    pub sets: BTreeMap<String, u64>,
    /// Map → key → verdict.
    pub maps: BTreeMap<Map, BTreeMap<String, String>>,
}

/// The fixed verdict maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Map {
    /// address . protocol . port → chain of the Service.
    ServiceIps,
    /// protocol . port → chain of the Service, at any address of the node.
    NodePorts,
    /// address . protocol . port → refusal, for Services without endpoints.
    NoEndpoints,
    /// protocol . port → refusal, for node ports without endpoints.
    NoEndpointNodePorts,
    /// address → refusal, for whatever no port of its Service stands for.
    ClusterIps,
}

impl Map {
    /// All maps, in the order in which the table declares them.
    pub const ALL: [Self; 5] = [
        Self::ServiceIps,
        Self::NodePorts,
        Self::NoEndpoints,
        Self::NoEndpointNodePorts,
        Self::ClusterIps,
    ];

    /// The map's name in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ServiceIps => "service-ips",
            Self::NodePorts => "service-nodeports",
            Self::NoEndpoints => "no-endpoint-services",
            Self::NoEndpointNodePorts => "no-endpoint-nodeports",
            Self::ClusterIps => "cluster-ips",
        }
    }

    /// What its keys are made of, as nftables has it.
    #[must_use]
    pub fn key_type(self, family: Family) -> String {
        const PORT: &str = "inet_proto . inet_service";
        match self {
            Self::ServiceIps | Self::NoEndpoints => format!("{} . {PORT}", family.address_type()),
            Self::NodePorts | Self::NoEndpointNodePorts => PORT.to_owned(),
            Self::ClusterIps => family.address_type().to_owned(),
        }
    }
}

/// The rules of `family` that serve `ports`.
///
/// `pod_cidrs` are the addresses of this cluster's pods: what comes from elsewhere to a cluster address is
/// masqueraded, because the answer must come back through this node.
#[must_use]
pub fn rules(family: Family, ports: &[ServicePort], pod_cidrs: &[String]) -> Rules {
    let mut rules = Rules::default();
    for port in ports {
        add_port(&mut rules, family, port, pod_cidrs);
    }
    rules
}

fn add_port(rules: &mut Rules, family: Family, port: &ServicePort, pod_cidrs: &[String]) {
    let ip = family.keyword();
    let of_family = |endpoints: &[Endpoint]| -> Vec<Endpoint> {
        endpoints.iter().filter(|e| family.holds(e.ip)).copied().collect()
    };
    let (internal, external) = (of_family(&port.internal), of_family(&port.external));
    let protocol = port.id.protocol.name();
    let mut route = |map: Map, key: String, verdict: String| {
        rules.maps.entry(map).or_default().insert(key, verdict);
    };
    let service = chain_name("service", &port.id, None);
    let mut masquerade = Vec::new();
    for address in port.cluster_ips.iter().filter(|ip| family.holds(**ip)) {
        route(Map::ClusterIps, address.to_string(), "goto refuse".into());
        let key = format!("{address} . {protocol} . {}", port.port);
        if internal.is_empty() {
            route(Map::NoEndpoints, key, "goto refuse".into());
            continue;
        }
        route(Map::ServiceIps, key, format!("goto {service}"));
        let inside = pod_cidrs.iter().filter(|cidr| cidr.contains(':') == (family == Family::V6));
        masquerade.extend(inside.map(|cidr| {
            format!("{ip} daddr {address} {ip} saddr != {cidr} fib saddr type != local jump mark-for-masquerade")
        }));
    }
    let node_chain = chain_name("external", &port.id, None);
    if let Some(node_port) = port.node_port {
        let key = format!("{protocol} . {node_port}");
        match external.is_empty() {
            true => route(Map::NoEndpointNodePorts, key, "goto refuse".into()),
            false => route(Map::NodePorts, key, format!("goto {node_chain}")),
        }
    }
    if !internal.is_empty() {
        masquerade.extend(spread(port, &internal));
        rules.chains.insert(service, masquerade);
    }
    if port.node_port.is_some() && !external.is_empty() {
        let mark = (!port.keeps_source).then(|| "jump mark-for-masquerade".to_owned());
        rules.chains.insert(node_chain, mark.into_iter().chain(spread(port, &external)).collect());
    }
    for endpoint in internal.iter().chain(&external) {
        add_endpoint(rules, family, port, *endpoint);
    }
}

/// Sends a connection to one of `endpoints`: to the one that its client had, else to a random one.
fn spread(port: &ServicePort, endpoints: &[Endpoint]) -> Vec<String> {
    let ip = if endpoints[0].ip.is_ipv4() { "ip" } else { "ip6" };
    let mut rules = Vec::new();
    if port.affinity.is_some() {
        rules.extend(endpoints.iter().map(|endpoint| {
            let set = chain_name("affinity", &port.id, Some(*endpoint));
            format!("{ip} saddr @{set} goto {}", chain_name("endpoint", &port.id, Some(*endpoint)))
        }));
    }
    let mut targets = String::new();
    for (n, endpoint) in endpoints.iter().enumerate() {
        let comma = if n == 0 { "" } else { ", " };
        let chain = chain_name("endpoint", &port.id, Some(*endpoint));
        let _ = write!(targets, "{comma}{n} : goto {chain}"); // Writing to a string cannot fail.
    }
    rules.push(format!("numgen random mod {} vmap {{ {targets} }}", endpoints.len()));
    rules
}

/// The chain that rewrites the destination; a pod that reaches itself must be masqueraded to see the answer.
fn add_endpoint(rules: &mut Rules, family: Family, port: &ServicePort, endpoint: Endpoint) {
    let ip = family.keyword();
    let mut lines = vec![format!("{ip} saddr {} jump mark-for-masquerade", endpoint.ip)];
    if let Some(affinity) = port.affinity {
        let set = chain_name("affinity", &port.id, Some(endpoint));
        lines.push(format!("update @{set} {{ {ip} saddr }}"));
        rules.sets.insert(set, affinity.as_secs());
    }
    let target = match family {
        Family::V4 => format!("{}:{}", endpoint.ip, endpoint.port),
        Family::V6 => format!("[{}]:{}", endpoint.ip, endpoint.port),
    };
    lines.push(format!("meta l4proto {} dnat to {target}", port.id.protocol.name()));
    rules.chains.insert(chain_name("endpoint", &port.id, Some(endpoint)), lines);
}

/// A readable name, so that `nft list table` explains itself: `service/default/hello/tcp/http`.
fn chain_name(role: &str, id: &PortId, endpoint: Option<Endpoint>) -> String {
    let PortId { namespace, service, port, protocol } = id;
    let mut name = format!("{role}/{namespace}/{service}/{}/{port}", protocol.name());
    if let Some(endpoint) = endpoint {
        let address = endpoint.ip.to_string().replace(':', ".");
        let _ = write!(name, "/{address}/{}", endpoint.port); // Writing to a string cannot fail.
    }
    if name.len() > LONGEST_NAME {
        let hash = fnv1a(name.as_bytes());
        name.truncate(LONGEST_NAME - 17);
        let _ = write!(name, "/{hash:016x}"); // As above.
    }
    name
}

/// Fowler–Noll–Vo hash: stable over releases, which the standard hasher does not promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
