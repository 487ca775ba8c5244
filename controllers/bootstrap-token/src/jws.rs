//! Signatures by which somebody who holds a bootstrap token knows that `cluster-info` comes from the cluster.
//!
//! Source: kubernetes.io, "Authenticating with Bootstrap Tokens", "ConfigMap Signing": a JSON Web Signature of
//! compact form (RFC 7515) without its middle part, by HMAC-SHA256 with the token's secret.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};

/// The signature of `content` by the token; `None` if this program cannot compute it.
pub fn sign(content: &str, id: &str, secret: &str) -> Option<String> {
    // Compared as text by those who check it, so the header's members stand in this order.
    let header = serde_json::json!({ "alg": "HS256", "kid": id }).to_string();
    let header = URL_SAFE_NO_PAD.encode(header);
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).ok()?;
    Some(format!("{header}..{signature}"))
}

/// Whether `signature` is that of `content` by the token.
pub fn verifies(signature: &str, content: &str, id: &str, secret: &str) -> bool {
    let Some(right) = sign(content, id, secret) else { return false };
    let (right, signature) = (right.as_bytes(), signature.as_bytes());
    // All of it is looked at, so that the time does not tell where they differ.
    right.len() == signature.len()
        && right.iter().zip(signature).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "abcdef0123456789";

    #[test]
    fn only_the_same_token_and_content_verify() {
        let signature = sign("content", "abc123", SECRET).unwrap();
        assert!(verifies(&signature, "content", "abc123", SECRET));
        assert!(!verifies(&signature, "Content", "abc123", SECRET));
        assert!(!verifies(&signature, "content", "abc124", SECRET));
        assert!(!verifies(&signature, "content", "abc123", "abcdef0123456780"));
        assert!(!verifies("", "content", "abc123", SECRET));
    }

    #[test]
    fn the_middle_part_is_left_out() {
        let signature = sign("content", "abc123", SECRET).unwrap();
        let parts: Vec<&str> = signature.split('.').collect();
        assert_eq!((parts.len(), parts[1]), (3, ""));
        let header = URL_SAFE_NO_PAD.decode(parts[0]).unwrap();
        assert_eq!(header, br#"{"alg":"HS256","kid":"abc123"}"#);
    }
}
