//! The controller on a real server, with only its own rights.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::time::Duration;

use apiserver::identity::tls::ClientAuthority;
use apiserver::testing::TestServer;
use certificate_controller::PLAYER;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kit::testing::{Playing, eventually, grant};
use kit::{InProcess, Options};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

fn request(name: &str, group: &str) -> CertificateSigningRequest {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
    params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n1");
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    CertificateSigningRequest {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: "kubernetes.io/kube-apiserver-client-kubelet".to_owned(),
            usages: Some(vec!["client auth".to_owned(), "digital signature".to_owned()]),
            expiration_seconds: Some(3600),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

#[tokio::test]
async fn a_bootstrapping_node_gets_its_certificate_and_nothing_more() {
    let server = TestServer::start().await.expect("a server");
    let user = grant(server.client(), &PLAYER).await.expect("rights");
    let pki = &server.server().core().pki;
    let options = Options::default()
        .set("signing-cert", pki.ca_certificate())
        .set("signing-key", pki.ca_key());
    let with = InProcess { options, ..InProcess::new(server.client_as(&user, &[]), "test") };
    let _playing = Playing::start_with(&PLAYER, with);
    let groups = ["create-csrs-for-bootstrapping", "auto-approve-csrs-for-group"];
    let roles = [
        "system:node-bootstrapper",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
    ];
    for (name, role) in groups.iter().zip(roles) {
        let binding: ClusterRoleBinding = serde_json::from_value(json!({
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "Group", "name": "system:bootstrappers" }],
        }))
        .unwrap();
        Api::all(server.client()).create(&PostParams::default(), &binding).await.unwrap();
    }
    let joining = server.client_as("system:bootstrap:abcdef", &["system:bootstrappers"]);
    let requests: Api<CertificateSigningRequest> = Api::all(joining);
    let post = PostParams::default();
    requests.create(&post, &request("bad", "system:masters")).await.unwrap();
    requests.create(&post, &request("good", "system:nodes")).await.unwrap();
    let pem = eventually(SOON, async || {
        let found = requests.get("good").await.unwrap();
        let issued = found.status.clone().and_then(|status| status.certificate);
        issued.ok_or_else(|| format!("{:?}", found.status))
    })
    .await;
    let chain = [CertificateDer::from_pem_slice(&pem.0).unwrap()];
    let user = ClientAuthority::new(pki).unwrap().user(&chain).expect("a user of the cluster");
    assert_eq!(
        (user.name.as_str(), user.groups.as_slice()),
        ("system:node:n1", ["system:nodes".to_owned()].as_slice())
    );
    let bad = requests.get("bad").await.unwrap().status.unwrap_or_default();
    assert!(bad.certificate.is_none() && bad.conditions.is_none(), "{bad:?}");
}
