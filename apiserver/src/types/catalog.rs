//! Which strategy a resource has.

use std::sync::Arc;

use super::{
    Conversion, Plain, Strategy, admission, apiservices, apps, autoscaling, batch, certificates,
    cluster, config, events, limits, machinery, network, pod, resource, roles, scheduling, service,
    storage, webhooks,
};
use crate::identity::rbac::{self, Kind};

/// The strategy of a resource, hosted or from a CustomResourceDefinition.
pub(super) fn strategy(group: &str, resource: &str) -> Arc<dyn Strategy> {
    match (group, resource) {
        ("", "configmaps") => Arc::new(config::ConfigMaps),
        ("", "limitranges") => Arc::new(limits::LimitRanges),
        ("", "namespaces") => Arc::new(cluster::Namespaces),
        ("", "nodes") => Arc::new(cluster::Nodes),
        ("", "persistentvolumeclaims") => Arc::new(storage::Claims),
        ("", "persistentvolumes") => Arc::new(storage::Volumes),
        ("", "pods") => Arc::new(pod::Pods),
        ("", "podtemplates") => Arc::new(pod::Templates),
        ("", "resourcequotas") => Arc::new(config::Quotas),
        ("", "secrets") => Arc::new(config::Secrets),
        ("", "serviceaccounts") => Arc::new(config::ServiceAccounts),
        ("", "services") => Arc::new(service::Services::new()),
        ("", "endpoints") => Arc::new(network::Endpoints),
        ("", "replicationcontrollers") => Arc::new(apps::ReplicationControllers),
        ("", "events") => Arc::new(events::Events { is_new: false }),
        ("events.k8s.io", "events") => Arc::new(events::Events { is_new: true }),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => {
            Arc::new(admission::ValidatingPolicies)
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
            Arc::new(admission::Bindings { has_actions: true })
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => {
            Arc::new(admission::MutatingPolicies)
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings") => {
            Arc::new(admission::Bindings { has_actions: false })
        }
        ("admissionregistration.k8s.io", _) => Arc::new(webhooks::Webhooks),
        ("certificates.k8s.io", "certificatesigningrequests") => {
            Arc::new(certificates::SigningRequests)
        }
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => Arc::new(machinery::FlowSchemas),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => {
            Arc::new(machinery::PriorityLevels)
        }
        ("resource.k8s.io", "deviceclasses") => Arc::new(resource::Classes),
        ("resource.k8s.io", "resourceslices") => Arc::new(resource::Slices),
        ("apps", "controllerrevisions") => Arc::new(apps::Revisions),
        ("apps", "daemonsets") => Arc::new(apps::DaemonSets),
        ("apps", "deployments") => Arc::new(apps::Deployments),
        ("apps", "replicasets") => Arc::new(apps::ReplicaSets),
        ("apps", "statefulsets") => Arc::new(apps::StatefulSets),
        ("autoscaling", "horizontalpodautoscalers") => Arc::new(autoscaling::Autoscalers),
        ("batch", "cronjobs") => Arc::new(batch::CronJobs),
        ("batch", "jobs") => Arc::new(batch::Jobs),
        ("coordination.k8s.io", "leases") => Arc::new(scheduling::Leases),
        ("discovery.k8s.io", "endpointslices") => Arc::new(network::Slices),
        ("networking.k8s.io", "ingressclasses") => Arc::new(network::IngressClasses),
        ("networking.k8s.io", "ingresses") => Arc::new(network::Ingresses),
        ("networking.k8s.io", "ipaddresses") => Arc::new(network::Addresses),
        ("networking.k8s.io", "networkpolicies") => Arc::new(network::Policies),
        ("networking.k8s.io", "servicecidrs") => Arc::new(network::Ranges),
        ("node.k8s.io", "runtimeclasses") => Arc::new(scheduling::Runtimes),
        ("policy", "poddisruptionbudgets") => Arc::new(scheduling::Budgets),
        ("resource.k8s.io", "resourceclaims") => Arc::new(resource::Claims),
        ("resource.k8s.io", "resourceclaimtemplates") => Arc::new(resource::Templates),
        ("scheduling.k8s.io", "priorityclasses") => Arc::new(scheduling::Priorities),
        ("storage.k8s.io", "csidrivers") => Arc::new(storage::Drivers),
        ("storage.k8s.io", "csinodes") => Arc::new(storage::DriverNodes),
        ("storage.k8s.io", "csistoragecapacities") => Arc::new(storage::Capacities),
        ("storage.k8s.io", "storageclasses") => Arc::new(storage::Classes),
        ("storage.k8s.io", "volumeattachments") => Arc::new(storage::Attachments),
        ("storage.k8s.io", "volumeattributesclasses") => Arc::new(storage::AttributesClasses),
        ("apiregistration.k8s.io", "apiservices") => Arc::new(apiservices::ApiService),
        (rbac::GROUP, _) => match Kind::of_resource(resource) {
            Some(kind @ (Kind::Role | Kind::ClusterRole)) => Arc::new(roles::Role(kind)),
            Some(kind) => Arc::new(roles::Binding(kind)),
            None => Arc::new(Plain),
        },
        _ => Arc::new(Plain),
    }
}

/// How a version differs from what is stored.
pub(super) fn conversion(
    group: &str,
    version: &str,
    resource: &str,
) -> Option<Arc<dyn Conversion>> {
    match (group, version, resource) {
        ("autoscaling", "v1", "horizontalpodautoscalers") => {
            Some(Arc::new(autoscaling::VersionOne))
        }
        ("events.k8s.io", _, "events") => Some(Arc::new(events::NewForm)),
        _ => None,
    }
}
