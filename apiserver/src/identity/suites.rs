//! Names of cipher suites, as upstream's flags spell them.

use rustls::CipherSuite;

/// A suite that may be named; `None` if this server never speaks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suite(pub Option<CipherSuite>);

/// Suites of TLS 1.2 that this server speaks.
const SPOKEN: [(&str, CipherSuite); 8] = {
    use CipherSuite as S;
    [
        ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CHACHA_ECDSA),
        ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", CHACHA_ECDSA),
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
        ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
        ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CHACHA_RSA),
        ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CHACHA_RSA),
    ]
};
const CHACHA_ECDSA: CipherSuite = CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
const CHACHA_RSA: CipherSuite = CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256;

/// Suites that upstream takes and this server never speaks, or, of TLS 1.3, always does.
///
/// Source: `tls.CipherSuites` and `tls.InsecureCipherSuites` of Go.
const OTHERS: [&str; 16] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
];

/// Reads the name of a suite.
///
/// # Errors
/// There is no suite of that name.
pub fn suite(name: &str) -> Result<Suite, String> {
    match SPOKEN.iter().find(|(spoken, _)| *spoken == name) {
        Some((_, suite)) => Ok(Suite(Some(*suite))),
        None if OTHERS.contains(&name) => Ok(Suite(None)),
        None => Err(format!("Cipher suite {name} not supported or doesn't exist")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strong_suites_are_spoken_and_known_ones_are_taken() {
        let spoken = suite("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256").unwrap();
        assert_eq!(spoken.0, Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256));
        assert_eq!(suite("TLS_RSA_WITH_AES_128_CBC_SHA"), Ok(Suite(None)));
        assert!(suite("TLS_NONE").unwrap_err().contains("doesn't exist"));
    }
}
