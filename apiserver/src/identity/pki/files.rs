//! Certificates and keys as files: read, checked, and made where they are missing.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rcgen::{Issuer, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Authority, Credential, Error, Result, Subject, authority_params};

/// The directory of the files, or nothing.
pub(super) struct Files<'a>(Option<&'a Path>);

impl<'a> Files<'a> {
    pub(super) fn open(directory: Option<&'a Path>) -> Result<Self> {
        if let Some(path) = directory {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| {
                Error::File { operation: "create the directory", path: path.to_owned(), source }
            })?;
        }
        Ok(Self(directory))
    }

    pub(super) fn authority(&self, file: &str, name: &str) -> Result<Authority> {
        let failed = |source| Error::Issue { subject: name.to_owned(), source };
        let pem = self.read(&format!("{file}.crt"))?;
        let key = match (self.read(&format!("{file}.key"))?, &pem) {
            (Some(text), _) => KeyPair::from_pem(&text)
                .map_err(|source| self.broken(file, "key", format!("is not a key ({source})")))?,
            (None, Some(_)) => {
                return Err(self.broken(file, "key", "is missing beside its certificate".into()));
            }
            (None, None) => {
                let key = KeyPair::generate().map_err(failed)?;
                self.write(&format!("{file}.key"), &key.serialize_pem())?;
                key
            }
        };
        let pem = match pem {
            Some(pem) => {
                self.check_pair(file, &pem, &key)?;
                pem
            }
            None => {
                let pem = authority_params(name).self_signed(&key).map_err(failed)?.pem();
                self.write(&format!("{file}.crt"), &pem)?;
                pem
            }
        };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|source| {
            self.broken(file, "crt", format!("is not a certificate ({source})"))
        })?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|source| {
            self.broken(file, "crt", format!("is not a certificate ({source})"))
        })?;
        Ok(Authority { pem, certificate, issuer })
    }

    fn check_pair(&self, file: &str, pem: &str, key: &KeyPair) -> Result<()> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|source| {
            self.broken(file, "crt", format!("is not a certificate ({source})"))
        })?;
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|source| {
            self.broken(file, "crt", format!("is not a certificate ({source})"))
        })?;
        if certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw() {
            Ok(())
        } else {
            Err(self.broken(file, "crt", format!("does not belong to {file}.key")))
        }
    }

    pub(super) fn leaf(
        &self,
        file: &str,
        subject: &Subject<'_>,
        ca: &Authority,
    ) -> Result<Credential> {
        let (crt, key) = (format!("{file}.crt"), format!("{file}.key"));
        if let (Some(certificate), Some(key)) = (self.read(&crt)?, self.read(&key)?)
            && ca.vouches_for(&certificate, subject)
            && KeyPair::from_pem(&key)
                .is_ok_and(|key| self.check_pair(file, &certificate, &key).is_ok())
        {
            return Ok(Credential { certificate, key });
        }
        let credential = ca.issue(subject)?;
        self.write(&key, &credential.key)?;
        self.write(&crt, &credential.certificate)?;
        Ok(credential)
    }

    /// The token key's private and public half. ES256, unless the file holds an RSA key.
    pub(super) fn token_key(&self) -> Result<(String, String)> {
        let failed = |source| Error::Issue { subject: "service-account tokens".to_owned(), source };
        let key = match self.read("sa.key")? {
            Some(text) => KeyPair::from_pem(&text)
                .map_err(|source| self.broken("sa", "key", format!("is not a key ({source})")))?,
            None => {
                let key = KeyPair::generate().map_err(failed)?;
                self.write("sa.key", &key.serialize_pem())?;
                key
            }
        };
        let public = key.public_key_pem();
        if self.read("sa.pub")?.is_none() {
            self.write("sa.pub", &public)?;
        }
        Ok((key.serialize_pem(), public))
    }

    pub(super) fn read(&self, file: &str) -> Result<Option<String>> {
        let Some(path) = self.0.map(|directory| directory.join(file)) else { return Ok(None) };
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { operation: "read", path, source }),
        }
    }

    /// Puts `text` in place at once, so that a kill at any instant leaves the old file or the new.
    pub(super) fn write(&self, file: &str, text: &str) -> Result<()> {
        let Some(directory) = self.0 else { return Ok(()) };
        let path = directory.join(file);
        let draft = directory.join(format!(".{file}.new"));
        let attempt = || -> io::Result<()> {
            let mut options = fs::OpenOptions::new();
            let mut handle =
                options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            handle.write_all(text.as_bytes())?;
            handle.sync_all()?;
            fs::rename(&draft, &path)
        };
        attempt().map_err(|source| Error::File { operation: "write", path: path.clone(), source })
    }

    fn broken(&self, file: &str, extension: &str, problem: String) -> Error {
        let path = self.0.unwrap_or(Path::new("")).join(format!("{file}.{extension}"));
        let remedy = if file == "sa" { "sa.key and sa.pub".into() } else { format!("{file}.*") };
        Error::Broken { path, problem, remedy }
    }
}
