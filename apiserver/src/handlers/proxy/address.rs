//! Which addresses a request may be passed on to: a name is resolved once, checked, and that address is dialled.
//!
//! Source: CVE-2020-8555, CVE-2020-8562, CVE-2022-3294.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;

use crate::duration;
use crate::status::ApiError;

/// Where requests may be passed on to.
#[derive(Debug, Clone)]
pub struct Options {
    /// Node agents are reached at loopback addresses, too.
    pub allow_loopback_nodes: bool,
    /// Types of a node's addresses; its agent is at the first one that the node has.
    pub preferred_address_types: Vec<String>,
    /// Longest wait for a connection to a node agent.
    pub kubelet_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        // Upstream begins with host names, which somebody would have to resolve.
        let types = ["InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS"];
        Self {
            allow_loopback_nodes: false,
            preferred_address_types: types.map(str::to_owned).to_vec(),
            kubelet_timeout: Duration::from_secs(5),
        }
    }
}

/// Flags of [`Options`].
#[derive(Debug, Clone, Args)]
#[group(id = "proxy")]
pub struct Flags {
    /// Reach node agents at loopback addresses, too; only for clusters whose nodes all run on this machine
    #[arg(long)]
    allow_loopback_nodes: bool,
    /// Types of a node's addresses, the best first; without it, those that need no resolver come first
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    kubelet_preferred_address_types: Option<Vec<String>>,
    /// Longest wait for a connection to a node agent
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::flag)]
    kubelet_timeout: Duration,
}

impl Flags {
    /// Writes what was said into the options.
    pub fn apply(&self, options: &mut Options) {
        options.allow_loopback_nodes = self.allow_loopback_nodes;
        if let Some(types) = &self.kubelet_preferred_address_types {
            options.preferred_address_types.clone_from(types);
        }
        options.kubelet_timeout = self.kubelet_timeout;
    }
}

/// Whether an address can belong to a pod or a node: not this machine's loopback, not the link's, not a group's.
///
/// Source: what Go's `IP.IsGlobalUnicast` lets pass.
fn is_global_unicast(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            !(ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_unspecified())
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip.is_unspecified())
        }
    }
}

fn refused() -> ApiError {
    ApiError::BadRequest("address not allowed".to_owned())
}

/// Lets the address of a pod or an endpoint pass.
///
/// # Errors
/// It is none that a pod has.
pub(super) fn of_pod(ip: IpAddr) -> Result<IpAddr, ApiError> {
    if is_global_unicast(ip) { Ok(ip) } else { Err(refused()) }
}

/// Resolves the address of a node agent. Each address of the name must be one that a node may have, so that
/// it does not matter which of them is dialled.
///
/// # Errors
/// The name is unknown, or stands for an address that no node may have.
pub(super) async fn of_node(
    host: &str,
    port: u16,
    options: &Options,
) -> Result<SocketAddr, ApiError> {
    let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => lookup(host, port).await?,
    };
    let allowed = |ip: IpAddr| {
        is_global_unicast(ip) || (options.allow_loopback_nodes && ip.to_canonical().is_loopback())
    };
    if !found.iter().all(|address| allowed(address.ip())) {
        return Err(refused());
    }
    found.first().copied().ok_or_else(|| unknown(host))
}

async fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, ApiError> {
    let found = tokio::net::lookup_host((host, port)).await;
    Ok(found.map_err(|_| unknown(host))?.collect())
}

fn unknown(host: &str) -> ApiError {
    ApiError::Unavailable(format!("error trying to reach service: lookup {host}: no such host"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_and_the_link_are_no_backends() {
        let refused = [
            "127.0.0.1",
            "127.8.9.1",
            "169.254.169.254",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
        ];
        for text in refused {
            assert!(of_pod(text.parse().unwrap()).is_err(), "{text}");
        }
        for text in ["10.0.0.1", "192.0.2.1", "8.8.8.8", "fd00::1", "2001:db8::1"] {
            assert!(of_pod(text.parse().unwrap()).is_ok(), "{text}");
        }
    }

    #[tokio::test]
    async fn nodes_are_elsewhere_unless_it_is_said_that_they_are_here() {
        let (never, here) =
            (Options::default(), Options { allow_loopback_nodes: true, ..Options::default() });
        for host in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost"] {
            let error = of_node(host, 1, &never).await.unwrap_err();
            assert_eq!(error.to_string(), "address not allowed", "{host}");
            assert!(of_node(host, 1, &here).await.is_ok(), "{host}");
        }
        for host in ["169.254.169.254", "fe80::1", "0.0.0.0"] {
            assert!(of_node(host, 1, &here).await.is_err(), "{host}");
        }
        assert!(of_node("192.0.2.1", 1, &never).await.is_ok());
    }
}
