//! `pod_security_*`, in upstream's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::policy::{Level, Standard, Version};
use crate::admission::attributes::{Attributes, Operation};

/// The newest version of the checks that this server knows.
const NEWEST: u32 = 36;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Evaluation {
    decision: &'static str,
    policy_level: String,
    policy_version: String,
    mode: &'static str,
    request_operation: &'static str,
    resource: &'static str,
    subresource: String,
    ocp_namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Exemption {
    request_operation: &'static str,
    resource: &'static str,
    subresource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    fatal: &'static str,
    request_operation: &'static str,
    resource: &'static str,
    subresource: String,
}

/// What Pod Security counts.
#[derive(Clone, Debug, Default)]
pub(in crate::admission) struct Metrics {
    evaluations: Family<Evaluation, Counter>,
    exemptions: Family<Exemption, Counter>,
    errors: Family<Failure, Counter>,
}

impl Metrics {
    /// Makes them and puts them into a registry.
    pub(in crate::admission) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let r = registry.sub_registry_with_prefix("pod_security");
        r.register("evaluations", "Pods that were looked at", metrics.evaluations.clone());
        r.register("exemptions", "Requests that were not looked at", metrics.exemptions.clone());
        r.register("errors", "Policies that cannot be read", metrics.errors.clone());
        metrics
    }

    /// A pod was held against a standard.
    pub(super) fn evaluated(
        &self,
        of: &Attributes<'_>,
        (mode, standard): (&'static str, Standard),
        allowed: bool,
    ) {
        let policy_version = match standard.version {
            _ if standard.level == Level::Privileged => "latest".to_owned(),
            Version::Minor(minor) if minor > NEWEST => "future".to_owned(),
            version => version.to_string(),
        };
        // Other names are the users' own, and without end.
        let known = of.namespace == "default" || of.namespace.starts_with("kube-");
        let evaluation = Evaluation {
            decision: if allowed { "allow" } else { "deny" },
            policy_level: standard.level.to_string(),
            policy_version,
            mode,
            request_operation: operation(of),
            resource: resource(of),
            subresource: of.subresource.to_owned(),
            ocp_namespace: if known { of.namespace.to_owned() } else { String::new() },
        };
        self.evaluations.get_or_create(&evaluation).inc();
    }

    /// A request was not looked at, as the configuration says.
    pub(super) fn exempted(&self, of: &Attributes<'_>) {
        let exemption = Exemption {
            request_operation: operation(of),
            resource: resource(of),
            subresource: of.subresource.to_owned(),
        };
        self.exemptions.get_or_create(&exemption).inc();
    }

    /// A policy could not be had, or not be read.
    pub(super) fn failed(&self, of: &Attributes<'_>, fatal: bool) {
        let failure = Failure {
            fatal: if fatal { "true" } else { "false" },
            request_operation: operation(of),
            resource: resource(of),
            subresource: of.subresource.to_owned(),
        };
        self.errors.get_or_create(&failure).inc();
    }
}

fn operation(of: &Attributes<'_>) -> &'static str {
    match of.operation {
        Operation::Create => "create",
        Operation::Update => "update",
        Operation::Delete => "delete",
        Operation::Connect => "connect",
    }
}

fn resource(of: &Attributes<'_>) -> &'static str {
    match of.resource.name.as_str() {
        "pods" => "pod",
        "namespaces" => "namespace",
        _ => "controller",
    }
}
