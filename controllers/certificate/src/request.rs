//! What a certificate signing request asks for, and whether its signer may grant that.
//!
//! Source: kubernetes.io, "Certificates and Certificate Signing Requests", "Kubernetes signers".

use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

/// Signer of certificates that are clients of the API server.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signer of node agents' certificates as clients.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signer of node agents' certificates as servers.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signer of what had no signer's name once.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Group of all node agents.
pub const NODES: &str = "system:nodes";
/// What their names begin with.
pub const NODE: &str = "system:node:";

/// A signing request, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Common name.
    pub name: String,
    /// Organizations.
    pub groups: Vec<String>,
    /// DNS names and IP addresses.
    pub hosts: usize,
    /// E-mail addresses, URIs and other names.
    pub others: usize,
    /// `spec.usages`.
    pub usages: Vec<String>,
}

impl Asked {
    /// Reads the PEM text of a request. `None` if it does not parse, or is not signed by its own key.
    pub fn read(pem: &[u8], usages: &[String]) -> Option<Self> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem).ok()?;
        let (_, request) = X509CertificationRequest::from_der(&der).ok()?;
        let subject = &request.certification_request_info.subject;
        let mut asked = Self {
            name: subject.iter_common_name().last()?.as_str().ok()?.to_owned(),
            groups: subject
                .iter_organization()
                .filter_map(|o| o.as_str().ok().map(str::to_owned))
                .collect(),
            usages: usages.to_vec(),
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(_) | GeneralName::IPAddress(_) => asked.hosts += 1,
                    _ => asked.others += 1,
                }
            }
        }
        Some(asked)
    }

    /// Why `signer` does not sign this; `None` if it does.
    pub fn fault(&self, signer: &str) -> Option<&'static str> {
        let among = |allowed: &[&str]| self.usages.iter().all(|u| allowed.contains(&u.as_str()));
        let has = |usage: &str| self.usages.iter().any(|u| u == usage);
        let encipherment = ["key encipherment", "digital signature"];
        let client = [encipherment[0], encipherment[1], "client auth"];
        let server = [encipherment[0], encipherment[1], "server auth"];
        match signer {
            CLIENT if !(among(&client) && has("client auth")) => {
                Some("usages did not match [client auth, digital signature, key encipherment]")
            }
            KUBELET_CLIENT if !self.is_node() => Some("subject is not a node's"),
            KUBELET_CLIENT if self.hosts + self.others > 0 => {
                Some("DNS, IP, email and URI subject alternative names are not allowed")
            }
            KUBELET_CLIENT if !(among(&client) && has("client auth") && has(encipherment[1])) => {
                Some("usages did not match [client auth, digital signature, key encipherment]")
            }
            KUBELET_SERVING if !self.is_node() => Some("subject is not a node's"),
            KUBELET_SERVING if self.hosts == 0 => Some("DNS or IP subjectAltName is required"),
            KUBELET_SERVING if self.others > 0 => {
                Some("email and URI subject alternative names are not allowed")
            }
            KUBELET_SERVING if !(among(&server) && has("server auth") && has(encipherment[1])) => {
                Some("usages did not match [server auth, digital signature, key encipherment]")
            }
            _ => None,
        }
    }

    fn is_node(&self) -> bool {
        self.groups == [NODES] && self.name.len() > NODE.len() && self.name.starts_with(NODE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, hosts: usize, usages: &[&str]) -> Asked {
        Asked {
            name: name.to_owned(),
            groups: vec![NODES.to_owned()],
            hosts,
            others: 0,
            usages: usages.iter().map(|u| (*u).to_owned()).collect(),
        }
    }

    #[test]
    fn each_signer_has_its_rules() {
        let (client, server) =
            (["digital signature", "client auth"], ["digital signature", "server auth"]);
        #[track_caller]
        fn check(asked: &Asked, signer: &str, good: bool) {
            assert_eq!(asked.fault(signer).is_none(), good, "{signer} {asked:?}");
        }
        check(&asked("system:node:n1", 0, &client), KUBELET_CLIENT, true);
        check(&asked("system:node:", 0, &client), KUBELET_CLIENT, false);
        check(&asked("jane", 0, &client), KUBELET_CLIENT, false);
        check(&asked("system:node:n1", 1, &client), KUBELET_CLIENT, false);
        check(&asked("system:node:n1", 0, &server), KUBELET_CLIENT, false);
        let masters = Asked {
            groups: vec![NODES.into(), "system:masters".into()],
            ..asked("system:node:n1", 0, &client)
        };
        check(&masters, KUBELET_CLIENT, false);
        check(&asked("system:node:n1", 1, &server), KUBELET_SERVING, true);
        check(&asked("system:node:n1", 0, &server), KUBELET_SERVING, false);
        check(&asked("system:node:n1", 1, &client), KUBELET_SERVING, false);
        check(&asked("jane", 0, &client), CLIENT, true);
        check(&asked("jane", 0, &server), CLIENT, false);
        check(&asked("jane", 3, &server), LEGACY, true);
    }
}
