//! TLS for the server: client certificates are asked for, and judged per connection.
//!
//! The handshake only proves that a client holds the key of the certificate it shows. Whether the
//! cluster's authority vouches for it is asked afterwards ([`ClientAuthority::user`]), so that a
//! stranger gets `401 Unauthorized` as an answer and not a broken connection.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CipherSuite, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::pki::{self, Pki, to_der};
use crate::request::User;

/// Judges the certificates that clients show.
#[derive(Clone, Debug)]
pub struct ClientAuthority {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientAuthority {
    /// Trusts the cluster authority of `pki`.
    ///
    /// # Errors
    /// [`pki::Error::Tls`] if the authority's certificate cannot be used.
    pub fn new(pki: &Pki) -> Result<Self, pki::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(pki.ca_der().clone())?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), ring_provider())
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self { verifier })
    }

    /// The user that `chain` stands for: the common name, and the organizations as groups.
    ///
    /// `None` for a chain that the authority does not vouch for, that expired, or names nobody.
    pub fn user(&self, chain: &[CertificateDer<'_>]) -> Option<User> {
        let (leaf, intermediates) = chain.split_first()?;
        self.verifier.verify_client_cert(leaf, intermediates, UnixTime::now()).ok()?;
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().last()?.as_str().ok()?.to_owned();
        let groups = subject
            .iter_organization()
            .filter_map(|organization| organization.as_str().ok().map(str::to_owned))
            .collect();
        (!name.is_empty()).then(|| User { name, groups, ..User::default() })
    }
}

/// TLS settings of the server: its certificate, HTTP/2 and HTTP/1.1, client certificates optional.
///
/// # Errors
/// [`pki::Error::Tls`] if the certificate or key cannot be used.
pub fn server_config(
    pki: &Pki,
    authority: &ClientAuthority,
) -> Result<rustls::ServerConfig, pki::Error> {
    let (chain, key) = to_der(pki.server())?;
    let mut config = rustls::ServerConfig::builder_with_provider(ring_provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(PossessionOnly(authority.verifier.clone())))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // As Go's servers choose: long lists and watches cost a third less than with 256 bits.
    config.ignore_client_order = true;
    Ok(config)
}

/// ring's suites, AES with 128 bits before the others.
fn ring_provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    let preferred = CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != preferred);
    Arc::new(provider)
}

/// Accepts every certificate whose key the client proves to hold.
#[derive(Debug)]
struct PossessionOnly(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for PossessionOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::pki::ServerNames;

    fn chain(pki: &Pki, name: &str, groups: &[&str]) -> Vec<CertificateDer<'static>> {
        to_der(&pki.client_cert(name, groups).unwrap()).unwrap().0
    }

    #[test]
    fn name_and_organizations_become_user_and_groups() {
        let pki = Pki::open(None, &ServerNames::default()).unwrap();
        let authority = ClientAuthority::new(&pki).unwrap();
        let user = authority.user(&chain(&pki, "jane", &["dev", "ops"])).unwrap();
        assert_eq!(user.name, "jane");
        assert_eq!(user.groups, ["dev", "ops"]);
    }

    #[test]
    fn strangers_and_servers_are_nobody() {
        let pki = Pki::open(None, &ServerNames::default()).unwrap();
        let other = Pki::open(None, &ServerNames::default()).unwrap();
        let authority = ClientAuthority::new(&pki).unwrap();
        assert!(authority.user(&chain(&other, "jane", &["system:masters"])).is_none());
        assert!(authority.user(&to_der(pki.server()).unwrap().0).is_none());
        assert!(authority.user(&chain(&pki, "", &[])).is_none());
        assert!(authority.user(&[]).is_none());
    }
}
