//! How one key seals values. Pure, but for random nonces.

use std::fmt;

use aes_gcm::{
    AesGcm,
    aead::{Aead, KeyInit, Nonce, Payload, consts::U12},
    aes::{Aes128, Aes192, Aes256},
};
use bytes::Bytes;
use cbc::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit, block_padding::Pkcs7};
use crypto_secretbox::XSalsa20Poly1305;
use rand::RngCore as _;

/// Which ciphers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// AES in CBC mode with PKCS#7 padding; keeps secrets, does not notice changes.
    AesCbc,
    /// AES in GCM mode. Its random nonces are good for some 2³² writes by one key.
    AesGcm,
    /// XSalsa20 and Poly1305.
    Secretbox,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::AesCbc => "aescbc",
            Kind::AesGcm => "aesgcm",
            Kind::Secretbox => "secretbox",
        }
    }

    /// Bytes that a key may have.
    pub(super) fn key_sizes(self) -> &'static [usize] {
        match self {
            Kind::AesCbc | Kind::AesGcm => &[16, 24, 32],
            Kind::Secretbox => &[32],
        }
    }
}

/// Seals and opens by one key; the identity does neither.
pub(super) struct Provider {
    /// `k8s:enc:aesgcm:v1:key1:`; empty for the identity.
    prefix: Vec<u8>,
    cipher: Option<Box<dyn Cipher>>,
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(String::from_utf8_lossy(&self.prefix).trim_end_matches(':'))
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Provider({self})")
    }
}

impl Provider {
    pub(super) fn identity() -> Provider {
        Provider { prefix: Vec::new(), cipher: None }
    }

    /// `None` if the cipher knows no keys of this size.
    pub(super) fn new(kind: Kind, name: &str, key: &[u8]) -> Option<Provider> {
        let cipher: Box<dyn Cipher> = match (kind, key.len()) {
            (Kind::AesGcm, 16) => Box::new(Sealer::<AesGcm<Aes128, U12>>::new(key, true)?),
            (Kind::AesGcm, 24) => Box::new(Sealer::<AesGcm<Aes192, U12>>::new(key, true)?),
            (Kind::AesGcm, 32) => Box::new(Sealer::<AesGcm<Aes256, U12>>::new(key, true)?),
            (Kind::Secretbox, 32) => Box::new(Sealer::<XSalsa20Poly1305>::new(key, false)?),
            (Kind::AesCbc, 16 | 24 | 32) => Box::new(Cbc(key.to_vec())),
            _ => return None,
        };
        let prefix = format!("k8s:enc:{}:v1:{name}:", kind.name()).into_bytes();
        Some(Provider { prefix, cipher: Some(cipher) })
    }

    pub(super) fn is_identity(&self) -> bool {
        self.cipher.is_none()
    }

    /// Whether a value looks as if this provider had written it.
    pub(super) fn sealed(&self, value: &[u8]) -> bool {
        match self.cipher {
            Some(_) => value.starts_with(&self.prefix),
            None => !value.starts_with(super::SEALED),
        }
    }

    pub(super) fn seal(&self, value: &Bytes, context: &[u8]) -> Option<Bytes> {
        let Some(cipher) = &self.cipher else { return Some(value.clone()) };
        Some([&self.prefix[..], &cipher.seal(value, context)?].concat().into())
    }

    pub(super) fn open(&self, value: &Bytes, context: &[u8]) -> Option<Bytes> {
        let Some(cipher) = &self.cipher else { return Some(value.clone()) };
        Some(cipher.open(value.strip_prefix(&self.prefix[..])?, context)?.into())
    }
}

trait Cipher: Send + Sync {
    fn seal(&self, value: &[u8], context: &[u8]) -> Option<Vec<u8>>;
    fn open(&self, sealed: &[u8], context: &[u8]) -> Option<Vec<u8>>;
}

/// A cipher that notices changes: nonce, then what it makes.
struct Sealer<A> {
    aead: A,
    /// Whether a value opens only under the key in the store that it was sealed for.
    bound: bool,
}

impl<A: KeyInit> Sealer<A> {
    fn new(key: &[u8], bound: bool) -> Option<Self> {
        Some(Sealer { aead: A::new_from_slice(key).ok()?, bound })
    }
}

impl<A> Sealer<A> {
    fn context<'a>(&self, context: &'a [u8]) -> &'a [u8] {
        if self.bound { context } else { &[] }
    }
}

impl<A: Aead + Send + Sync> Cipher for Sealer<A> {
    fn seal(&self, value: &[u8], context: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = Nonce::<A>::default();
        rand::rng().fill_bytes(&mut nonce);
        let payload = Payload { msg: value, aad: self.context(context) };
        let sealed = self.aead.encrypt(&nonce, payload).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    fn open(&self, sealed: &[u8], context: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = Nonce::<A>::default();
        let (start, sealed) = sealed.split_at_checked(nonce.len())?;
        nonce.copy_from_slice(start);
        let payload = Payload { msg: sealed, aad: self.context(context) };
        self.aead.decrypt(&nonce, payload).ok()
    }
}

/// AES-CBC by a key of 16, 24 or 32 bytes.
struct Cbc(Vec<u8>);

/// Bytes of a block, and of what starts the chain.
const BLOCK: usize = 16;

fn chain<C: KeyIvInit>(key: &[u8], start: &[u8]) -> Option<C> {
    C::new_from_slices(key, start).ok()
}

impl Cipher for Cbc {
    fn seal(&self, value: &[u8], _context: &[u8]) -> Option<Vec<u8>> {
        let mut start = [0; BLOCK];
        rand::rng().fill_bytes(&mut start);
        let key = &self.0;
        let sealed =
            match key.len() {
                16 => chain::<cbc::Encryptor<Aes128>>(key, &start)?
                    .encrypt_padded_vec_mut::<Pkcs7>(value),
                24 => chain::<cbc::Encryptor<Aes192>>(key, &start)?
                    .encrypt_padded_vec_mut::<Pkcs7>(value),
                _ => chain::<cbc::Encryptor<Aes256>>(key, &start)?
                    .encrypt_padded_vec_mut::<Pkcs7>(value),
            };
        Some([&start[..], &sealed].concat())
    }

    fn open(&self, sealed: &[u8], _context: &[u8]) -> Option<Vec<u8>> {
        let (start, sealed) = sealed.split_at_checked(BLOCK)?;
        let key = &self.0;
        match key.len() {
            16 => {
                chain::<cbc::Decryptor<Aes128>>(key, start)?.decrypt_padded_vec_mut::<Pkcs7>(sealed)
            }
            24 => {
                chain::<cbc::Decryptor<Aes192>>(key, start)?.decrypt_padded_vec_mut::<Pkcs7>(sealed)
            }
            _ => {
                chain::<cbc::Decryptor<Aes256>>(key, start)?.decrypt_padded_vec_mut::<Pkcs7>(sealed)
            }
        }
        .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(check: impl Fn(Kind, &Provider, &Provider)) {
        for kind in [Kind::AesCbc, Kind::AesGcm, Kind::Secretbox] {
            for size in kind.key_sizes() {
                let key = |fill| Provider::new(kind, "one", &vec![fill; *size]).unwrap();
                check(kind, &key(1), &key(2));
            }
        }
    }

    #[test]
    fn what_is_sealed_opens_by_its_key_alone() {
        let value = Bytes::from_static(b"{\"data\":\"a secret of some length\"}");
        each(|kind, right, wrong| {
            let sealed = right.seal(&value, b"/k").unwrap();
            let prefix = format!("k8s:enc:{}:v1:one:", kind.name());
            assert!(sealed.starts_with(prefix.as_bytes()));
            assert!(!sealed.windows(8).any(|w| w == b"a secret"));
            assert_eq!(right.open(&sealed, b"/k").unwrap(), value);
            assert_ne!(wrong.open(&sealed, b"/k").as_ref(), Some(&value), "{kind:?}");
            assert_ne!(right.seal(&value, b"/k").unwrap(), sealed, "nonces differ");
            assert_eq!(right.open(&sealed.slice(..prefix.len() + 3), b"/k"), None);
        });
    }

    #[test]
    fn a_changed_or_moved_value_is_noticed() {
        let value = Bytes::from_static(b"{}");
        for kind in [Kind::AesGcm, Kind::Secretbox] {
            let provider = Provider::new(kind, "one", &[1; 32]).unwrap();
            let mut changed = provider.seal(&value, b"/k").unwrap().to_vec();
            *changed.last_mut().unwrap() ^= 1;
            assert_eq!(provider.open(&changed.into(), b"/k"), None, "{kind:?}");
        }
        let gcm = Provider::new(Kind::AesGcm, "one", &[1; 32]).unwrap();
        assert_eq!(gcm.open(&gcm.seal(&value, b"/a").unwrap(), b"/b"), None);
    }

    /// The test vector of NaCl's `crypto_secretbox`.
    #[test]
    fn secretbox_is_nacls() {
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
                .collect()
        };
        let key = bytes("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = bytes("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let text = bytes(concat!(
            "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c6129",
            "6cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde",
            "048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705",
        ));
        let sealed = bytes(concat!(
            "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186a",
            "c0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae",
            "90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74",
            "e355a5",
        ));
        let provider = Provider::new(Kind::Secretbox, "k", &key).unwrap();
        let stored = [&b"k8s:enc:secretbox:v1:k:"[..], &nonce, &sealed].concat().into();
        assert_eq!(provider.open(&stored, b"").unwrap(), text);
    }
}
