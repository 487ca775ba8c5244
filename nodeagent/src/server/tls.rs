//! The server's certificate, and who its clients are.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Error;
use crate::certificates::Pair;
use crate::certificates::plan::Validity;
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

/// The certificate that handshakes show, which may change while the server runs.
#[derive(Debug)]
pub(crate) struct Shown {
    current: ArcSwap<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl Shown {
    /// Shows `pair` first.
    pub(super) fn new(pair: &Pair) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let current = ArcSwap::from_pointee(certified(pair, &provider)?);
        Ok(Self { current, provider })
    }

    /// Shows `pair` from now on.
    ///
    /// # Errors
    /// It cannot be used; the one before stays.
    pub(crate) fn show(&self, pair: &Pair) -> Result<(), Error> {
        self.current.store(Arc::new(certified(pair, &self.provider)?));
        Ok(())
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn certified(pair: &Pair, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect();
    let chain = chain.map_err(|e| bad("server certificate", &e))?;
    let key =
        PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|e| bad("server key", &e))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|e| bad("server certificate", &e))
}

fn bad(what: &str, reason: &dyn std::fmt::Display) -> Error {
    Error::Certificate { what: what.to_owned(), reason: reason.to_string() }
}

/// Settings for the server's side of TLS.
pub(super) fn config(config: &Config, shown: Arc<Shown>) -> Result<ServerConfig, Error> {
    let provider = shown.provider.clone();
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("protocol versions", &e))?;
    let builder = match &config.server.client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|e| bad("client CA", &e))?;
                roots.add(certificate).map_err(|e| bad("client CA", &e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|e| bad("client CA", &e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut tls = builder.with_cert_resolver(shown);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// The certificate to begin with: the one that the cluster signed, the one of the settings, or one that nobody
/// vouches for.
pub(super) fn first(config: &Config) -> Result<Pair, Error> {
    let kept = match &config.server.rotated {
        Some(store) => store.read().map_err(|e| bad("server certificate", &kit::chain(&e)))?,
        None => None,
    };
    let now = k8s_openapi::jiff::Timestamp::now();
    let is_valid = |pair: &Pair| {
        Validity::read(&pair.certificate).is_some_and(|validity| validity.includes(now))
    };
    match (kept.filter(is_valid), &config.server.certificate) {
        (Some(kept), _) => Ok(kept),
        (None, Some((certificate, key))) => {
            Ok(Pair { certificate: certificate.clone(), key: key.clone() })
        }
        (None, None) => self_signed(config),
    }
}

fn self_signed(config: &Config) -> Result<Pair, Error> {
    let mut names = vec![config.node_name.clone(), "localhost".to_owned()];
    names.extend(config.node_ips.iter().map(ToString::to_string));
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|e| bad("self-signed certificate", &e))?;
    Ok(Pair { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_show_the_newest_certificate_that_can_be_used() {
        let config = Config::new("n");
        let (first, second) = (self_signed(&config).unwrap(), self_signed(&config).unwrap());
        let shown = Shown::new(&first).unwrap();
        let is = |pair: &Pair| {
            let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
            shown.current.load().cert[0] == der
        };
        assert!(is(&first));
        shown.show(&second).unwrap();
        assert!(is(&second));
        let mixed = Pair { certificate: first.certificate.clone(), key: second.key.clone() };
        assert!(shown.show(&mixed).is_err() && is(&second));
    }
}
