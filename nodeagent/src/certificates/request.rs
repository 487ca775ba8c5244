//! Asks the cluster for a certificate, by a CertificateSigningRequest with a key of its own.

use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client, ResourceExt as _};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::Pair;

/// Longest wait for somebody who approves and somebody who signs.
///
/// Source: `certificateWaitTimeout` in upstream `client-go/util/certificate/certificate_manager.go`.
const PATIENCE: Duration = Duration::from_mins(15);
/// After this time it is told for whom one waits.
const TELL_AFTER: Duration = Duration::from_secs(5);

/// Who signs, and so what the certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The agent as a client of the API server; approved by itself.
    Client,
    /// The agent as a server; a person, or a controller of the operator's, approves it.
    Serving,
}

impl Signer {
    /// The name that the API knows.
    ///
    /// Source: kubernetes.io, "Certificates and Certificate Signing Requests", "Kubernetes signers".
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    fn usages(self) -> Vec<String> {
        let auth = match self {
            Self::Client => "client auth",
            Self::Serving => "server auth",
        };
        // No key encipherment: the keys are of elliptic curves.
        ["digital signature", auth].map(str::to_owned).to_vec()
    }
}

/// The certificate that is wanted.
#[derive(Clone, Debug)]
pub struct Request {
    /// Name of the Node.
    pub node: String,
    /// What it is for.
    pub signer: Signer,
    /// Names and addresses in it; none for a client.
    pub hosts: Vec<String>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Key or request cannot be made.
    #[error("failed to make a certificate signing request for {node}")]
    Make {
        /// Name of the Node.
        node: String,
        /// Why.
        source: rcgen::Error,
    },
    /// The API server refuses.
    #[error("failed to {operation} the certificate signing request of {node}")]
    Api {
        /// What was tried.
        operation: &'static str,
        /// Name of the Node.
        node: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The watch on the request failed.
    #[error("failed to follow certificate signing request {name}")]
    Watch {
        /// Name of the request.
        name: String,
        /// Why.
        source: Box<kube::runtime::watcher::Error>,
    },
    /// Somebody decided against it.
    #[error("certificate signing request {name} is {decision}: {message}")]
    Refused {
        /// Name of the request.
        name: String,
        /// The condition's type, in lower case.
        decision: String,
        /// What was said about it.
        message: String,
    },
    /// Nobody decided.
    #[error(
        "certificate signing request {name} was not answered within {PATIENCE:?}; approve it with \
         `kubectl certificate approve {name}`"
    )]
    Unanswered {
        /// Name of the request.
        name: String,
    },
}

/// Asks for a certificate with a new key, and waits for it.
///
/// # Errors
/// It is refused, or nobody answers.
pub async fn obtain(client: &Client, wanted: &Request) -> Result<Pair, Error> {
    let (pem, key) =
        request(wanted).map_err(|source| Error::Make { node: wanted.node.clone(), source })?;
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let body = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: wanted.signer.name().to_owned(),
            usages: Some(wanted.signer.usages()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let made = requests.create(&PostParams::default(), &body).await.map_err(|source| {
        Error::Api { operation: "create", node: wanted.node.clone(), source: Box::new(source) }
    })?;
    let name = made.name_any();
    let told = async {
        tokio::time::sleep(TELL_AFTER).await;
        let signer = wanted.signer.name();
        tracing::info!(name, signer, "waiting for the certificate signing request's approval");
        std::future::pending().await
    };
    tokio::select! {
        answer = tokio::time::timeout(PATIENCE, answer(requests, &name)) => match answer {
            Ok(certificate) => Ok(Pair { certificate: certificate?, key }),
            Err(_) => Err(Error::Unanswered { name: name.clone() }),
        },
        never = told => never,
    }
}

/// The certificate, once it is issued.
async fn answer(api: Api<CertificateSigningRequest>, name: &str) -> Result<String, Error> {
    let failed = |source| Error::Watch { name: name.to_owned(), source: Box::new(source) };
    let gone = || Error::Refused {
        name: name.to_owned(),
        decision: "deleted".to_owned(),
        message: "it was there a moment ago".to_owned(),
    };
    let stream = watch_object(api, name).default_backoff();
    let mut stream = std::pin::pin!(stream);
    while let Some(request) = stream.try_next().await.map_err(failed)? {
        let Some(request) = request else { return Err(gone()) };
        if let Some(certificate) = issued(&request)? {
            return Ok(certificate);
        }
    }
    Err(gone())
}

/// What was decided about a request: the certificate, nothing yet, or an error.
fn issued(request: &CertificateSigningRequest) -> Result<Option<String>, Error> {
    let Some(status) = &request.status else { return Ok(None) };
    for condition in status.conditions.iter().flatten() {
        if matches!(condition.type_.as_str(), "Denied" | "Failed") {
            return Err(Error::Refused {
                name: request.name_any(),
                decision: condition.type_.to_lowercase(),
                message: condition.message.clone().unwrap_or_default(),
            });
        }
    }
    let pem = status.certificate.as_ref().map(|bytes| String::from_utf8_lossy(&bytes.0));
    Ok(pem.filter(|pem| !pem.is_empty()).map(std::borrow::Cow::into_owned))
}

/// Request and key, in PEM.
fn request(wanted: &Request) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(wanted.hosts.clone())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    let name = format!("system:node:{}", wanted.node);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    Ok((params.serialize_request(&key)?.pem()?, key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(status: Value, expected: Result<Option<&str>, &str>) {
        let mut request = json!({ "metadata": { "name": "csr-1" }, "status": status });
        request["spec"] = json!({ "request": "", "signerName": "" });
        let request = serde_json::from_value(request).unwrap();
        let got = issued(&request).map_err(|error| error.to_string());
        assert_eq!(got, expected.map(|text| text.map(str::to_owned)).map_err(str::to_owned));
    }

    #[test]
    fn a_decision_is_waited_for() {
        let condition = |kind: &str| json!([{ "type": kind, "status": "True", "message": "m" }]);
        check(Value::Null, Ok(None));
        check(json!({ "conditions": condition("Approved") }), Ok(None));
        check(json!({ "conditions": condition("Approved"), "certificate": "Yw==" }), Ok(Some("c")));
        let denied = "certificate signing request csr-1 is denied: m";
        check(json!({ "conditions": condition("Denied") }), Err(denied));
        let failed = "certificate signing request csr-1 is failed: m";
        check(json!({ "conditions": condition("Failed") }), Err(failed));
    }
}
