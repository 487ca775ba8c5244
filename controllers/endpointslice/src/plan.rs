//! Which pods stand behind a Service, and how they are told to everybody in EndpointSlices and in
//! the older Endpoints.
//!
//! Slices change as little as possible: an endpoint stays in the slice that has it, free places
//! are taken where a slice must be written anyway, and only then new slices are made.

mod endpoints;
mod slices;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, Endpoints, ObjectReference, Pod, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

pub use endpoints::MANAGED_BY as ENDPOINTS_MANAGED_BY;
pub use slices::{MANAGED_BY, MANAGER};

/// Marks what belongs to a Service without a cluster IP.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Everything that the decision about one Service depends on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The Service.
    pub service: Arc<Service>,
    /// Pods that its selector means, in any state.
    pub pods: Vec<Arc<Pod>>,
    /// The zone of each node that exists and carries one of the pods.
    pub zones: BTreeMap<String, Option<String>>,
    /// Slices of the Service that this controller manages.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// The Endpoints object of the Service's name.
    pub endpoints: Option<Arc<Endpoints>>,
}

/// What to write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make a slice; the server chooses the rest of its name.
    CreateSlice(Box<EndpointSlice>),
    /// Replace a slice by this.
    UpdateSlice(Box<EndpointSlice>),
    /// Delete a slice.
    DeleteSlice {
        /// Its name.
        name: String,
        /// Its uid, so that a later namesake is left alone.
        uid: String,
    },
    /// Make the Endpoints object.
    CreateEndpoints(Box<Endpoints>),
    /// Replace the Endpoints object by this.
    UpdateEndpoints(Box<Endpoints>),
}

/// What has to be written for the Service; nothing if it is none of our business: without a
/// selector somebody else names its endpoints, and an ExternalName has none.
pub fn plan(observed: &Observed) -> Vec<Action> {
    let service = &observed.service;
    let Some(spec) = &service.spec else { return Vec::new() };
    if spec.type_.as_deref() == Some("ExternalName")
        || spec.selector.is_none()
        || service.metadata.deletion_timestamp.is_some()
    {
        return Vec::new();
    }
    let mut actions = slices::plan(observed, spec);
    actions.extend(endpoints::plan(observed, spec));
    actions
}

/// Whether the Service means this pod.
pub fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| {
        service.namespace() == pod.namespace()
            && s.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
    })
}

/// A kind of IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// The families of a Service, the first one being the main one.
    fn of(spec: &ServiceSpec) -> Vec<Self> {
        let named: Vec<_> = spec.ip_families.iter().flatten().map(|f| Self::named(f)).collect();
        if !named.is_empty() {
            return named;
        }
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        vec![if ip.contains(':') { Self::V6 } else { Self::V4 }]
    }

    fn named(name: &str) -> Self {
        if name == "IPv6" { Self::V6 } else { Self::V4 }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The pod's address of this family.
    fn address(self, pod: &Pod) -> Option<&str> {
        let status = pod.status.as_ref()?;
        let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
        let mut all = listed.chain(status.pod_ip.as_deref());
        all.find(|ip| !ip.is_empty() && ip.contains(':') == (self == Self::V6))
    }
}

fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn publishes_unready(spec: &ServiceSpec) -> bool {
    spec.publish_not_ready_addresses == Some(true)
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// The port of the pod that a port of the Service leads to; `None` if the pod has none of that name.
fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let is_sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
            let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
            let mut ports =
                spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
            let fits = |p: &&k8s_openapi::api::core::v1::ContainerPort| {
                p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
            };
            ports.find(fits).map(|p| p.container_port)
        }
    }
}

/// The host name under which the pod is found below the Service's name.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let belongs = spec.subdomain.as_deref() == Some(&service.name_any());
    spec.hostname.clone().filter(|h| belongs && !h.is_empty())
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.namespace(),
        name: pod.metadata.name.clone(),
        uid: pod.uid(),
        ..ObjectReference::default()
    }
}
