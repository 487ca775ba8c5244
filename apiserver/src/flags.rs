//! Flags that configure a server, the same for `kube-apiserver` alone and for `improv up`.
//!
//! Their names are upstream's wherever upstream has the flag. Each area brings a struct of its own, which is
//! flattened into [`Flags`], and says in `apply` what it means for the [`Config`].

use std::net::{IpAddr, SocketAddr};

use clap::Args;

use crate::handlers::proxy;
use crate::identity::flags::IdentityFlags;
use crate::{Config, admission, audit, fairness};

/// Everything that an operator may say about the server, wherever it runs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "API server")]
pub struct Flags {
    /// Address that others reach the server at; without it, the first one of this machine
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// Whether containers may be privileged; without it, in kube-apiserver no and in improv up yes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub allow_privileged: Option<bool>,
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
        self.identity.apply(&self.service_account_issuers, &mut config.identity);
        config.extra_names.clone_from(&self.tls_sans);
        self.admission.apply(&mut config.admission);
        self.audit.apply(config);
        self.proxy.apply(&mut config.proxy);
        self.fairness.apply(config);
        self.storage.apply(&mut config.storage);
    }
}
