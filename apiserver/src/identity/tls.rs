//! TLS for the server: client certificates are asked for, and judged per connection.
//!
//! The handshake only proves that a client holds the key of the certificate it shows. Whether the
//! cluster's authority vouches for it is asked afterwards ([`ClientAuthority::user`]), so that a
//! stranger gets `401 Unauthorized` as an answer and not a broken connection.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CipherSuite, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::file::Watched;
use super::options::ServingOptions;
use super::pki::{self, Pki, to_der};
use crate::request::User;

/// Judges the certificates that clients show.
#[derive(Clone, Debug)]
pub struct ClientAuthority {
    verifier: Arc<dyn ClientCertVerifier>,
    pem: Arc<str>,
}

impl ClientAuthority {
    /// Trusts the cluster authority of `pki`.
    ///
    /// # Errors
    /// [`pki::Error::Tls`] if the authority's certificate cannot be used.
    pub fn new(pki: &Pki) -> Result<Self, pki::Error> {
        Self::of_pem(pki.ca_certificate())
    }

    /// Trusts the authorities in PEM text.
    ///
    /// # Errors
    /// [`pki::Error::Tls`] if one cannot be used, or there is none.
    pub fn of_pem(pem: &str) -> Result<Self, pki::Error> {
        let unusable = |e: &dyn std::fmt::Display| rustls::Error::General(e.to_string());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.map_err(|e| unusable(&e))?)?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), ring_provider())
                .build()
                .map_err(|e| unusable(&e))?;
        Ok(Self { verifier, pem: pem.into() })
    }

    /// The authorities' certificates, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Whether the authority vouches for `chain` now.
    pub fn vouches_for(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        self.verifier.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok()
    }

    /// The user that `chain` stands for: the common name, the organizations as groups, and which certificate says so.
    ///
    /// `None` for a chain that the authority does not vouch for, that expired, or names nobody.
    pub fn user(&self, chain: &[CertificateDer<'_>]) -> Option<User> {
        let leaf = chain.first().filter(|_| self.vouches_for(chain))?;
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let groups = certificate
            .subject()
            .iter_organization()
            .filter_map(|organization| organization.as_str().ok().map(str::to_owned))
            .collect();
        let name = common_name(leaf).filter(|name| !name.is_empty())?;
        let digest: String =
            Sha256::digest(leaf).iter().map(|byte| format!("{byte:02x}")).collect();
        let credential = format!("X509SHA256={digest}");
        let extra =
            vec![("authentication.kubernetes.io/credential-id".to_owned(), vec![credential])];
        Some(User { name, groups, extra, ..User::default() })
    }
}

/// The last common name in a certificate's subject.
pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.subject().iter_common_name().last()?.as_str().ok()?.to_owned())
}

/// Until when a certificate is valid, in seconds since 1970.
pub(super) fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// TLS settings of a server with the certificate of `pki`, as [`config`] makes them.
///
/// # Errors
/// [`pki::Error::Tls`] if the certificate or key cannot be used.
pub fn server_config(
    pki: &Pki,
    authority: &ClientAuthority,
) -> Result<rustls::ServerConfig, pki::Error> {
    let own = Serving::of_pem(&pki.server().certificate, &pki.server().key)?;
    let certificates = Arc::new(Watched::fixed(Certificates { default: own, by_name: Vec::new() }));
    config(certificates, Arc::new(Watched::fixed(authority.clone())), &ServingOptions::default())
}

/// The oldest version of TLS that a server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MinVersion {
    /// TLS 1.2; older ones are never spoken.
    #[default]
    #[value(name = "VersionTLS12")]
    Tls12,
    /// TLS 1.3.
    #[value(name = "VersionTLS13")]
    Tls13,
}

/// A certificate that the server can show.
#[derive(Clone, Debug)]
pub struct Serving(Arc<CertifiedKey>);

impl Serving {
    /// The chain and its key in PEM text.
    ///
    /// # Errors
    /// [`pki::Error::Tls`] if they cannot be read, or do not belong together.
    pub fn of_pem(certificate: &str, key: &str) -> Result<Self, pki::Error> {
        let credential =
            pki::Credential { certificate: certificate.to_owned(), key: key.to_owned() };
        let (chain, key) = to_der(&credential)?;
        Ok(Self(Arc::new(CertifiedKey::from_der(chain, key, &ring_provider())?)))
    }

    /// The names in the certificate.
    fn names(&self) -> Vec<String> {
        let leaf = self.0.end_entity_cert().ok();
        let parsed = leaf.and_then(|leaf| X509Certificate::from_der(leaf).ok());
        parsed.map(|(_, leaf)| pki::hosts(&leaf).into_iter().collect()).unwrap_or_default()
    }
}

/// The certificates that the server shows, by the name that a client asks for.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// For names that no other certificate is for.
    pub default: Serving,
    /// Names, `*.` before them for one more label, with their certificates.
    pub by_name: Vec<(Vec<String>, Serving)>,
}

impl Certificates {
    fn choose(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let Some(name) = name else { return self.default.0.clone() };
        let parent = name.split_once('.').map(|(_, parent)| parent);
        let exact = |pattern: &String| pattern.eq_ignore_ascii_case(name);
        let wild = |pattern: &String| {
            let tail = pattern.strip_prefix("*.");
            tail.zip(parent).is_some_and(|(tail, parent)| tail.eq_ignore_ascii_case(parent))
        };
        let find = |fits: &dyn Fn(&String) -> bool| {
            self.by_name.iter().find(|(names, _)| names.iter().any(fits))
        };
        find(&exact).or_else(|| find(&wild)).map_or(&self.default, |(_, own)| own).0.clone()
    }

    /// Adds a certificate for `names`, or for those in it if there are none.
    pub fn add(&mut self, names: Vec<String>, serving: Serving) {
        let names = if names.is_empty() { serving.names() } else { names };
        self.by_name.push((names, serving));
    }
}

/// Chooses a certificate for each handshake from those in force then.
#[derive(Debug)]
struct Chooser(Arc<Watched<Certificates>>);

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.get().choose(hello.server_name()))
    }
}

/// TLS settings: HTTP/2 and HTTP/1.1, client certificates optional.
///
/// Certificates and the authorities that clients are told of are those in force at the handshake.
///
/// # Errors
/// [`pki::Error::Tls`] if the version is not supported.
pub fn config(
    certificates: Arc<Watched<Certificates>>,
    authority: Arc<Watched<ClientAuthority>>,
    options: &ServingOptions,
) -> Result<rustls::ServerConfig, pki::Error> {
    let versions: &[&rustls::SupportedProtocolVersion] = match options.min_version {
        MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let provider = match &options.cipher_suites {
        Some(suites) => restricted(suites),
        None => ring_provider(),
    };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(Arc::new(PossessionOnly(authority.get().verifier.clone())))
        .with_cert_resolver(Arc::new(Chooser(certificates)));
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

/// Of the suites of TLS 1.2, only these; those of TLS 1.3 are all good.
fn restricted(suites: &[CipherSuite]) -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider::clone(&ring_provider());
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some() || suites.contains(&suite.suite()));
    Arc::new(provider)
}

/// Accepts every certificate whose key the client proves to hold.
#[derive(Debug)]
struct PossessionOnly(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for PossessionOnly {
    /// None: clients of front proxies and of authorities that come later show theirs, too.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
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
        let [(key, values)] = user.extra.as_slice() else { panic!("{:?}", user.extra) };
        assert_eq!(key, "authentication.kubernetes.io/credential-id");
        assert_eq!(values[0].strip_prefix("X509SHA256=").map(str::len), Some(64));
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

    #[test]
    fn suites_can_be_chosen() {
        let one = CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384;
        let provider = restricted(&[one]);
        let old = provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none());
        assert_eq!(old.map(|suite| suite.suite()).collect::<Vec<_>>(), [one]);
        assert_eq!(provider.cipher_suites.len(), 4);
    }

    #[test]
    fn a_name_finds_its_certificate() {
        let pki = Pki::open(None, &ServerNames::default()).unwrap();
        let serving = |host: &str| {
            let made = pki.server_cert("s", &[], &[host.to_owned()]).unwrap();
            Serving::of_pem(&made.certificate, &made.key).unwrap()
        };
        let mut all = Certificates { default: serving("default"), by_name: Vec::new() };
        all.add(Vec::new(), serving("api.example.com"));
        all.add(vec!["*.example.com".to_owned()], serving("other"));
        #[track_caller]
        fn check(all: &Certificates, name: Option<&str>, expected: &str) {
            let chosen = Serving(all.choose(name));
            assert_eq!(chosen.names(), [expected], "{name:?}");
        }
        check(&all, None, "default");
        check(&all, Some("elsewhere.org"), "default");
        check(&all, Some("API.example.com"), "api.example.com");
        check(&all, Some("b.example.com"), "other");
        check(&all, Some("a.b.example.com"), "default");
    }
}
