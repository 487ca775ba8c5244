//! EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kit::pods;
use kit::services::SERVICE_NAME;
use kube::ResourceExt;

use super::{Action, Family, HEADLESS, Observed};

/// Most endpoints in a slice.
///
/// Source: `--max-endpoints-per-slice` of kube-controller-manager.
const MAX_ENDPOINTS: usize = 100;

/// The label that names who manages a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`] for slices of this controller.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";

type Labels = BTreeMap<String, String>;

/// Ports by which endpoints are put together: name, protocol, number, application protocol.
type PortKey = Vec<(String, String, Option<i32>, Option<String>)>;

pub(super) fn plan(observed: &Observed, spec: &ServiceSpec) -> Vec<Action> {
    let families = Family::of(spec);
    let is_other =
        |slice: &&Arc<EndpointSlice>| !families.iter().any(|f| f.name() == slice.address_type);
    let mut actions: Vec<_> = observed.slices.iter().filter(is_other).map(|s| delete(s)).collect();
    for family in families {
        actions.extend(plan_family(observed, spec, family));
    }
    actions
}

fn plan_family(observed: &Observed, spec: &ServiceSpec, family: Family) -> Vec<Action> {
    let labels = labels(&observed.service, spec);
    let mut existing: BTreeMap<PortKey, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in observed.slices.iter().filter(|s| s.address_type == family.name()) {
        existing.entry(port_key(slice.ports.iter().flatten())).or_default().push(Arc::clone(slice));
    }
    let mut wanted = wanted(observed, spec, family);
    if wanted.is_empty() {
        wanted.insert(PortKey::new(), Group::default()); // One slice stays, so that readers see there is none.
    }
    let mut actions = Vec::new();
    for (key, group) in wanted {
        let slices = existing.remove(&key).unwrap_or_default();
        let make =
            |endpoints| create(observed, labels.clone(), family, group.ports.clone(), endpoints);
        actions.extend(pack(slices, group.endpoints, &labels, make));
    }
    actions.extend(existing.values().flatten().map(|slice| delete(slice)));
    actions
}

#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<String, Endpoint>,
}

/// Endpoints as they should be, by ports, then by the pod's uid.
fn wanted(observed: &Observed, spec: &ServiceSpec, family: Family) -> BTreeMap<PortKey, Group> {
    let mut groups: BTreeMap<PortKey, Group> = BTreeMap::new();
    for pod in observed.pods.iter().filter(|p| !pods::is_terminal(p)) {
        let Some(address) = family.address(pod) else { continue };
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone());
        let zone = match &node {
            None => None,
            Some(name) => match observed.zones.get(name) {
                Some(zone) => zone.clone(),
                None if super::publishes_unready(spec) => None,
                None => continue, // Its node is gone, and it soon will be.
            },
        };
        let ports = ports(pod, spec);
        let group = groups.entry(port_key(&ports)).or_default();
        group.ports = ports;
        let endpoint = endpoint(observed, spec, pod, address, zone);
        group.endpoints.insert(pod.uid().unwrap_or_default(), endpoint);
    }
    groups
}

fn endpoint(
    observed: &Observed,
    spec: &ServiceSpec,
    pod: &Pod,
    address: &str,
    zone: Option<String>,
) -> Endpoint {
    let (serving, terminating) = (pods::is_ready(pod), super::is_terminating(pod));
    let ready = super::publishes_unready(spec) || (serving && !terminating);
    let node_name = pod.spec.as_ref().and_then(|s| s.node_name.clone());
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: if ready { hints(spec, node_name.as_deref(), zone.as_deref()) } else { None },
        hostname: super::hostname(&observed.service, pod),
        target_ref: Some(super::reference(pod)),
        node_name,
        zone,
        ..Endpoint::default()
    }
}

/// For whom an endpoint is meant in the first place.
///
/// Source: kubernetes.io, "Virtual IPs and Service Proxies", "Traffic distribution".
fn hints(spec: &ServiceSpec, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    let for_nodes = match spec.traffic_distribution.as_deref()? {
        "PreferClose" | "PreferSameZone" => None,
        "PreferSameNode" => node.map(|node| vec![ForNode { name: node.to_owned() }]),
        _ => return None,
    };
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

fn ports(pod: &Pod, spec: &ServiceSpec) -> Vec<EndpointPort> {
    let port = |port| {
        Some(EndpointPort {
            name: Some(port_name(port)),
            port: Some(super::target_port(pod, port)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        })
    };
    spec.ports.iter().flatten().filter_map(port).collect()
}

fn port_name(port: &k8s_openapi::api::core::v1::ServicePort) -> String {
    port.name.clone().unwrap_or_default()
}

fn port_key<'a>(ports: impl IntoIterator<Item = &'a EndpointPort>) -> PortKey {
    let key = |port: &EndpointPort| {
        let (name, protocol) = (port.name.clone(), port.protocol.clone());
        let protocol = protocol.unwrap_or_else(|| "TCP".into());
        (name.unwrap_or_default(), protocol, port.port, port.app_protocol.clone())
    };
    let mut key: PortKey = ports.into_iter().map(key).collect();
    key.sort();
    key
}

/// A slice on its way to what it should be.
struct Draft {
    old: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

impl Draft {
    fn room(&self) -> usize {
        MAX_ENDPOINTS.saturating_sub(self.endpoints.len())
    }
}

/// Puts the endpoints of one set of ports into slices.
fn pack(
    slices: Vec<Arc<EndpointSlice>>,
    mut wanted: BTreeMap<String, Endpoint>,
    labels: &Labels,
    make: impl Fn(Vec<Endpoint>) -> Action,
) -> Vec<Action> {
    let is_empty_group = wanted.is_empty();
    let mut drafts: Vec<_> = slices.into_iter().map(|s| keep(s, &mut wanted, labels)).collect();
    drafts.sort_by_key(|d| (!d.changed, d.room(), d.old.name_any()));
    let mut missing: Vec<Endpoint> = wanted.into_values().collect();
    for draft in drafts.iter_mut().filter(|d| d.changed) {
        let n = draft.room().min(missing.len());
        draft.endpoints.extend(missing.drain(..n));
    }
    // What is left goes into one more slice, if one has room for all of it.
    if !missing.is_empty()
        && let Some(draft) = drafts.iter_mut().find(|d| !d.changed && d.room() >= missing.len())
    {
        draft.endpoints.append(&mut missing);
        draft.changed = true;
    }
    let mut actions = Vec::new();
    let mut kept = false;
    for draft in drafts {
        let keeps_place = is_empty_group && !kept;
        if draft.endpoints.is_empty() && !keeps_place {
            actions.push(delete(&draft.old));
            continue;
        }
        kept = true;
        if draft.changed {
            actions.push(update(&draft, labels));
        }
    }
    let mut rest = missing.into_iter().peekable();
    while rest.peek().is_some() {
        actions.push(make(rest.by_ref().take(MAX_ENDPOINTS).collect()));
    }
    if is_empty_group && !kept {
        actions.push(make(Vec::new()));
    }
    actions
}

/// What stays in a slice; takes it out of `wanted`.
fn keep(
    slice: Arc<EndpointSlice>,
    wanted: &mut BTreeMap<String, Endpoint>,
    labels: &Labels,
) -> Draft {
    let old = slice.endpoints.as_deref().unwrap_or_default();
    let uid = |e: &Endpoint| e.target_ref.as_ref().and_then(|r| r.uid.clone()).unwrap_or_default();
    let endpoints: Vec<_> = old.iter().filter_map(|e| wanted.remove(&uid(e))).collect();
    let changed = endpoints != old || slice.labels() != labels;
    Draft { endpoints, changed, old: slice }
}

fn create(
    observed: &Observed,
    labels: Labels,
    family: Family,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> Action {
    let service = &observed.service;
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Service".into(),
        name: service.name_any(),
        uid: service.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    Action::CreateSlice(Box::new(EndpointSlice {
        address_type: family.name().into(),
        endpoints: Some(endpoints),
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        ports: Some(ports),
    }))
}

fn update(draft: &Draft, labels: &Labels) -> Action {
    let mut slice = (*draft.old).clone();
    slice.metadata.labels = Some(labels.clone());
    slice.endpoints = Some(draft.endpoints.clone());
    Action::UpdateSlice(Box::new(slice))
}

fn delete(slice: &EndpointSlice) -> Action {
    Action::DeleteSlice { name: slice.name_any(), uid: slice.uid().unwrap_or_default() }
}

/// The Service's labels, and those that say whose slice it is.
fn labels(service: &Service, spec: &ServiceSpec) -> Labels {
    let reserved = BTreeSet::from([SERVICE_NAME, MANAGED_BY, HEADLESS]);
    let mut labels: Labels = service.labels().clone();
    labels.retain(|key, _| !reserved.contains(key.as_str()));
    labels.insert(SERVICE_NAME.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if super::is_headless(spec) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}
