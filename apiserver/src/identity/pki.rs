//! The cluster's certificates and keys: made at first start, reused afterwards.
//!
//! Two authorities (one for the cluster, one for the aggregation layer), the certificates that the
//! server itself shows, and the key that signs service-account tokens. The files are named as
//! kubeadm names them, so that tools which look for those find them. Without a directory all of it
//! lives in memory, which is what tests want.

mod files;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use files::Files;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How long an authority is valid: ten years, as kubeadm has it.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long any other certificate is valid: one year, as kubeadm has it.
const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// A certificate with less than this left is made anew at the next start.
const RENEW_BEFORE: Duration = Duration::from_secs(60 * 24 * 3600);

/// Certificates start to be valid a little in the past, so that clocks may differ.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// X.520 organizationName, spelled out because one name holds each of rcgen's types only once.
const ORGANIZATION_OID: &[u64] = &[2, 5, 4, 10];

/// What went wrong while making or reading certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("failed to {operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file's content is no key or certificate, or does not fit its counterpart.
    #[error("{} {problem}; restore it from a backup, or remove {remedy} to have new ones made (existing clients then need new credentials)", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// The files to remove.
        remedy: String,
    },
    /// A certificate could not be made.
    #[error("failed to issue the certificate of {subject}")]
    Issue {
        /// Common name of the certificate.
        subject: String,
        /// Why it failed.
        source: rcgen::Error,
    },
    /// More groups were asked for than a certificate made here can carry.
    #[error("a certificate can carry at most 2 groups, {subject} has {n_groups}")]
    TooManyGroups {
        /// Common name of the certificate.
        subject: String,
        /// How many groups were asked for.
        n_groups: usize,
    },
    /// The TLS configuration could not be built.
    #[error("failed to configure TLS")]
    Tls(#[from] rustls::Error),
}

type Result<T, E = Error> = std::result::Result<T, E>;

/// A certificate with its key, both as PEM text.
#[derive(Clone)]
pub struct Credential {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// What a new certificate is for.
#[derive(Clone, Debug, Default)]
pub struct Subject<'a> {
    /// Common name: the user, or the server's name.
    pub name: &'a str,
    /// Organizations: the user's groups.
    pub groups: &'a [&'a str],
    /// Host names and addresses; a certificate with some serves TLS, one without is a client's.
    pub hosts: &'a [String],
}

/// Names that the server's certificate must carry besides the fixed ones.
#[derive(Clone, Debug, Default)]
pub struct ServerNames {
    /// First address of the service range, at which pods reach the server.
    pub service_ip: Option<IpAddr>,
    /// Further names and addresses: the host's, and what the operator asks for.
    pub extra: Vec<String>,
}

/// The cluster's authorities, its own certificates, and the token signing key.
pub struct Pki {
    ca: Authority,
    front_proxy_ca: Authority,
    server: Credential,
    kubelet_client: Credential,
    front_proxy_client: Credential,
    token_key: String,
    token_public_key: String,
}

struct Authority {
    pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Reads the certificates in `directory` and makes those that are missing, expiring or lack a
    /// name; with no directory everything is made in memory.
    ///
    /// # Errors
    /// [`Error::Broken`] for files that do not parse or do not belong together: nothing is
    /// overwritten then. [`Error::File`] when the directory cannot be used.
    pub fn open(directory: Option<&Path>, names: &ServerNames) -> Result<Self> {
        let files = Files::open(directory)?;
        let ca = files.authority("ca", "kubernetes")?;
        let front_proxy_ca = files.authority("front-proxy-ca", "front-proxy-ca")?;
        let hosts = server_hosts(names);
        let server = Subject { name: "kube-apiserver", groups: &[], hosts: &hosts };
        let kubelet_client = Subject {
            name: "kube-apiserver-kubelet-client",
            groups: &["system:masters"],
            hosts: &[],
        };
        let front_proxy_client = Subject { name: "front-proxy-client", ..Subject::default() };
        let (token_key, token_public_key) = files.token_key()?;
        Ok(Self {
            server: files.leaf("apiserver", &server, &ca)?,
            kubelet_client: files.leaf("apiserver-kubelet-client", &kubelet_client, &ca)?,
            front_proxy_client: files.leaf(
                "front-proxy-client",
                &front_proxy_client,
                &front_proxy_ca,
            )?,
            ca,
            front_proxy_ca,
            token_key,
            token_public_key,
        })
    }

    /// The cluster authority's certificate, PEM: what clients trust.
    pub fn ca_certificate(&self) -> &str {
        &self.ca.pem
    }

    /// The cluster authority's private key, PEM: for who signs certificates in this process.
    pub fn ca_key(&self) -> String {
        self.ca.issuer.key().serialize_pem()
    }

    /// The cluster authority's certificate, DER.
    pub fn ca_der(&self) -> &CertificateDer<'static> {
        &self.ca.certificate
    }

    /// The aggregation layer's authority, PEM: what extension servers trust.
    pub fn front_proxy_ca_certificate(&self) -> &str {
        &self.front_proxy_ca.pem
    }

    /// What the server shows to extension servers.
    pub fn front_proxy_client(&self) -> &Credential {
        &self.front_proxy_client
    }

    /// What the server shows to node agents.
    pub fn kubelet_client(&self) -> &Credential {
        &self.kubelet_client
    }

    /// The server's own certificate.
    pub fn server(&self) -> &Credential {
        &self.server
    }

    /// Private key that signs service-account tokens, PEM.
    pub fn token_key(&self) -> &str {
        &self.token_key
    }

    /// Public half of [`Pki::token_key`], PEM.
    pub fn token_public_key(&self) -> &str {
        &self.token_public_key
    }

    /// A client certificate of the user `name` in `groups`, valid for a year.
    ///
    /// # Errors
    /// [`Error::TooManyGroups`] for more than two groups.
    pub fn client_cert(&self, name: &str, groups: &[&str]) -> Result<Credential> {
        self.ca.issue(&Subject { name, groups, hosts: &[] })
    }

    /// A serving certificate for `hosts`, such as a node agent's.
    ///
    /// # Errors
    /// [`Error::Issue`] for a host that is neither a name nor an address.
    pub fn server_cert(&self, name: &str, groups: &[&str], hosts: &[String]) -> Result<Credential> {
        self.ca.issue(&Subject { name, groups, hosts })
    }

    /// Text of a kubeconfig for the user `name` in `groups` of the server at `url`.
    ///
    /// # Errors
    /// As [`Pki::client_cert`].
    pub fn kubeconfig(&self, url: &str, name: &str, groups: &[&str]) -> Result<String> {
        let credential = self.client_cert(name, groups)?;
        Ok(format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: improv\n  cluster:\n    server: {url}\n    certificate-authority-data: {ca}\n\
             contexts:\n\
             - name: improv\n  context:\n    cluster: improv\n    user: {user}\n\
             current-context: improv\n\
             users:\n\
             - name: {user}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n",
            ca = STANDARD.encode(&self.ca.pem),
            user = serde_json::Value::from(name),
            certificate = STANDARD.encode(&credential.certificate),
            key = STANDARD.encode(&credential.key),
        ))
    }
}

impl Authority {
    fn issue(&self, subject: &Subject<'_>) -> Result<Credential> {
        let failed = |source| Error::Issue { subject: subject.name.to_owned(), source };
        if subject.groups.len() > 2 {
            return Err(Error::TooManyGroups {
                subject: subject.name.to_owned(),
                n_groups: subject.groups.len(),
            });
        }
        let mut params = CertificateParams::new(subject.hosts.to_vec()).map_err(failed)?;
        params.distinguished_name = distinguished_name(subject);
        set_validity(&mut params, LEAF_VALIDITY);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![if subject.hosts.is_empty() {
            ExtendedKeyUsagePurpose::ClientAuth
        } else {
            ExtendedKeyUsagePurpose::ServerAuth
        }];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Credential { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Whether `certificate` can be used for `subject` for a while, and was issued here.
    fn vouches_for(&self, certificate: &str, subject: &Subject<'_>) -> bool {
        let Ok(der) = CertificateDer::from_pem_slice(certificate.as_bytes()) else { return false };
        let Ok((_, leaf)) = X509Certificate::from_der(&der) else { return false };
        let Ok((_, ca)) = X509Certificate::from_der(&self.certificate) else { return false };
        let renew_at = (since_epoch() + RENEW_BEFORE).as_secs();
        let in_time =
            u64::try_from(leaf.validity().not_after.timestamp()).is_ok_and(|end| end > renew_at);
        let ours = leaf.issuer() == ca.subject()
            && key_identifier(&leaf, Whose::Issuer) == key_identifier(&ca, Whose::Subject);
        let present = hosts(&leaf);
        in_time && ours && subject.hosts.iter().all(|host| present.contains(host))
    }
}

enum Whose {
    Issuer,
    Subject,
}

fn key_identifier<'a>(certificate: &X509Certificate<'a>, whose: Whose) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| {
        match (extension.parsed_extension(), &whose) {
            (ParsedExtension::AuthorityKeyIdentifier(id), Whose::Issuer) => {
                id.key_identifier.as_ref().map(|id| id.0)
            }
            (ParsedExtension::SubjectKeyIdentifier(id), Whose::Subject) => Some(id.0),
            _ => None,
        }
    })
}

pub(super) fn hosts(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let as_text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).ok().map(|ip| IpAddr::from(ip).to_string()),
            _ => <[u8; 16]>::try_from(*octets).ok().map(|ip| IpAddr::from(ip).to_string()),
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(as_text).collect()
}

fn server_hosts(names: &ServerNames) -> Vec<String> {
    let fixed = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        "::1",
    ];
    let mut hosts: Vec<String> = fixed.map(str::to_owned).to_vec();
    hosts.extend(names.service_ip.map(|ip| ip.to_string()));
    hosts.extend(names.extra.iter().cloned());
    let mut seen = BTreeSet::new();
    hosts.retain(|host| !host.is_empty() && seen.insert(host.clone()));
    hosts
}

fn distinguished_name(subject: &Subject<'_>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    let kinds = [DnType::OrganizationName, DnType::CustomDnType(ORGANIZATION_OID.to_vec())];
    for (kind, group) in kinds.into_iter().zip(subject.groups) {
        name.push(kind, *group);
    }
    name.push(DnType::CommonName, subject.name);
    name
}

fn set_validity(params: &mut CertificateParams, validity: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = since_epoch();
    params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + now + validity;
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    set_validity(&mut params, AUTHORITY_VALIDITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    params
}

/// The certificates and the key in `credential`, as TLS wants them.
///
/// # Errors
/// [`Error::Tls`] if the text is not PEM.
pub fn to_der(
    credential: &Credential,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let unusable = |error: rustls_pki_types::pem::Error| rustls::Error::General(error.to_string());
    let chain = CertificateDer::pem_slice_iter(credential.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(unusable)?;
    let key = PrivateKeyDer::from_pem_slice(credential.key.as_bytes()).map_err(unusable)?;
    Ok((chain, key))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(extra: &[&str]) -> ServerNames {
        ServerNames {
            service_ip: Some([10, 96, 0, 1].into()),
            extra: extra.iter().map(|s| (*s).to_owned()).collect(),
        }
    }

    #[test]
    fn a_restart_reuses_every_file() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::open(Some(dir.path()), &names(&[])).unwrap();
        let second = Pki::open(Some(dir.path()), &names(&[])).unwrap();
        assert_eq!(first.ca_certificate(), second.ca_certificate());
        assert_eq!(first.server().certificate, second.server().certificate);
        assert_eq!(first.token_key(), second.token_key());
        for entry in fs::read_dir(dir.path()).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_new_name_renews_the_server_certificate_only() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::open(Some(dir.path()), &names(&[])).unwrap();
        let second = Pki::open(Some(dir.path()), &names(&["node-1", "192.0.2.7"])).unwrap();
        assert_eq!(first.ca_certificate(), second.ca_certificate());
        assert_ne!(first.server().certificate, second.server().certificate);
        let der = CertificateDer::from_pem_slice(second.server().certificate.as_bytes()).unwrap();
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        let hosts = hosts(&leaf);
        for host in ["node-1", "192.0.2.7", "10.96.0.1", "kubernetes.default.svc", "::1"] {
            assert!(hosts.contains(host), "{host} is missing in {hosts:?}");
        }
    }

    #[test]
    fn another_authority_renews_the_certificates() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Pki::open(Some(a.path()), &names(&[])).unwrap();
        Pki::open(Some(b.path()), &names(&[])).unwrap();
        for file in ["ca.crt", "ca.key"] {
            fs::copy(b.path().join(file), a.path().join(file)).unwrap();
        }
        let second = Pki::open(Some(a.path()), &names(&[])).unwrap();
        assert_ne!(first.server().certificate, second.server().certificate);
    }

    #[test]
    fn broken_files_are_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        Pki::open(Some(dir.path()), &names(&[])).unwrap();
        fs::write(dir.path().join("ca.key"), "garbage").unwrap();
        let error = Pki::open(Some(dir.path()), &names(&[])).err().unwrap().to_string();
        assert!(error.contains("ca.key") && error.contains("remove ca.*"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("ca.key")).unwrap(), "garbage");

        fs::remove_file(dir.path().join("ca.key")).unwrap();
        let error = Pki::open(Some(dir.path()), &names(&[])).err().unwrap().to_string();
        assert!(error.contains("is missing beside its certificate"), "{error}");
    }

    #[test]
    fn a_certificate_carries_two_groups_at_most() {
        let pki = Pki::open(None, &names(&[])).unwrap();
        pki.client_cert("jane", &["a", "b"]).unwrap();
        let error = pki.client_cert("jane", &["a", "b", "c"]).unwrap_err();
        assert!(matches!(error, Error::TooManyGroups { n_groups: 3, .. }));
    }
}
