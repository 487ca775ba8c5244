//! Names: the pod's resolver, host name and domain. Pure.
//!
//! Source: kubernetes.io, "DNS for Services and Pods".

use k8s_openapi::api::core::v1::Pod;

use super::observed::Wanted;
use crate::runtime::Dns;

/// Most characters of a host name (Linux).
const HOSTNAME_MAX: usize = 63;

/// What the node knows about name resolution.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    /// Addresses of the cluster's DNS service.
    pub cluster_dns: Vec<String>,
    /// As `cluster.local`.
    pub cluster_domain: String,
    /// The node's own resolv.conf.
    pub node: Dns,
}

/// The resolver configuration of a pod.
pub fn pod_dns(wanted: &Wanted, resolver: &Resolver) -> Dns {
    let spec = wanted.pod.spec.as_ref();
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !wanted.host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut dns = match policy {
        "None" => Dns::default(),
        _ if cluster && !resolver.cluster_dns.is_empty() => cluster_first(wanted, resolver),
        _ => resolver.node.clone(),
    };
    let Some(config) = spec.and_then(|s| s.dns_config.as_ref()) else { return dns };
    add(&mut dns.servers, config.nameservers.iter().flatten());
    add(&mut dns.searches, config.searches.iter().flatten());
    for option in config.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        dns.options.retain(|o| o.split(':').next() != Some(name));
        dns.options.push(match &option.value {
            Some(value) if !value.is_empty() => format!("{name}:{value}"),
            _ => name.clone(),
        });
    }
    dns
}

fn cluster_first(wanted: &Wanted, resolver: &Resolver) -> Dns {
    let domain = &resolver.cluster_domain;
    let namespace = &wanted.namespace;
    let mut searches =
        vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    add(&mut searches, resolver.node.searches.iter());
    Dns { servers: resolver.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
}

fn add<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// Host name, and the fully qualified one where the pod has a subdomain.
pub fn pod_hostname(pod: &Pod, domain: &str) -> (String, Option<String>) {
    let spec = pod.spec.as_ref();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(whole) = spec.and_then(|s| s.hostname_override.clone()) {
        return (whole, None);
    }
    let hostname: String = match spec.and_then(|s| s.hostname.as_deref()) {
        Some(hostname) if !hostname.is_empty() => hostname.to_owned(),
        _ => {
            name.chars().take(HOSTNAME_MAX).collect::<String>().trim_end_matches(['-', '.']).into()
        }
    };
    let subdomain = spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty());
    let fqdn = subdomain.map(|sub| format!("{hostname}.{sub}.{namespace}.svc.{domain}"));
    match fqdn {
        Some(fqdn) if spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true) => {
            (fqdn.clone(), Some(fqdn))
        }
        fqdn => (hostname, fqdn),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(spec: serde_json::Value, expected: &str) {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
        let wanted = Wanted::new(Arc::new(serde_json::from_value(pod).unwrap()));
        let resolver = Resolver {
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            node: Dns::parse("nameserver 1.1.1.1\nsearch corp.example\n"),
        };
        assert_eq!(pod_dns(&wanted, &resolver).render(), expected);
    }

    #[test]
    fn policy_chooses_the_servers() {
        let cluster = "nameserver 10.96.0.10\n\
            search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
            options ndots:5\n";
        let node = "nameserver 1.1.1.1\nsearch corp.example\n";
        check(json!({}), cluster);
        check(json!({"hostNetwork": true}), node);
        check(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), cluster);
        check(json!({"dnsPolicy": "Default"}), node);
    }

    #[test]
    fn dns_config_is_added() {
        let config = json!({
            "nameservers": ["9.9.9.9"], "searches": ["x.y"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        });
        check(
            json!({"dnsPolicy": "None", "dnsConfig": config}),
            "nameserver 9.9.9.9\nsearch x.y\noptions ndots:2 edns0\n",
        );
    }

    #[test]
    fn subdomain_makes_a_qualified_name() {
        let pod = |spec| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": spec}),
            )
            .unwrap()
        };
        let check = |spec, host: &str, fqdn: Option<&str>| {
            let expected = (host.to_owned(), fqdn.map(str::to_owned));
            assert_eq!(pod_hostname(&pod(spec), "cluster.local"), expected);
        };
        check(json!({"containers": []}), "web-0", None);
        let full = "web-0.web.ns.svc.cluster.local";
        check(json!({"containers": [], "subdomain": "web"}), "web-0", Some(full));
        let both = json!({"containers": [], "subdomain": "web", "setHostnameAsFQDN": true});
        check(both, full, Some(full));
    }
}
