//! What is allowed in a service and yet a bad idea.

use serde_json::Value;

use super::{is_headless, kind};
use crate::types::addresses::{ip_warning, range_warning};
use crate::types::check::{is_empty, items, text};

/// Texts for a service.
pub(super) fn all(service: &Value) -> Vec<String> {
    let (spec, annotations) = (&service["spec"], &service["metadata"]["annotations"]);
    let headless = is_headless(spec);
    let external = kind(spec) == "ExternalName";
    let ips = !is_empty(&spec["externalIPs"]);
    let distribution = text(spec, "trafficDistribution");
    let told = [
        (
            !annotations["service.kubernetes.io/topology-aware-hints"].is_null(),
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead",
        ),
        (
            headless && !is_empty(&spec["loadBalancerIP"]),
            "spec.loadBalancerIP is ignored for headless services",
        ),
        (headless && ips, "spec.externalIPs is ignored for headless services"),
        (
            headless && text(spec, "sessionAffinity") != "None",
            "spec.SessionAffinity is ignored for headless services",
        ),
        (
            ips && !headless && !external,
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
        ),
        (external && ips, "spec.externalIPs is ignored when spec.type is \"ExternalName\""),
        (
            !external && !is_empty(&spec["externalName"]),
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
        ),
        (
            distribution == "PreferClose",
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        ),
    ];
    let mut warnings: Vec<String> =
        told.iter().filter(|(told, _)| *told).map(|(_, text)| (*text).to_owned()).collect();
    for field in ["clusterIPs", "externalIPs"] {
        for (n, ip) in items(&spec[field]).iter().enumerate() {
            let at = format_args!("spec.{field}[{n}]");
            warnings.extend(ip_warning(at, ip.as_str().unwrap_or_default()));
        }
    }
    warnings.extend(ip_warning(format_args!("spec.loadBalancerIP"), text(spec, "loadBalancerIP")));
    for (n, range) in items(&spec["loadBalancerSourceRanges"]).iter().enumerate() {
        let at = format_args!("spec.loadBalancerSourceRanges[{n}]");
        warnings.extend(range_warning(at, range.as_str().unwrap_or_default()));
    }
    warnings
}
