//! Endpoints, the older form: one object a Service, for readers that know no slices.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kit::pods;
use kube::ResourceExt;

use super::{Action, Family, HEADLESS, Observed};

/// The label and its value by which this controller knows its own objects.
pub const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

/// Most addresses in an Endpoints object; [`OVER_CAPACITY`] tells that there would be more.
///
/// Source: kubernetes.io, "Service", "Over-capacity endpoints".
const MAX_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

pub(super) fn plan(observed: &Observed, spec: &ServiceSpec) -> Option<Action> {
    let service = &observed.service;
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    labels.remove(HEADLESS);
    if super::is_headless(spec) {
        labels.insert(HEADLESS.into(), String::new());
    }
    let mut subsets = subsets(observed, spec);
    let truncated = truncate(&mut subsets);
    let Some(old) = &observed.endpoints else {
        let annotations = truncated.then(|| [(OVER_CAPACITY.into(), "truncated".into())].into());
        let metadata = ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.namespace(),
            labels: Some(labels),
            annotations,
            ..ObjectMeta::default()
        };
        return Some(Action::CreateEndpoints(Box::new(Endpoints {
            metadata,
            subsets: Some(subsets),
        })));
    };
    let mut new = (**old).clone();
    new.metadata.labels = Some(labels);
    if truncated {
        new.annotations_mut().insert(OVER_CAPACITY.into(), "truncated".into());
    } else if let Some(annotations) = &mut new.metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
    let same = old.subsets.as_deref().unwrap_or_default() == subsets
        && old.labels() == new.labels()
        && old.annotations() == new.annotations();
    new.subsets = Some(subsets);
    (!same).then(|| Action::UpdateEndpoints(Box::new(new)))
}

type PortKey = Vec<(String, i32, String)>;

/// Addresses with the same ports in one subset, all in an order that depends on nothing else.
fn subsets(observed: &Observed, spec: &ServiceSpec) -> Vec<EndpointSubset> {
    let family = Family::of(spec).first().copied().unwrap_or(Family::V4);
    let mut by_ports: BTreeMap<PortKey, EndpointSubset> = BTreeMap::new();
    for pod in &observed.pods {
        let leaving = super::is_terminating(pod) && !super::publishes_unready(spec);
        let Some(address) = family.address(pod) else { continue };
        if pods::is_terminal(pod) || leaving {
            continue;
        }
        let ports = ports(pod, spec);
        if ports.is_empty() && spec.ports.iter().flatten().next().is_some() {
            continue; // It has none of the named ports.
        }
        let key = ports.iter().map(|p| {
            (p.name.clone().unwrap_or_default(), p.port, p.protocol.clone().unwrap_or_default())
        });
        let subset = by_ports.entry(key.collect()).or_default();
        let address = EndpointAddress {
            ip: address.to_owned(),
            hostname: super::hostname(&observed.service, pod),
            node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
            target_ref: Some(super::reference(pod)),
        };
        let ready = super::publishes_unready(spec) || pods::is_ready(pod);
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
        subset.ports = Some(ports).filter(|p| !p.is_empty());
    }
    let mut subsets: Vec<_> = by_ports.into_values().collect();
    for subset in &mut subsets {
        let lists = subset.addresses.iter_mut().chain(&mut subset.not_ready_addresses);
        lists.for_each(|list| list.sort_by(|a, b| (&a.ip, uid(a)).cmp(&(&b.ip, uid(b)))));
    }
    subsets
}

fn uid(address: &EndpointAddress) -> Option<&str> {
    address.target_ref.as_ref()?.uid.as_deref()
}

fn ports(pod: &Pod, spec: &ServiceSpec) -> Vec<EndpointPort> {
    let port = |port| {
        Some(EndpointPort {
            port: super::target_port(pod, port)?,
            name: port.name.clone().filter(|n| !n.is_empty()),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        })
    };
    spec.ports.iter().flatten().filter_map(port).collect()
}

/// Cuts what is too much, unready addresses first; says whether it had to.
fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    let mut left = MAX_ADDRESSES;
    let mut cut = false;
    let mut limit = |list: &mut Option<Vec<EndpointAddress>>| {
        if let Some(list) = list {
            cut |= list.len() > left;
            list.truncate(left);
            left -= list.len();
        }
        if list.as_ref().is_some_and(Vec::is_empty) {
            *list = None;
        }
    };
    subsets.iter_mut().for_each(|s| limit(&mut s.addresses));
    subsets.iter_mut().for_each(|s| limit(&mut s.not_ready_addresses));
    subsets.retain(|s| s.addresses.is_some() || s.not_ready_addresses.is_some());
    cut
}
