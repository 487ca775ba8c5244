//! The server's certificate, and who its clients are.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Error;
use crate::config::Config;

/// Who a client's certificate says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Caller {
    /// Common name.
    pub(super) user: String,
    /// Organizations.
    pub(super) groups: Vec<String>,
}

impl Caller {
    /// Reads a certificate that the handshake has verified.
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = parsed.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject
            .iter_organization()
            .filter_map(|o| o.as_str().ok())
            .map(str::to_owned)
            .collect();
        Some(Self { user, groups })
    }
}

/// Settings for the server's side of TLS.
pub(super) fn config(config: &Config, names: Vec<String>) -> Result<ServerConfig, Error> {
    let bad = |what: &str| {
        let what = what.to_owned();
        move |e: &dyn std::fmt::Display| Error::Certificate { what, reason: e.to_string() }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("protocol versions")(&e))?;
    let builder = match &config.server.client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|e| bad("client CA")(&e))?;
                roots.add(certificate).map_err(|e| bad("client CA")(&e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|e| bad("client CA")(&e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let (chain, key) = match &config.server.certificate {
        Some((chain, key)) => (chain.clone(), key.clone()),
        None => self_signed(names)?,
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let chain = chain.map_err(|e| bad("server certificate")(&e))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| bad("server key")(&e))?;
    let mut tls =
        builder.with_single_cert(chain, key).map_err(|e| bad("server certificate")(&e))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

fn self_signed(names: Vec<String>) -> Result<(String, String), Error> {
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|e| Error::Certificate { what: "self-signed".into(), reason: e.to_string() })?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}
