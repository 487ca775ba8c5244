//! The binary starts from the command line that kubeadm writes into its static pod, with nothing taken away.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use apiserver::identity::Pki;
use apiserver::identity::pki::{Credential, ServerNames};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kit::testing::eventually;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use store::testing::{Etcd, ServerTls, free_port};

const SOON: Duration = Duration::from_secs(60);

/// Certificates and keys where kubeadm puts them, all of one authority, but for the front proxy's.
struct Files {
    pki: Pki,
    dir: PathBuf,
}

impl Files {
    fn write(dir: &Path) -> Self {
        let pki = Pki::open(None, &ServerNames::default()).unwrap();
        let files = Self { pki, dir: dir.to_owned() };
        let text = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        let pki = &files.pki;
        text("ca.crt", pki.ca_certificate());
        text("front-proxy-ca.crt", pki.front_proxy_ca_certificate());
        text("sa.key", pki.token_key());
        text("sa.pub", pki.token_public_key());
        files.credential("apiserver", pki.server());
        files.credential("apiserver-kubelet-client", pki.kubelet_client());
        files.credential("front-proxy-client", pki.front_proxy_client());
        files.credential("apiserver-etcd-client", &pki.client_cert("etcd-client", &[]).unwrap());
        let etcd = pki.server_cert("etcd", &[], &["127.0.0.1".to_owned()]).unwrap();
        files.credential("etcd-server", &etcd);
        files
    }

    fn credential(&self, name: &str, credential: &Credential) {
        std::fs::write(self.path(&format!("{name}.crt")), &credential.certificate).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), &credential.key).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// What kubeadm 1.36 writes, in its order.
///
/// Source: `getAPIServerCommand` in upstream `cmd/kubeadm/app/phases/controlplane/manifests.go`.
fn command_line(files: &Files, etcd: &str, port: u16) -> Vec<String> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", files.path(name).display());
    let word = str::to_owned;
    vec![
        word("--advertise-address=127.0.0.1"),
        word("--allow-privileged=true"),
        word("--authorization-mode=Node,RBAC"),
        file("client-ca-file", "ca.crt"),
        word("--enable-admission-plugins=NodeRestriction"),
        word("--enable-bootstrap-token-auth=true"),
        file("etcd-cafile", "ca.crt"),
        file("etcd-certfile", "apiserver-etcd-client.crt"),
        file("etcd-keyfile", "apiserver-etcd-client.key"),
        format!("--etcd-servers={etcd}"),
        file("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
        file("kubelet-client-key", "apiserver-kubelet-client.key"),
        word("--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname"),
        file("proxy-client-cert-file", "front-proxy-client.crt"),
        file("proxy-client-key-file", "front-proxy-client.key"),
        word("--requestheader-allowed-names=front-proxy-client"),
        file("requestheader-client-ca-file", "front-proxy-ca.crt"),
        word("--requestheader-extra-headers-prefix=X-Remote-Extra-"),
        word("--requestheader-group-headers=X-Remote-Group"),
        word("--requestheader-username-headers=X-Remote-User"),
        format!("--secure-port={port}"),
        word("--service-account-issuer=https://kubernetes.default.svc.cluster.local"),
        file("service-account-key-file", "sa.pub"),
        file("service-account-signing-key-file", "sa.key"),
        word("--service-cluster-ip-range=10.96.0.0/12"),
        file("tls-cert-file", "apiserver.crt"),
        file("tls-private-key-file", "apiserver.key"),
    ]
}

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn client(files: &Files, port: u16) -> Client {
    let url = format!("https://127.0.0.1:{port}");
    let text = files.pki.kubeconfig(&url, "admin", &["system:masters"]).unwrap();
    let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    Client::try_from(config).unwrap()
}

async fn text(client: &Client, path: &str) -> Result<String, kube::Error> {
    client.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await
}

async fn ready(client: &Client, process: &mut Process) {
    eventually(SOON, async || {
        assert!(process.0.try_wait().unwrap().is_none(), "the server has ended");
        text(client, "/readyz").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_of_kubeadm_starts_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::write(dir.path());
    let tls = ServerTls {
        ca: files.path("ca.crt"),
        certificate: files.path("etcd-server.crt"),
        key: files.path("etcd-server.key"),
    };
    let etcd = Etcd::start_with_tls(dir.path(), 1, tls).unwrap();
    let port = free_port().unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_kube-apiserver")]);
    command.args(command_line(&files, &etcd.endpoints().join(","), port));
    command.env("RUST_LOG", "warn").stdin(Stdio::null());
    let mut process = Process(command.spawn().unwrap());
    let client = client(&files, port).await;
    ready(&client, &mut process).await;

    // Extension servers believe the front proxy that kubeadm has made, and no other.
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let trust = maps.get("extension-apiserver-authentication").await.unwrap().data.unwrap();
    let lines = |pem: &str| pem.split_whitespace().collect::<String>();
    let authority = files.pki.front_proxy_ca_certificate();
    assert_eq!(lines(&trust["requestheader-client-ca-file"]), lines(authority));
    assert_eq!(lines(&trust["client-ca-file"]), lines(files.pki.ca_certificate()));
    assert_eq!(trust["requestheader-allowed-names"], "[\"front-proxy-client\"]");

    // Tokens are signed with the key that kubeadm has made, and privileged pods may be.
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "kube-system");
    let account = json!({ "metadata": { "name": "me" } });
    let account = serde_json::from_value(account).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let request = TokenRequest::default();
    let token = accounts.create_token_request("me", &PostParams::default(), &request).await;
    assert!(token.unwrap().status.unwrap().token.is_some_and(|token| !token.is_empty()));
    let keys = text(&client, "/openid/v1/jwks").await.unwrap();
    assert_eq!(keys.matches("\"kid\"").count(), 1, "{keys}");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "kube-system");
    let pod = json!({
        "metadata": { "name": "proxy" },
        "spec": { "serviceAccountName": "me", "containers": [
            { "name": "a", "image": "a", "securityContext": { "privileged": true } },
        ] },
    });
    let pod = serde_json::from_value(pod).unwrap();
    assert_eq!(pods.create(&PostParams::default(), &pod).await.unwrap().name_any(), "proxy");

    let flags = text(&client, "/flagz").await.unwrap();
    assert!(flags.contains(&format!("\nsecure-port={port}\n")), "{flags}");
    assert!(flags.contains("\nevent-ttl=1h\n"), "{flags}");
    assert!(text(&client, "/statusz").await.unwrap().contains("\nBinary version: 1.36.2\n"));
    let indicators = text(&client, "/metrics/slis").await.unwrap();
    assert!(indicators.contains("name=\"etcd\",type=\"readyz\"} 1\n"), "{indicators}");
}
