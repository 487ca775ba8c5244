//! Flags that configure a server, the same for `kube-apiserver` alone and for `improv up`.
//!
//! Their names are upstream's wherever upstream has the flag. Each area brings a struct of its own, which is
//! flattened into [`Flags`], and says in `apply` what it means for the [`Config`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use clap::{ArgMatches, Args};

use crate::handlers::proxy;
use crate::identity::flags::IdentityFlags;
use crate::{Config, admission, audit, enablement, fairness, server};

/// Everything that an operator may say about the server, wherever it runs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "API server")]
pub struct Flags {
    /// Address that others reach the server at; without it, the first one of this machine
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// Name for this server in URLs that others read, as the one of the token keys
    #[arg(long, value_name = "NAME")]
    pub external_hostname: Option<String>,
    /// Whether containers may be privileged; without it, in kube-apiserver no and in improv up yes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub allow_privileged: Option<bool>,
    /// Ports that Services get on every node, both ends included; as 30000-32767 or 30000+2767
    #[arg(long, value_name = "PORTS", default_value = "30000-32767", value_parser = ports)]
    pub service_node_port_range: (u16, u16),
    /// Issuer of service-account tokens; repeated, the first one issues and the others are taken, too
    #[arg(
        long = "service-account-issuer",
        value_name = "URL",
        default_value = "https://kubernetes.default.svc.cluster.local"
    )]
    pub service_account_issuers: Vec<String>,
    #[command(flatten)]
    identity: IdentityFlags,
    /// Further name or address for the serving certificate; may be repeated
    #[arg(long = "tls-san", value_name = "NAME")]
    pub tls_sans: Vec<String>,
    /// Admission plugins.
    #[command(flatten)]
    pub admission: admission::AdmissionFlags,
    /// What is recorded of requests
    #[command(flatten)]
    pub audit: audit::Flags,
    /// Where requests may be passed on to
    #[command(flatten)]
    pub proxy: proxy::address::Flags,
    /// Limits of requests
    #[command(flatten)]
    pub fairness: fairness::Flags,
    /// How connections begin, go on and end
    #[command(flatten)]
    pub connections: server::options::Flags,
    /// Features and versions
    #[command(flatten)]
    pub enablement: enablement::Flags,
    /// The store.
    #[command(flatten)]
    pub storage: crate::storage::Flags,
}

impl Flags {
    /// Writes what was said into a configuration whose `bind` is already set.
    pub fn apply(&self, config: &mut Config) {
        let port = config.bind.map_or(0, |address| address.port());
        config.advertise = self.advertise_address.map(|ip| SocketAddr::new(ip, port));
        if let Some(issuer) = self.service_account_issuers.first() {
            config.issuer.clone_from(issuer);
        }
        if let Some(said) = self.allow_privileged {
            config.allow_privileged = said;
        }
        config.node_ports = self.service_node_port_range;
        self.identity.apply(&self.service_account_issuers, &mut config.identity);
        let keys = &mut config.identity.accounts.jwks_uri;
        if let (None, Some(host)) = (&keys, &self.external_hostname) {
            *keys = Some(format!("https://{}/openid/v1/jwks", with_port(host, port)));
        }
        config.extra_names.clone_from(&self.tls_sans);
        self.admission.apply(&mut config.admission);
        self.audit.apply(config);
        self.proxy.apply(&mut config.proxy);
        self.fairness.apply(config);
        self.storage.apply(&mut config.storage);
        self.connections.apply(&mut config.connections);
        self.enablement.apply(&mut config.runtime);
    }
}

/// Names and values of all flags; several values have commas between them.
pub fn shown(command: &clap::Command, matches: &ArgMatches) -> BTreeMap<String, String> {
    let value = |id: &clap::Id| {
        let words = matches.get_raw(id.as_str()).into_iter().flatten();
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(",")
    };
    let named = command.get_arguments().filter_map(|flag| Some((flag.get_long()?, flag)));
    let known = named.filter(|(_, flag)| matches.ids().any(|id| id == flag.get_id()));
    let values = known.map(|(name, flag)| (name.to_owned(), value(flag.get_id())));
    values.collect()
}

/// A host with the port of this server, unless it has one of its own.
fn with_port(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) if host.contains(':') => host.to_owned(),
        Err(_) => format!("{host}:{port}"),
    }
}

/// First and last port of a range.
///
/// Source: `PortRange` in upstream `apimachinery/pkg/util/net/port_range.go`.
fn ports(text: &str) -> Result<(u16, u16), String> {
    let number = |text: &str| {
        text.trim().parse::<u16>().map_err(|_| format!("{text:?} is no port from 0 to 65535"))
    };
    let (first, last) = match (text.split_once('-'), text.split_once('+')) {
        (Some((first, last)), _) => (number(first)?, number(last)?),
        (None, Some((first, more))) => {
            let (first, more) = (number(first)?, number(more)?);
            (first, first.checked_add(more).ok_or("it ends beyond port 65535")?)
        }
        (None, None) => (number(text)?, number(text)?),
    };
    match first {
        0 => Err("a range of ports begins at 1 or later".to_owned()),
        _ if first > last => Err(format!("end port {last} is before start port {first}")),
        _ => Ok((first, last)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports_are_upstreams() {
        assert_eq!(ports("30000-32767"), Ok((30000, 32767)));
        assert_eq!(ports("30000+2767"), Ok((30000, 32767)));
        assert_eq!(ports("80"), Ok((80, 80)));
        for wrong in ["", "2-1", "0-1", "65535+1", "1-65536", "a-b"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_for_others_have_a_port() {
        assert_eq!(with_port("a.example", 6443), "a.example:6443");
        assert_eq!(with_port("a.example:443", 6443), "a.example:443");
        assert_eq!(with_port("fd00::1", 6443), "[fd00::1]:6443");
    }
}
