//! Service-account tokens: JWTs signed with the cluster's key, and what they claim.
//!
//! Signing and verifying only; whether the account and the objects that a token is bound to still
//! exist is for `authn` to ask.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

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

/// Why a token could not be signed or the signing key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key is neither an EC nor an RSA key.
    #[error("the service-account key is neither an EC P-256 nor an RSA key")]
    Key,
    /// The token could not be signed.
    #[error("failed to sign a service-account token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// Signs tokens, and recognises those that it signed.
pub struct TokenKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
    algorithm: Algorithm,
    key_id: String,
    issuer: String,
}

impl TokenKey {
    /// Takes the token key of `pki`; `issuer` is the `iss` of all tokens, and the audience they are
    /// for unless told otherwise.
    ///
    /// # Errors
    /// [`Error::Key`] if it is of an unknown type.
    pub fn new(pki: &Pki, issuer: &str) -> Result<Self, Error> {
        let (private, public) = (pki.token_key().as_bytes(), pki.token_public_key().as_bytes());
        let elliptic = EncodingKey::from_ec_pem(private)
            .and_then(|key| Ok((key, DecodingKey::from_ec_pem(public)?, Algorithm::ES256)));
        let (encoding, decoding, algorithm) = elliptic
            .or_else(|_| {
                let key = EncodingKey::from_rsa_pem(private)?;
                Ok((key, DecodingKey::from_rsa_pem(public)?, Algorithm::RS256))
            })
            .map_err(|_: jsonwebtoken::errors::Error| Error::Key)?;
        let der = SubjectPublicKeyInfoDer::from_pem_slice(public).map_err(|_| Error::Key)?;
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(&der));
        Ok(Self { encoding, decoding, algorithm, key_id, issuer: issuer.to_owned() })
    }

    /// Who issues the tokens, and the audience they are for by default.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The token that makes `claims`.
    ///
    /// # Errors
    /// [`Error::Sign`] if the key fails to sign.
    pub fn sign(&self, claims: &Claims) -> Result<String, Error> {
        let mut header = Header::new(self.algorithm);
        header.typ = None;
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(Error::Sign)
    }

    /// The claims of `token` if it was signed with this key, by this issuer, and holds at `now`
    /// (seconds since 1970); `None` otherwise. Audiences are left to the caller.
    pub fn verify(&self, token: &str, now: i64) -> Option<Claims> {
        let mut rules = Validation::new(self.algorithm);
        rules.validate_aud = false;
        rules.validate_exp = false;
        rules.set_issuer(&[&self.issuer]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &rules).ok()?.claims;
        (claims.nbf <= now && now < claims.exp).then_some(claims)
    }

    /// The answer of `/openid/v1/jwks`: the public key.
    ///
    /// # Errors
    /// [`Error::Key`] if the public half cannot be derived.
    pub fn key_set(&self) -> Result<Value, Error> {
        let mut key =
            Jwk::from_encoding_key(&self.encoding, self.algorithm).map_err(|_| Error::Key)?;
        key.common.public_key_use = Some(PublicKeyUse::Signature);
        key.common.key_id = Some(self.key_id.clone());
        key.common.key_algorithm = Some(match self.algorithm {
            Algorithm::RS256 => KeyAlgorithm::RS256,
            _ => KeyAlgorithm::ES256,
        });
        Ok(json!({ "keys": [key] }))
    }

    /// The answer of `/.well-known/openid-configuration`.
    pub fn discovery(&self) -> Value {
        let algorithm = match self.algorithm {
            Algorithm::RS256 => "RS256",
            _ => "ES256",
        };
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [algorithm],
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

    fn key() -> TokenKey {
        TokenKey::new(&Pki::open(None, &ServerNames::default()).unwrap(), ISSUER).unwrap()
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
}
