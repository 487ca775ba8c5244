//! What traffic goes where: Services and EndpointSlices become [`ServicePort`]s. No I/O, no rule syntax.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort as SpecPort};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use kit::services::{self, SERVICE_NAME};
use kube::ResourceExt;

/// Label by which a Service asks for another proxy than this one.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Session affinity lasts three hours where the Service does not say.
///
/// Source: `DefaultClientIPServiceAffinitySeconds` in the core/v1 API.
const DEFAULT_AFFINITY: Duration = Duration::from_secs(10_800);

/// All that the rules depend on.
#[derive(Debug, Default, Clone)]
pub struct Observed {
    /// Every Service of the cluster.
    pub services: Vec<Arc<Service>>,
    /// Every EndpointSlice of the cluster.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// The node whose rules these are: decides what `Local` traffic policies mean.
    pub node: String,
}

/// One port of one Service, with all that a rule set needs to serve it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServicePort {
    /// Namespace, name and port of the Service; names the rules.
    pub id: PortId,
    /// Addresses on which the cluster reaches the Service, of one or both families.
    pub cluster_ips: Vec<IpAddr>,
    /// Port at the cluster addresses.
    pub port: u16,
    /// Port at every node's addresses.
    pub node_port: Option<u16>,
    /// How long a client stays with its endpoint; `None`: each connection is placed anew.
    pub affinity: Option<Duration>,
    /// Where traffic from inside the cluster goes.
    pub internal: Vec<Endpoint>,
    /// Where traffic that came in by a node port goes.
    pub external: Vec<Endpoint>,
    /// External traffic keeps its source address, because it stays on this node.
    pub keeps_source: bool,
}

/// What tells one Service port from all others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Name of the port; empty where a Service has one nameless port.
    pub port: String,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// Transport protocols that Services know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
}

impl Protocol {
    fn parse(name: Option<&str>) -> Self {
        match name {
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            _ => Self::Tcp,
        }
    }

    /// The name in lower case, as rules and tools write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// An address and port that answers for a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address of the pod, or of what stands in its place.
    pub ip: IpAddr,
    /// Port at that address.
    pub port: u16,
}

/// Every Service port that this node serves, in a fixed order.
///
/// Ready endpoints serve; where a Service has none left, those that still serve while terminating do (KEP-1669).
#[must_use]
pub fn plan(observed: &Observed) -> Vec<ServicePort> {
    let mut slices: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in &observed.slices {
        if let (Some(namespace), Some(service)) =
            (slice.metadata.namespace.as_deref(), slice.labels().get(SERVICE_NAME))
        {
            slices.entry((namespace, service)).or_default().push(slice);
        }
    }
    let mut ports: Vec<ServicePort> = observed
        .services
        .iter()
        .filter(|service| is_ours(service))
        .flat_map(|service| {
            let key =
                (service.metadata.namespace.as_deref().unwrap_or_default(), service.name_any());
            let slices = slices.get(&(key.0, key.1.as_str())).map_or(&[][..], Vec::as_slice);
            service_ports(service, slices, &observed.node)
        })
        .collect();
    ports.sort();
    ports
}

fn is_ours(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    !service.labels().contains_key(PROXY_NAME)
        && spec.is_some_and(|s| s.type_.as_deref() != Some("ExternalName"))
}

fn service_ports(service: &Service, slices: &[&EndpointSlice], node: &str) -> Vec<ServicePort> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let cluster_ips: Vec<IpAddr> = services::cluster_ips(spec).into_iter().collect();
    if cluster_ips.is_empty() {
        return Vec::new(); // Headless: clients find the pods by DNS.
    }
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let keeps_source = spec.external_traffic_policy.as_deref() == Some("Local");
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let client_ip =
            spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds =
            client_ip.and_then(|config| config.timeout_seconds).and_then(|s| u64::try_from(s).ok());
        seconds.map_or(DEFAULT_AFFINITY, Duration::from_secs)
    });
    let of_port = |port: &SpecPort| {
        let id = PortId {
            namespace: service.metadata.namespace.clone().unwrap_or_default(),
            service: service.name_any(),
            port: port.name.clone().unwrap_or_default(),
            protocol: Protocol::parse(port.protocol.as_deref()),
        };
        Some(ServicePort {
            cluster_ips: cluster_ips.clone(),
            port: u16::try_from(port.port).ok()?,
            node_port: port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0),
            affinity,
            internal: endpoints(slices, &id, internal_local.then_some(node)),
            external: endpoints(slices, &id, keeps_source.then_some(node)),
            keeps_source,
            id,
        })
    };
    spec.ports.iter().flatten().filter_map(of_port).collect()
}

/// The endpoints of one port: ready ones, else those serving while they terminate; only on `node` where given.
fn endpoints(slices: &[&EndpointSlice], id: &PortId, node: Option<&str>) -> Vec<Endpoint> {
    let candidates: Vec<(&SliceEndpoint, Endpoint)> = slices
        .iter()
        .flat_map(|slice| slice_endpoints(slice, id))
        .filter(|(endpoint, _)| node.is_none_or(|node| endpoint.node_name.as_deref() == Some(node)))
        .collect();
    let chosen = |accept: fn(&SliceEndpoint) -> bool| -> Vec<Endpoint> {
        let unique: BTreeSet<Endpoint> = candidates
            .iter()
            .filter(|(endpoint, _)| accept(endpoint))
            .map(|(_, address)| *address)
            .collect();
        unique.into_iter().collect()
    };
    let ready = chosen(services::is_ready);
    if ready.is_empty() { chosen(serves_while_terminating) } else { ready }
}

fn slice_endpoints<'a>(
    slice: &'a EndpointSlice,
    id: &PortId,
) -> impl Iterator<Item = (&'a SliceEndpoint, Endpoint)> {
    let port = slice.ports.iter().flatten().find(|port| {
        port.name.as_deref().unwrap_or_default() == id.port
            && Protocol::parse(port.protocol.as_deref()) == id.protocol
    });
    let port = port.and_then(|port| port.port).and_then(|port| u16::try_from(port).ok());
    port.into_iter().flat_map(move |port| {
        slice.endpoints.iter().flatten().filter_map(move |endpoint| {
            let ip = endpoint.addresses.first()?.parse().ok().filter(may_be_reached)?;
            Some((endpoint, Endpoint { ip, port }))
        })
    })
}

/// Whether traffic of others may be sent to an address: not to this machine, its link, or a group of machines. An
/// API server refuses such endpoints; this holds even if one has let them through.
///
/// Source: CVE-2021-25740 and `ValidateEndpointIP` in upstream `pkg/apis/core/validation`.
fn may_be_reached(ip: &IpAddr) -> bool {
    let link_local = match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let ip = ip.to_canonical();
    !(link_local || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified())
}

fn serves_while_terminating(endpoint: &SliceEndpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .is_some_and(|c| c.serving == Some(true) && c.terminating == Some(true))
}

#[cfg(test)]
mod tests;
