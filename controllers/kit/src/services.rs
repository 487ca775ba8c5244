//! What several players must agree on about a Service and its endpoints.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::{core::v1::ServiceSpec, discovery::v1::Endpoint};

/// Label that ties an EndpointSlice to its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The Service's addresses, by either of their names; none of one that is headless.
#[must_use]
pub fn cluster_ips(spec: &ServiceSpec) -> BTreeSet<IpAddr> {
    let both = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    both.filter_map(|ip| ip.parse().ok()).collect()
}

/// Whether an endpoint may be sent requests; one that says nothing may.
///
/// Source: `EndpointConditions` in the discovery/v1 API.
#[must_use]
pub fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_two_names() {
        let check = |one: &str, many: &[&str], expected: &[&str]| {
            let cluster_ip = (!one.is_empty()).then(|| one.to_owned());
            let cluster_ips = Some(many.iter().map(|&ip| ip.to_owned()).collect());
            let spec = ServiceSpec { cluster_ip, cluster_ips, ..ServiceSpec::default() };
            let found: Vec<String> =
                super::cluster_ips(&spec).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        };
        check("10.0.0.1", &[], &["10.0.0.1"]);
        check("10.0.0.1", &["10.0.0.1", "fd00::1"], &["10.0.0.1", "fd00::1"]);
        check("None", &["None"], &[]);
        check("", &[], &[]);
    }
}
