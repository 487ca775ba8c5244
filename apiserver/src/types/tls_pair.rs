//! What Go's TLS library says of a certificate and a key that do not make a pair, as far as their PEM blocks tell.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Why the texts are no certificate and key; `None` if they look like them.
pub(super) fn fault(certificate: &str, key: &str) -> Option<String> {
    let blocks_of = blocks(certificate);
    let Some((_, leaf)) = blocks_of.iter().find(|(kind, _)| *kind == "CERTIFICATE") else {
        return Some(no_certificate(&kinds(&blocks_of)));
    };
    let keys = blocks(key);
    if !keys.iter().any(|(kind, _)| *kind == "PRIVATE KEY" || kind.ends_with(" PRIVATE KEY")) {
        return Some(no_key(&kinds(&keys)));
    }
    (!is_sequence(leaf)).then(|| "x509: malformed certificate".to_owned())
}

fn no_certificate(skipped: &[&str]) -> String {
    match skipped {
        [] => "tls: failed to find any PEM data in certificate input".to_owned(),
        [one] if one.ends_with("PRIVATE KEY") => "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".to_owned(),
        many => format!(
            "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]",
            many.join(" ")
        ),
    }
}

fn no_key(skipped: &[&str]) -> String {
    match skipped {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        ["CERTIFICATE"] => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        many => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
            many.join(" ")
        ),
    }
}

fn kinds<'t>(blocks: &[(&'t str, Vec<u8>)]) -> Vec<&'t str> {
    blocks.iter().map(|(kind, _)| *kind).collect()
}

/// The blocks of a PEM text; what is none is passed over.
fn blocks(text: &str) -> Vec<(&str, Vec<u8>)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let Some((kind, body)) = after.split_once("-----") else { break };
        let Some((inside, behind)) = body.split_once(&format!("-----END {kind}-----")) else {
            rest = body;
            continue;
        };
        let letters: String = inside.split_whitespace().collect();
        if let Ok(bytes) = BASE64.decode(letters) {
            found.push((kind, bytes));
        }
        rest = behind;
    }
    found
}

/// Whether bytes are one sequence of DER.
fn is_sequence(der: &[u8]) -> bool {
    let [0x30, first, rest @ ..] = der else { return false };
    let n_bytes = usize::from(first & 0x7f);
    match first {
        ..0x80 => rest.len() == n_bytes,
        _ if n_bytes > 4 || rest.len() < n_bytes => false,
        _ => {
            let (length, content) = rest.split_at(n_bytes);
            let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            content.len() == length
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pair_is_told() {
        let block = |kind: &str| format!("-----BEGIN {kind}-----\nZm9v\n-----END {kind}-----\n");
        let told = |certificate: &str, key: &str| fault(certificate, key).unwrap_or_default();
        assert!(told("x", "y").contains("any PEM data in certificate"));
        assert!(told(&block("EC PRIVATE KEY"), "y").contains("switched"));
        assert!(told(&(block("A") + &block("B")), "y").ends_with("types: [A B]"));
        let certificate = block("CERTIFICATE");
        assert!(told(&certificate, "y").contains("any PEM data in key"));
        assert!(told(&certificate, &certificate).contains("rather than a key"));
        assert!(told(&certificate, &block("PRIVATE KEY")).contains("malformed"));
        let sound = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        assert_eq!(fault(sound, &block("PRIVATE KEY")), None);
    }
}
