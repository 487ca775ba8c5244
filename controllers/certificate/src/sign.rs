//! Issues certificates with the key of an authority.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::request::Asked;

/// Certificates begin to be valid a little in the past, so that clocks may differ.
///
/// Source: `--cluster-signing` backdate of upstream, five minutes.
const CLOCK_SKEW: Duration = Duration::from_mins(5);
/// Of a short life, at most this part lies in the past: whoever renews at a share of the whole would otherwise
/// find a certificate of minutes due as soon as it is issued.
const SKEW_SHARE: u32 = 10;
/// X.520 organizationName, spelled out because one name holds each of rcgen's types only once.
const ORGANIZATION_OID: &[u64] = &[2, 5, 4, 10];
/// Most groups that a certificate made here can carry.
const GROUPS: usize = 2;

/// An authority's certificate and key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Until when it is valid, since 1970.
    until: Duration,
    /// Longest life of what it issues.
    longest: Duration,
}

impl Authority {
    /// The authority in PEM text; what it issues lives at most for `longest`.
    ///
    /// # Errors
    /// What is wrong with the certificate or the key.
    pub fn new(certificate: &str, key: &str, longest: Duration) -> Result<Self, String> {
        let key =
            KeyPair::from_pem(key).map_err(|error| format!("the key is unusable: {error}"))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| format!("the certificate is unusable: {error}"))?;
        let until = not_after(&der).ok_or("the certificate cannot be read")?;
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|error| format!("the certificate is unusable: {error}"))?;
        Ok(Self { issuer, until, longest })
    }

    /// Issues what `pem` asks for, which `asked` was read from, for `wanted` or as long as may be.
    ///
    /// # Errors
    /// Why it cannot be issued.
    pub fn sign(
        &self,
        pem: &[u8],
        asked: &Asked,
        wanted: Option<Duration>,
    ) -> Result<String, String> {
        let told = |error: rcgen::Error| error.to_string();
        if asked.groups.len() > GROUPS {
            return Err(format!("a certificate can carry at most {GROUPS} organizations"));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(|e| e.to_string())?;
        let mut request = CertificateSigningRequestParams::from_der(&der).map_err(told)?;
        let params = &mut request.params;
        params.distinguished_name = subject(asked);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let life = wanted.unwrap_or(self.longest).min(self.longest);
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + now.saturating_sub(CLOCK_SKEW.min(life / SKEW_SHARE));
        params.not_after = epoch + (now + life).min(self.until);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = asked.usages.iter().filter_map(|usage| key_usage(usage)).collect();
        params.extended_key_usages =
            asked.usages.iter().filter_map(|usage| extended_usage(usage)).collect();
        Ok(request.signed_by(&self.issuer).map_err(told)?.pem())
    }
}

fn subject(asked: &Asked) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    let kinds = [DnType::OrganizationName, DnType::CustomDnType(ORGANIZATION_OID.to_vec())];
    for (kind, group) in kinds.into_iter().zip(&asked.groups) {
        name.push(kind, group.as_str());
    }
    name.push(DnType::CommonName, asked.name.as_str());
    name
}

fn key_usage(usage: &str) -> Option<KeyUsagePurpose> {
    Some(match usage {
        "digital signature" | "signing" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        _ => return None,
    })
}

fn extended_usage(usage: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match usage {
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" => ExtendedKeyUsagePurpose::EmailProtection,
        _ => return None,
    })
}

/// Until when a certificate is valid, since 1970.
fn not_after(der: &[u8]) -> Option<Duration> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some(Duration::from_secs(seconds))
}

/// Whether the first certificate of PEM text is over at `now`, in seconds since 1970.
pub fn is_over(pem: &[u8], now: i64) -> bool {
    let end = CertificateDer::from_pem_slice(pem).ok().and_then(|der| not_after(&der));
    end.is_some_and(|end| i64::try_from(end.as_secs()).is_ok_and(|end| end <= now))
}
