//! The node's kubeconfig: where the cluster is. Who the node is stands in the certificate's own file, which it names.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Config;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::store::write_private;
use super::{FileError, Pair, Store};

/// A kubeconfig that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to use {}", path.display())]
pub struct Unusable {
    /// The file.
    pub path: PathBuf,
    source: Box<KubeconfigError>,
}

/// What a kubeconfig says.
#[derive(Debug)]
pub struct Kept {
    /// The cluster, without a user.
    pub cluster: Config,
    /// The user's certificate and key, if it has both.
    pub pair: Option<Pair>,
}

/// Reads the current context of a kubeconfig.
///
/// # Errors
/// There is no such file, or it is none.
pub async fn read(path: &Path) -> Result<Kept, Unusable> {
    let mut cluster = read_with_user(path).await?;
    let user = std::mem::take(&mut cluster.auth_info);
    Ok(Kept { cluster, pair: pair_of(&user) })
}

/// As [`read`], with the user as it is.
///
/// # Errors
/// As [`read`].
pub async fn read_with_user(path: &Path) -> Result<Config, Unusable> {
    let unusable = |source| Unusable { path: path.to_owned(), source: Box::new(source) };
    let file = Kubeconfig::read_from(path).map_err(unusable)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(unusable)
}

fn pair_of(user: &AuthInfo) -> Option<Pair> {
    // The agent keeps both in one file.
    if let (Some(path), Some(key)) = (&user.client_certificate, &user.client_key)
        && path == key
    {
        return Store::at(Path::new(path)).read().ok().flatten();
    }
    let inline = |text: &str| String::from_utf8(STANDARD.decode(text).ok()?).ok();
    let file = |path: &Option<String>| std::fs::read_to_string(path.as_ref()?).ok();
    let certificate = match &user.client_certificate_data {
        Some(data) => inline(data),
        None => file(&user.client_certificate),
    }?;
    let key = match &user.client_key_data {
        Some(data) => inline(data.expose_secret()),
        None => file(&user.client_key),
    }?;
    Some(Pair { certificate, key })
}

/// Writes the kubeconfig of a node of `cluster` whose certificate is kept in `store`; only its owner may read it.
///
/// Source: the names are those that upstream's `pkg/kubelet/certificate/bootstrap` writes.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, cluster: &Config, store: &Store) -> Result<(), FileError> {
    let mut wanted = json!({ "server": cluster.cluster_url.to_string() });
    if cluster.root_cert.is_some() {
        wanted["certificate-authority-data"] = STANDARD.encode(authority(cluster)).into();
    }
    if cluster.accept_invalid_certs {
        wanted["insecure-skip-tls-verify"] = true.into();
    }
    if let Some(name) = &cluster.tls_server_name {
        wanted["tls-server-name"] = name.clone().into();
    }
    if let Some(proxy) = &cluster.proxy_url {
        wanted["proxy-url"] = proxy.to_string().into();
    }
    let pair = store.path();
    let context = json!({ "cluster": "default-cluster", "user": "default-auth" });
    let user = json!({ "client-certificate": pair, "client-key": pair });
    // JSON is YAML, and nobody edits this file.
    let file = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "default-cluster", "cluster": wanted }],
        "contexts": [{ "name": "default-context", "context": context }],
        "current-context": "default-context",
        "users": [{ "name": "default-auth", "user": user }],
    });
    write_private(path, &[&format!("{file:#}\n")])
}

/// The cluster's authority, in PEM.
pub fn authority(cluster: &Config) -> String {
    let pem = |der: &Vec<u8>| {
        let text = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    cluster.root_cert.iter().flatten().map(pem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, store) = (folder.path().join("k"), Store::new(&folder.path().join("pki"), "c"));
        let made = rcgen::generate_simple_self_signed(vec!["n".to_owned()]).unwrap();
        let pair = Pair { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() };
        let mut cluster = Config::new("https://c.example:6443/".parse().unwrap());
        cluster.root_cert = Some(vec![made.cert.der().to_vec()]);
        cluster.tls_server_name = Some("c".to_owned());
        write(&path, &cluster, &store).unwrap();
        // The certificate may come later, or be gone.
        assert_eq!(read(&path).await.unwrap().pair, None);
        store.write(&pair).unwrap();
        let kept = read(&path).await.unwrap();
        assert_eq!(kept.pair, Some(pair));
        assert_eq!(kept.cluster.cluster_url, cluster.cluster_url);
        assert_eq!(kept.cluster.root_cert, cluster.root_cert);
        assert_eq!(kept.cluster.tls_server_name, cluster.tls_server_name);
        assert!(kept.cluster.auth_info.client_certificate.is_none());
    }
}
