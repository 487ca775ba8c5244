//! Service-account tokens: JWTs signed with the cluster's key, and what they claim.
//!
//! Signing and verifying only; whether the account and the objects that a token is bound to still
//! exist is for `authn` to ask.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::pki::Pki;

/// An object that a token names, with the uid it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// Its uid; another object of that name is another object.
    pub uid: String,
}

/// What a token says about the account and the object it is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Namespace of the account, and of a bound pod or secret.
    pub namespace: String,
    /// The node that the bound pod runs on, or the node that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The pod that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The secret that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serviceaccount: Option<Reference>,
    /// When a client should have come for a new token, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// The claims of a token, in the order in which they are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Whom the token is meant for.
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
    /// When it was issued, in seconds since 1970.
    pub iat: i64,
    /// Who issued it.
    pub iss: String,
    /// Its own name.
    #[serde(default)]
    pub jti: String,
    /// Kubernetes' part.
    #[serde(rename = "kubernetes.io")]
    pub binding: Binding,
    /// From when on it holds, in seconds since 1970.
    pub nbf: i64,
    /// The user it stands for.
    pub sub: String,
}

/// Why a token could not be signed or a key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key is of a type that tokens are not signed with.
    #[error("the service-account key is neither an EC (P-256, P-384) nor an RSA key")]
    Key,
    /// The text holds no key at all.
    #[error("no key was found: a PEM block PUBLIC KEY, PRIVATE KEY or CERTIFICATE is needed")]
    NoKey,
    /// The token could not be signed.
    #[error("failed to sign a service-account token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// A key that tokens are recognised with.
struct PublicKey {
    id: String,
    algorithm: Algorithm,
    decoding: DecodingKey,
}

impl PublicKey {
    /// `der` is a SubjectPublicKeyInfo.
    fn new(der: &[u8]) -> Result<Self, Error> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| Error::Key)?;
        let pem = pem_of(der);
        let (algorithm, decoding) = match info.parsed().map_err(|_| Error::Key)? {
            Parsed::RSA(_) => (Algorithm::RS256, DecodingKey::from_rsa_pem(pem.as_bytes())),
            Parsed::EC(point) if point.key_size() == 256 => {
                (Algorithm::ES256, DecodingKey::from_ec_pem(pem.as_bytes()))
            }
            Parsed::EC(point) if point.key_size() == 384 => {
                (Algorithm::ES384, DecodingKey::from_ec_pem(pem.as_bytes()))
            }
            _ => return Err(Error::Key),
        };
        // As upstream names keys, so that a token's header finds its key on either side.
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(der));
        Ok(Self { id, algorithm, decoding: decoding.map_err(|_| Error::Key)? })
    }

    fn jwk(&self) -> Result<Jwk, Error> {
        let mut key =
            Jwk::from_decoding_key(&self.decoding, Some(self.algorithm)).map_err(|_| Error::Key)?;
        key.common.public_key_use = Some(PublicKeyUse::Signature);
        key.common.key_id = Some(self.id.clone());
        Ok(key)
    }
}

fn pem_of(der: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

/// The public keys in PEM text: as they are, of private keys, or of certificates.
fn public_keys(pem: &str) -> Result<Vec<PublicKey>, Error> {
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
        match section.map_err(|_| Error::NoKey)? {
            (SectionKind::PublicKey, der) => keys.push(PublicKey::new(&der)?),
            (SectionKind::Certificate, der) => {
                let (_, leaf) = X509Certificate::from_der(&der).map_err(|_| Error::Key)?;
                keys.push(PublicKey::new(leaf.public_key().raw)?);
            }
            (
                SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey,
                _,
            ) => {
                let pair = rcgen::KeyPair::from_pem(pem).map_err(|_| Error::Key)?;
                keys.extend(public_keys(&pair.public_key_pem())?);
            }
            _ => (),
        }
    }
    if keys.is_empty() { Err(Error::NoKey) } else { Ok(keys) }
}

/// Signs tokens, and recognises those that it, or a key before it, signed.
pub struct TokenKeys {
    encoding: EncodingKey,
    /// The first one belongs to the signing key.
    public: Vec<PublicKey>,
    issuers: Vec<String>,
    audiences: Vec<String>,
    jwks_uri: Option<String>,
}

impl TokenKeys {
    /// Signs with the private key in the PEM text `signing`, as `issuer`, who is also the audience.
    ///
    /// # Errors
    /// The key is of an unknown type.
    pub fn new(signing: &str, issuer: &str) -> Result<Self, Error> {
        let own = public_keys(signing)?.into_iter().next().ok_or(Error::NoKey)?;
        let bytes = signing.as_bytes();
        let encoding = match own.algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(bytes),
            _ => EncodingKey::from_ec_pem(bytes),
        };
        Ok(Self {
            encoding: encoding.map_err(|_| Error::Key)?,
            public: vec![own],
            issuers: vec![issuer.to_owned()],
            audiences: vec![issuer.to_owned()],
            jwks_uri: None,
        })
    }

    /// The token key of `pki`.
    ///
    /// # Errors
    /// As [`TokenKeys::new`].
    pub fn of_pki(pki: &Pki, issuer: &str) -> Result<Self, Error> {
        Self::new(pki.token_key(), issuer)
    }

    /// Also recognises what the keys in the PEM text `keys` signed.
    ///
    /// # Errors
    /// There is no key in it, or one of an unknown type.
    pub fn accept_keys(&mut self, keys: &str) -> Result<(), Error> {
        for key in public_keys(keys)? {
            if self.public.iter().all(|known| known.id != key.id) {
                self.public.push(key);
            }
        }
        Ok(())
    }

    /// Also recognises tokens that were issued in these names.
    pub fn accept_issuers(&mut self, issuers: &[String]) {
        self.issuers.extend_from_slice(issuers);
    }

    /// What tokens are for unless told otherwise; without any, it is the issuer.
    pub fn set_audiences(&mut self, audiences: &[String]) {
        if !audiences.is_empty() {
            self.audiences = audiences.to_vec();
        }
    }

    /// Where the discovery document says that the keys are.
    pub fn set_jwks_uri(&mut self, uri: Option<String>) {
        self.jwks_uri = uri;
    }

    /// Who issues new tokens.
    pub fn issuer(&self) -> &str {
        self.issuers.first().map_or("", String::as_str)
    }

    /// Whom the API server answers to.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    fn own(&self) -> Result<&PublicKey, Error> {
        self.public.first().ok_or(Error::NoKey)
    }

    /// The token that makes `claims`.
    ///
    /// # Errors
    /// [`Error::Sign`] if the key fails to sign.
    pub fn sign(&self, claims: &Claims) -> Result<String, Error> {
        let own = self.own()?;
        let mut header = Header::new(own.algorithm);
        header.typ = None;
        header.kid = Some(own.id.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(Error::Sign)
    }

    /// The claims of `token` if it was signed with one of the keys, by one of the issuers, and holds
    /// at `now` (seconds since 1970); `None` otherwise. Audiences are left to the caller.
    pub fn verify(&self, token: &str, now: i64) -> Option<Claims> {
        let named = jsonwebtoken::decode_header(token).ok()?.kid;
        // A token without the name of its key may be of any.
        let fits = |key: &&PublicKey| named.as_ref().is_none_or(|name| *name == key.id);
        let claims = self.public.iter().filter(fits).find_map(|key| {
            let mut rules = Validation::new(key.algorithm);
            rules.validate_aud = false;
            rules.validate_exp = false;
            rules.set_issuer(&self.issuers);
            Some(jsonwebtoken::decode::<Claims>(token, &key.decoding, &rules).ok()?.claims)
        })?;
        (claims.nbf <= now && now < claims.exp).then_some(claims)
    }

    /// The answer of `/openid/v1/jwks`: the public keys.
    ///
    /// # Errors
    /// [`Error::Key`] if a public half cannot be derived.
    pub fn key_set(&self) -> Result<Value, Error> {
        let keys = self.public.iter().map(PublicKey::jwk).collect::<Result<Vec<_>, _>>()?;
        Ok(json!({ "keys": keys }))
    }

    /// The answer of `/.well-known/openid-configuration`.
    pub fn discovery(&self) -> Value {
        let mut algorithms: Vec<String> =
            self.public.iter().map(|key| format!("{:?}", key.algorithm)).collect();
        algorithms.sort();
        algorithms.dedup();
        let own = || format!("{}/openid/v1/jwks", self.issuer());
        json!({
            "issuer": self.issuer(),
            "jwks_uri": self.jwks_uri.clone().unwrap_or_else(own),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }
}

impl Claims {
    /// Further facts about the user, by the keys that upstream gives them.
    pub fn extra(&self) -> BTreeMap<String, Vec<String>> {
        let mut extra = BTreeMap::new();
        let mut add = |key: &str, value: String| {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        };
        if !self.jti.is_empty() {
            add("credential-id", format!("JTI={}", self.jti));
        }
        if let Some(pod) = &self.binding.pod {
            add("pod-name", pod.name.clone());
            add("pod-uid", pod.uid.clone());
        }
        if let Some(node) = &self.binding.node {
            add("node-name", node.name.clone());
            add("node-uid", node.uid.clone());
        }
        extra
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(audience) => vec![audience],
        OneOrMany::Many(audiences) => audiences,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::pki::ServerNames;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    fn key() -> TokenKeys {
        TokenKeys::of_pki(&Pki::open(None, &ServerNames::default()).unwrap(), ISSUER).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            aud: vec![ISSUER.to_owned()],
            exp: 2_000,
            iat: 1_000,
            iss: ISSUER.to_owned(),
            jti: "a".to_owned(),
            binding: Binding { namespace: "default".to_owned(), ..Binding::default() },
            nbf: 1_000,
            sub: "system:serviceaccount:default:web".to_owned(),
        }
    }

    #[test]
    fn a_token_holds_between_its_times_only() {
        let key = key();
        let token = key.sign(&claims()).unwrap();
        assert_eq!(key.verify(&token, 1_500), Some(claims()));
        assert_eq!(key.verify(&token, 999), None);
        assert_eq!(key.verify(&token, 2_000), None);
    }

    #[test]
    fn only_our_own_tokens_are_recognised() {
        let token = key().sign(&claims()).unwrap();
        assert_eq!(key().verify(&token, 1_500), None);
        let key = key();
        let foreign = Claims { iss: "https://elsewhere".to_owned(), ..claims() };
        assert_eq!(key.verify(&key.sign(&foreign).unwrap(), 1_500), None);
        assert_eq!(key.verify("not-a-token", 1_500), None);
        let (head, _) = token.rsplit_once('.').unwrap();
        assert_eq!(key.verify(&format!("{head}."), 1_500), None);
    }

    #[test]
    fn the_key_set_names_the_key_of_the_tokens() {
        let key = key();
        let set = key.key_set().unwrap();
        let header = jsonwebtoken::decode_header(key.sign(&claims()).unwrap()).unwrap();
        assert_eq!(set["keys"][0]["kid"], header.kid.unwrap());
        assert_eq!(set["keys"][0]["use"], "sig");
        assert_eq!(set["keys"][0]["crv"], "P-256");
        let public: Jwk = serde_json::from_value(set["keys"][0].clone()).unwrap();
        let token = key.sign(&claims()).unwrap();
        let mut rules = Validation::new(Algorithm::ES256);
        rules.validate_exp = false;
        rules.validate_aud = false;
        let found = jsonwebtoken::decode::<Claims>(
            &token,
            &DecodingKey::from_jwk(&public).unwrap(),
            &rules,
        );
        assert_eq!(found.unwrap().claims, claims());
    }

    #[test]
    fn tokens_outlive_the_change_of_key_and_issuer() {
        let old = Pki::open(None, &ServerNames::default()).unwrap();
        let token = TokenKeys::of_pki(&old, "https://old")
            .unwrap()
            .sign(&Claims { iss: "https://old".to_owned(), ..claims() });
        let token = token.unwrap();
        let mut keys = key();
        keys.accept_keys(old.token_public_key()).unwrap();
        assert_eq!(keys.verify(&token, 1_500), None, "the issuer is not known yet");
        keys.accept_issuers(&["https://old".to_owned()]);
        assert!(keys.verify(&token, 1_500).is_some());
        assert_eq!(keys.key_set().unwrap()["keys"].as_array().unwrap().len(), 2);
        keys.accept_keys(old.token_key()).unwrap();
        assert_eq!(keys.public.len(), 2, "the private half is the same key");
        assert!(matches!(keys.accept_keys("nothing"), Err(Error::NoKey)));
    }
}
