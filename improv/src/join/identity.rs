//! Who a node is: its certificate, from the first start on, and where its cluster is.

use std::path::PathBuf;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kit::chart::to_yaml;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use nodeagent::certificates::plan::Validity;
use nodeagent::certificates::{Pair, Request, Signer, Store, obtain};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

use super::discovery::discover;
use super::told;
use crate::arguments::Join;
use crate::layout::Layout;
use crate::node;
use crate::process::{progress, write_private};

/// Folder of the certificates.
const FOLDER: &str = "pki";
/// The agent's certificate and key as a client; named as the kubelet names it.
const CLIENT: &str = "kubelet-client-current.pem";
/// The same as a server.
const SERVING: &str = "kubelet-server-current.pem";

/// What a node needs to talk to its cluster.
pub(crate) struct Identity {
    /// Name of the Node.
    pub name: String,
    /// The cluster, without a user.
    pub cluster: Config,
    /// Certificate and key.
    pub pair: Pair,
    /// Where they are kept.
    pub store: Store,
}

/// Where the agent's serving certificate is kept.
#[must_use]
pub(crate) fn serving_store(layout: &Layout) -> Store {
    Store::new(&layout.data.join(FOLDER), SERVING)
}

impl Identity {
    /// What the data folder holds, if that is still valid; else what the cluster gives for the token.
    ///
    /// # Errors
    /// There is nothing valid and no token, or the cluster refuses.
    pub(crate) async fn have(arguments: &Join, layout: &Layout) -> anyhow::Result<Self> {
        let store = Store::new(&layout.data.join(FOLDER), CLIENT);
        let kept = store.read()?;
        let name = name(arguments, kept.as_ref())?;
        if let Some(pair) = &kept
            && Validity::read(&pair.certificate).is_some_and(|v| v.includes(Timestamp::now()))
        {
            let cluster = read(layout).await?;
            return Ok(Self { name, cluster, pair: pair.clone(), store });
        }
        let (Some(server), Some(token)) = (&arguments.server, &arguments.token) else {
            let until = kept.and_then(|pair| Validity::read(&pair.certificate)).map(|v| v.until);
            let why = match until {
                Some(until) => format!("the certificate of node {name} was valid until {until}"),
                None => format!("{} holds no node", layout.data.display()),
            };
            bail!(
                "{why}: --server and --token are needed; `improv token create --print-join-command` on the \
                 cluster's machine prints them"
            );
        };
        let pins = &arguments.ca_cert_hashes;
        if pins.is_empty() && !arguments.discovery_token_unsafe_skip_ca_verification {
            bail!(
                "without --discovery-token-ca-cert-hash, whoever knows the token could pass for the cluster; give \
                 it, or --discovery-token-unsafe-skip-ca-verification"
            );
        }
        let cluster = discover(server, token, pins).await?;
        progress(&format!("cluster found at {}", cluster.cluster_url));
        let mut with_token = cluster.clone();
        with_token.auth_info.token = Some(token.reveal().into());
        let client = Client::try_from(with_token)?;
        check_name(&client, &name).await?;
        let request = Request { node: name.clone(), signer: Signer::Client, hosts: Vec::new() };
        let pair = obtain(&client, &request).await;
        let pair = pair.map_err(|e| told(&e, "the node gets no certificate"))?;
        write(layout, &cluster, &store)?;
        store.write(&pair)?;
        progress(&format!("certificate of node {name} issued"));
        Ok(Self { name, cluster, pair, store })
    }
}

/// The name that was said, that of the kept certificate, or the machine's.
fn name(arguments: &Join, kept: Option<&Pair>) -> anyhow::Result<String> {
    let said = arguments.node_name.as_ref();
    if let Some(said) = said.filter(|name| !node::is_name(name)) {
        bail!(
            "--node-name {said:?} is no name of a node: a-z, 0-9, - and . only, letters and digits at the ends"
        );
    }
    match (said, kept.and_then(|pair| node_of(&pair.certificate))) {
        (Some(said), Some(kept)) if *said != kept => bail!(
            "--node-name {said}: this folder is of node {kept}; choose another --data-dir, or `improv down` first"
        ),
        (_, Some(kept)) => Ok(kept),
        (Some(said), None) => Ok(said.clone()),
        (None, None) => Ok(node::host_name()),
    }
}

/// The node that a certificate is of.
fn node_of(pem: &str) -> Option<String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    name.strip_prefix("system:node:").map(str::to_owned)
}

/// Two machines with one name would take each other's pods.
async fn check_name(client: &Client, name: &str) -> anyhow::Result<()> {
    let found = Api::<Node>::all(client.clone()).get_opt(name).await;
    let found = match found {
        // A token of other groups may ask for a certificate all the same.
        Err(kube::Error::Api(status)) if status.is_forbidden() => None,
        found => found.map_err(|e| {
            told(&e, "cannot ask for nodes with the token (has it the usage authentication?)")
        })?,
    };
    if node::is_ready(found.as_ref()) {
        bail!(
            "a node {name} is there and ready; choose another --node-name, or delete that Node first"
        );
    }
    Ok(())
}

/// The node's kubeconfig, named as kubeadm names it.
fn file(layout: &Layout) -> PathBuf {
    layout.data.join("kubelet.conf")
}

async fn read(layout: &Layout) -> anyhow::Result<Config> {
    let path = file(layout);
    let told = || format!("cannot use {}; join again with a new --data-dir", path.display());
    let read = Kubeconfig::read_from(&path).with_context(told)?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    let mut config = config.with_context(told)?;
    config.auth_info = kube::config::AuthInfo::default(); // The certificate comes from the store, and changes.
    Ok(config)
}

/// The cluster's authority, in PEM.
#[must_use]
pub(crate) fn authority(cluster: &Config) -> String {
    use base64::Engine as _;
    let pem = |der: &Vec<u8>| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    cluster.root_cert.iter().flatten().map(pem).collect()
}

fn write(layout: &Layout, cluster: &Config, store: &Store) -> anyhow::Result<()> {
    use base64::Engine as _;
    let ca = base64::engine::general_purpose::STANDARD.encode(authority(cluster));
    let cluster =
        json!({ "server": cluster.cluster_url.to_string(), "certificate-authority-data": ca });
    let pair = store.path();
    let text = to_yaml(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "improv", "cluster": cluster }],
        "contexts": [{ "name": "node", "context": { "cluster": "improv", "user": "node" } }],
        "current-context": "node",
        "users": [{ "name": "node", "user": { "client-certificate": pair, "client-key": pair } }],
    }))?;
    write_private(&file(layout), &text).map(drop)
}
