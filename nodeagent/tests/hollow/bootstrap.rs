//! The agent as a program, which comes to a cluster with nothing but a kubeconfig to ask for a certificate with.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use apiserver::testing::TestServer;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use rcgen::{CertificateSigningRequestParams, Issuer, KeyPair};
use serde_json::json;

use crate::world::until;

const NODE: &str = "lone-1";
/// Life of the first certificate: it is renewed after 3.5 to 4.5 s.
const SHORT: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(3600);

/// A process that is killed when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// An agent that finds its files, and only them, in `folder`.
fn agent(folder: &Path) -> Killed {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubelet"));
    command.arg("--runtime=hollow").arg("--bind=127.0.0.1:0").arg("--node-ip=127.0.0.1");
    command.arg(format!("--hostname-override={NODE}")).arg("--rotate-certificates");
    for (flag, name) in [
        ("kubeconfig", "kubeconfig"),
        ("bootstrap-kubeconfig", "bootstrap"),
        ("cert-dir", "pki"),
        ("root-dir", "root"),
        ("run-dir", "run"),
        ("pod-logs-dir", "logs"),
    ] {
        command.arg(format!("--{flag}={}", folder.join(name).display()));
    }
    Killed(command.stdout(Stdio::null()).spawn().unwrap())
}

/// Approves and signs the next request, in place of the player that does so.
async fn sign(server: &TestServer, client: &Client, life: Duration) {
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let open = until("a request comes", async || {
        let all = requests.list(&ListParams::default()).await.unwrap();
        all.into_iter()
            .find(|request| request.status.as_ref().is_none_or(|s| s.conditions.is_none()))
    })
    .await;
    assert_eq!(open.spec.signer_name, "kubernetes.io/kube-apiserver-client-kubelet");
    let pki = &server.server().core().pki;
    let issuer =
        Issuer::from_ca_cert_pem(pki.ca_certificate(), KeyPair::from_pem(&pki.ca_key()).unwrap());
    let pem = String::from_utf8(open.spec.request.0.clone()).unwrap();
    let mut asked = CertificateSigningRequestParams::from_pem(&pem).unwrap();
    let now = SystemTime::now();
    asked.params.not_before = now.into();
    asked.params.not_after = (now + life).into();
    let signed = asked.signed_by(&issuer.unwrap()).unwrap().pem();
    let condition = json!({ "type": "Approved", "status": "True", "reason": "Test" });
    let approved = json!({ "status": { "conditions": [condition] } });
    let (name, params) = (open.name_any(), PatchParams::default());
    requests.patch_approval(&name, &params, &Patch::Merge(&approved)).await.unwrap();
    let issued = json!({ "status": { "certificate": ByteString(signed.into_bytes()) } });
    requests.patch_status(&name, &params, &Patch::Merge(&issued)).await.unwrap();
}

#[tokio::test]
async fn a_lone_agent_asks_for_its_certificate_and_renews_it() {
    let server = TestServer::builder()
        .with_socket()
        .configure(|config| config.proxy.allow_loopback_nodes = true)
        .start()
        .await
        .unwrap();
    let client = server.client();
    let nodes: Api<Node> = Api::all(client.clone());
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = folder.path().join("bootstrap");
    std::fs::write(&bootstrap, server.server().kubeconfig("system:admin").unwrap()).unwrap();

    let running = agent(folder.path());
    sign(&server, &client, SHORT).await;
    until("the node registers", async || nodes.get_opt(NODE).await.unwrap()).await;
    let kubeconfig = std::fs::read_to_string(folder.path().join("kubeconfig")).unwrap();
    let pair = folder.path().join("pki/kubelet-client-current.pem");
    assert!(kubeconfig.contains(pair.to_str().unwrap()), "{kubeconfig}");
    let first = std::fs::read_to_string(&pair).unwrap();

    sign(&server, &client, LONG).await;
    until("the certificate is renewed", async || {
        (std::fs::read_to_string(&pair).unwrap() != first).then_some(())
    })
    .await;
    drop(running);

    // The next start needs no leave to ask.
    std::fs::remove_file(&bootstrap).unwrap();
    nodes.delete(NODE, &DeleteParams::default()).await.unwrap();
    let _running = agent(folder.path());
    until("the node registers again", async || nodes.get_opt(NODE).await.unwrap()).await;
}
