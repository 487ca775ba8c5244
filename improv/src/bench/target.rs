//! Where the load goes: a server and the credentials for it, as a kubeconfig names them.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret as _;

/// A server under test.
#[derive(Clone)]
pub(crate) struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its name in certificates.
    pub name: ServerName<'static>,
    /// The `Host` of requests.
    pub host: String,
    /// The `Authorization` of requests, where the credential is a token.
    pub authorization: Option<String>,
    /// Trust, and the client certificate if the credential is one.
    pub tls: Arc<ClientConfig>,
}

impl Target {
    /// The server of a kubeconfig's current context.
    ///
    /// # Errors
    /// If the file cannot be read, or its server not be resolved.
    pub(crate) async fn open(kubeconfig: Option<&Path>) -> anyhow::Result<Self> {
        let file = match kubeconfig {
            Some(path) => Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read {}", path.display()))?,
            None => Kubeconfig::read()
                .context("cannot read a kubeconfig; name one with --kubeconfig")?,
        };
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await?;
        let url = &config.cluster_url;
        let host = url.host().context("the kubeconfig's server has no host")?;
        if url.scheme_str() != Some("https") {
            bail!("{url} is not reached over https, which is all that `improv bench` speaks");
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = (bare, url.port_u16().unwrap_or(443)).to_socket_addrs()?.next();
        let address = address.with_context(|| format!("{host} has no address"))?;
        let name = config.tls_server_name.clone().unwrap_or_else(|| bare.to_owned());
        let mut tls = config.rustls_client_config()?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            address,
            name: ServerName::try_from(name)?,
            host: url.authority().map_or(host, |a| a.as_str()).to_owned(),
            authorization: authorization(&config)?,
            tls: Arc::new(tls),
        })
    }

    /// Whether the load stays on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.address.ip().is_loopback()
    }
}

fn authorization(config: &kube::Config) -> anyhow::Result<Option<String>> {
    let auth = &config.auth_info;
    let token = match (&auth.token, &auth.token_file) {
        (Some(token), _) => token.expose_secret().to_owned(),
        (None, Some(file)) => {
            std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(format!("Bearer {}", token.trim())))
}
