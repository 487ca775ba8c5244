//! Finds a cluster and makes sure that it is the right one: its description is signed with the token, and its
//! authority has the public key that the operator said.
//!
//! Source: kubernetes.io, "kubeadm join", "Token-based discovery with CA pinning".

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use bootstrap_token_controller::jws;
use bootstrap_token_controller::plan::{CLUSTER_INFO, Data, KUBECONFIG, PUBLIC, SIGNATURE};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest, Sha256};

use super::told;
use crate::token::Token;

/// How long the signature by a token may take that was made just now.
const SIGNED_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks for it.
const LOOK: Duration = Duration::from_millis(500);

/// Hash of an authority's public key, as `sha256:<hex>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pin([u8; 32]);

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not of the form sha256:<64 hexadecimal digits>");
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.is_ascii()).ok_or_else(wrong)?;
        let digit = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(digit).collect();
        let hash = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)?;
        Ok(Self(hash))
    }
}

impl std::fmt::Display for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Pin {
    /// Those of the certificates in PEM text.
    ///
    /// # Errors
    /// One cannot be read.
    pub(crate) fn of_pem(pem: &[u8]) -> anyhow::Result<Vec<Self>> {
        CertificateDer::pem_slice_iter(pem).map(|der| Self::of_der(&der?)).collect()
    }

    fn of_der(der: &[u8]) -> anyhow::Result<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der)?;
        Ok(Self(Sha256::digest(certificate.public_key().raw).into()))
    }
}

/// Finds the cluster that `server` belongs to, and gives how it is reached. Without `pins`, whoever knows the
/// token is believed.
///
/// # Errors
/// It cannot be asked, does not know the token, or is not the right one.
pub(crate) async fn discover(server: &str, token: &Token, pins: &[Pin]) -> anyhow::Result<Config> {
    let url = if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
    let uri: http::Uri = url
        .parse()
        .with_context(|| format!("--server {server} is no address such as 10.0.0.1:6443"))?;
    let mut stranger = Config::new(uri.clone());
    stranger.accept_invalid_certs = true; // What it says is signed, and checked again below.
    let text = signed(&stranger, &url, token).await?;
    let read = Kubeconfig::from_yaml(&text).context("cluster-info holds no kubeconfig")?;
    let cluster = cluster(read).await?;
    let authority = cluster.root_cert.clone().unwrap_or_default();
    if pins.is_empty() {
        return Ok(cluster);
    }
    check_pins(&authority, pins)?;
    let mut known = Config::new(uri);
    known.root_cert = Some(authority);
    if signed(&known, &url, token)
        .await
        .context("asked again with the authority that it told of")?
        != text
    {
        bail!("{url} told two different things about the cluster; somebody stands between");
    }
    Ok(cluster)
}

/// The cluster of a kubeconfig that has no context and no user.
async fn cluster(mut read: Kubeconfig) -> anyhow::Result<Config> {
    let name = read.clusters.first().context("cluster-info names no cluster")?.name.clone();
    read.contexts.clear();
    read.auth_infos.clear();
    let context =
        serde_json::json!({ "name": "join", "context": { "cluster": name, "user": "join" } });
    read.contexts.push(serde_json::from_value(context)?);
    read.auth_infos.push(serde_json::from_value(serde_json::json!({ "name": "join" }))?);
    read.current_context = Some("join".to_owned());
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(read, &options).await.context("cluster-info cannot be used")
}

/// The kubeconfig in `cluster-info`, with the token's signature.
async fn signed(config: &Config, url: &str, token: &Token) -> anyhow::Result<String> {
    let mut config = config.clone();
    config.connect_timeout = Some(Duration::from_secs(10));
    let maps: Api<ConfigMap> = Api::namespaced(Client::try_from(config)?, PUBLIC);
    let deadline = tokio::time::Instant::now() + SIGNED_WITHIN;
    loop {
        let map = maps.get(CLUSTER_INFO).await.map_err(|error| refusal(url, &error))?;
        match verified(&map.data.unwrap_or_default(), token) {
            Err(Doubt::Unsigned) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LOOK).await;
            }
            Err(doubt) => bail!("{url}: {}", doubt.explain(token)),
            Ok(text) => return Ok(text),
        }
    }
}

fn refusal(url: &str, error: &kube::Error) -> anyhow::Error {
    let remedy = match error {
        kube::Error::Api(status) if status.code == 404 => {
            "it is not set up for nodes to join; `improv up` does that"
        }
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
            "it tells strangers nothing; anonymous requests must be allowed, at least for cluster-info"
        }
        _ => "is --server the API server's address, and can it be reached from here?",
    };
    told(error, format!("cannot ask {url} for {PUBLIC}/{CLUSTER_INFO} ({remedy})"))
}

/// Why `cluster-info` is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// It holds nothing.
    Empty,
    /// The token has not signed it.
    Unsigned,
    /// It was signed with another secret.
    Forged,
}

impl Doubt {
    fn explain(self, token: &Token) -> String {
        let id = &token.id;
        match self {
            Self::Empty => {
                format!("{CLUSTER_INFO} has no entry {KUBECONFIG}; does `improv up` run there?")
            }
            Self::Unsigned => format!(
                "it does not know the token {id:?}, or the token is over; make one with `improv token create` there"
            ),
            Self::Forged => format!(
                "its {CLUSTER_INFO} was not signed with this token {id:?}: the secret part is wrong, or it is \
                 another cluster"
            ),
        }
    }
}

/// The kubeconfig in `cluster-info`, if the token has signed it.
fn verified(data: &Data, token: &Token) -> Result<String, Doubt> {
    let text = data.get(KUBECONFIG).filter(|text| !text.is_empty()).ok_or(Doubt::Empty)?;
    let signature = data.get(&format!("{SIGNATURE}{}", token.id)).ok_or(Doubt::Unsigned)?;
    match jws::verifies(signature, text, &token.id, token.secret()) {
        true => Ok(text.clone()),
        false => Err(Doubt::Forged),
    }
}

/// Whether one of the cluster's authorities has one of the public keys; `authorities` in DER.
fn check_pins(authorities: &[Vec<u8>], pins: &[Pin]) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for der in authorities {
        let pin = Pin::of_der(der)?;
        if pins.contains(&pin) {
            return Ok(());
        }
        found.push(pin.to_string());
    }
    bail!(
        "the cluster's authority has the public key {}, which is none of --discovery-token-ca-cert-hash: another \
         cluster answers at --server, or the hash is of an older authority",
        found.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "abcdef.0123456789abcdef";

    #[test]
    fn what_the_token_signed_is_believed() {
        let token: Token = TOKEN.parse().unwrap();
        let entry = |id: &str, text: &str| {
            let signature = jws::sign(text, id, "0123456789abcdef").unwrap();
            (format!("{SIGNATURE}{id}"), signature)
        };
        let data = |entries: &[(String, String)]| -> Data {
            let text = (KUBECONFIG.to_owned(), "k".to_owned());
            entries.iter().cloned().chain([text]).collect()
        };
        let check = |data: &Data, expected: Result<&str, Doubt>| {
            assert_eq!(verified(data, &token), expected.map(str::to_owned));
        };
        check(&data(&[entry("abcdef", "k")]), Ok("k"));
        check(&data(&[entry("abcdef", "other")]), Err(Doubt::Forged));
        check(&data(&[entry("fedcba", "k")]), Err(Doubt::Unsigned));
        check(&Data::new(), Err(Doubt::Empty));
    }

    #[test]
    fn an_authority_is_known_by_its_public_key() {
        let made = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
        let der = made.cert.der().to_vec();
        let pins = Pin::of_pem(made.cert.pem().as_bytes()).unwrap();
        let text = pins[0].to_string();
        assert_eq!(text.parse::<Pin>().unwrap(), pins[0]);
        check_pins(std::slice::from_ref(&der), &pins).unwrap();
        let other = Pin([0; 32]);
        let refusal = check_pins(&[der], &[other]).unwrap_err().to_string();
        assert!(refusal.contains(&text), "{refusal}");
    }

    #[test]
    fn hashes_have_one_form() {
        for text in ["", "sha256:", "sha256:ab", "md5:ab", &format!("sha256:{}", "x".repeat(64))] {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
    }
}
