//! Who a node is: its certificate, from the first start on, and where its cluster is.

use std::path::PathBuf;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, Config};
use nodeagent::certificates::plan::Validity;
use nodeagent::certificates::{Pair, Store, bootstrap, kubeconfig};

use super::discovery::discover;
use super::told;
use crate::arguments::Join;
use crate::layout::Layout;
use crate::node;
use crate::process::progress;

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
    /// What the data folder holds of a node, whether that is still valid or not; `None` if it holds none.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) async fn kept(layout: &Layout) -> anyhow::Result<Option<Self>> {
        let store = Store::new(&layout.data.join(FOLDER), CLIENT);
        let Some(pair) = store.read()? else { return Ok(None) };
        let name = pair.node().context("the certificate that is kept is of no node")?;
        let kept = kubeconfig::read(&file(layout)).await;
        let cluster = kept.context("join again with a new --data-dir")?.cluster;
        Ok(Some(Self { name, cluster, pair, store }))
    }

    /// What the data folder holds, if that is still valid; else what the cluster gives for the token.
    ///
    /// # Errors
    /// There is nothing valid and no token, or the cluster refuses.
    pub(crate) async fn have(arguments: &Join, layout: &Layout) -> anyhow::Result<Self> {
        let store = Store::new(&layout.data.join(FOLDER), CLIENT);
        let kept = store.read()?;
        let name = name(arguments, kept.as_ref())?;
        if kept.as_ref().is_some_and(bootstrap::is_valid)
            && let Some(valid) = Self::kept(layout).await?
        {
            return Ok(valid);
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
        let pair = bootstrap::enrol(&client, &cluster, &name, &file(layout), &store).await;
        let pair = pair.map_err(|error| match &error {
            bootstrap::Error::Request(refusal) => told(refusal, &error),
            _ => error.into(),
        })?;
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
    match (said, kept.and_then(Pair::node)) {
        (Some(said), Some(kept)) if *said != kept => bail!(
            "--node-name {said}: this folder is of node {kept}; choose another --data-dir, or `improv down` first"
        ),
        (_, Some(kept)) => Ok(kept),
        (Some(said), None) => Ok(said.clone()),
        (None, None) => Ok(node::host_name()),
    }
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
