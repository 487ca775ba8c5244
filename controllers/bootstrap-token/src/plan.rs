//! What `cluster-info` shall hold, and which tokens are over.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use crate::jws;
use crate::token::Token;

/// The ConfigMap that tells strangers where the cluster is.
pub const CLUSTER_INFO: &str = "cluster-info";
/// Where it is.
pub const PUBLIC: &str = "kube-public";
/// Its entry that is signed: a kubeconfig without a user.
pub const KUBECONFIG: &str = "kubeconfig";
/// What the names of entries with signatures begin with; the token's id follows.
pub const SIGNATURE: &str = "jws-kubeconfig-";

/// Entries of a ConfigMap.
pub type Data = BTreeMap<String, String>;

/// What `cluster-info` shall hold instead of `data`; `None` if all is well: one signature by each token
/// that signs, none by others.
///
/// Source: upstream `pkg/controller/bootstrap/bootstrapsigner.go`.
pub fn sign(data: &Data, tokens: &[Token], now: Timestamp) -> Option<Data> {
    let content = data.get(KUBECONFIG)?;
    let mut wanted: Data =
        data.iter().filter(|(key, _)| !key.starts_with(SIGNATURE)).map(clone).collect();
    for token in tokens.iter().filter(|token| token.signs && !token.end.is_past(now)) {
        let signature = jws::sign(content, &token.id, &token.secret)?;
        wanted.insert(format!("{SIGNATURE}{}", token.id), signature);
    }
    (wanted != *data).then_some(wanted)
}

fn clone((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::End;

    const NOW: i64 = 1_000;

    fn token(id: &str, end: End, signs: bool) -> Token {
        Token { id: id.to_owned(), secret: "0123456789abcdef".to_owned(), end, signs }
    }

    /// The signed tokens' ids after a plan on `before`'s; `-` if nothing is to be done.
    #[track_caller]
    fn check(before: &[&Token], tokens: &[&Token], expected: &str) {
        let mut data = Data::from([(KUBECONFIG.to_owned(), "k".to_owned())]);
        for token in before {
            let signature = jws::sign("k", &token.id, &token.secret).unwrap();
            data.insert(format!("{SIGNATURE}{}", token.id), signature);
        }
        let tokens: Vec<Token> = tokens.iter().map(|token| (*token).clone()).collect();
        let planned = sign(&data, &tokens, Timestamp::from_second(NOW).unwrap());
        let ids = planned.map(|data| {
            assert_eq!(data[KUBECONFIG], "k");
            data.keys().filter_map(|key| key.strip_prefix(SIGNATURE)).collect::<Vec<_>>().join(" ")
        });
        assert_eq!(ids.unwrap_or_else(|| "-".to_owned()), expected);
    }

    #[test]
    fn every_token_that_signs_has_its_signature() {
        let at = |second| End::At(Timestamp::from_second(second).unwrap());
        let (one, two) = (token("aaaaaa", End::Never, true), token("bbbbbb", at(NOW + 1), true));
        check(&[], &[&one, &two], "aaaaaa bbbbbb");
        check(&[&one, &two], &[&one, &two], "-");
        check(&[&one, &two], &[&one], "aaaaaa");
        check(&[&one], &[], "");
        check(&[], &[&token("cccccc", End::Never, false)], "-");
        for over in [at(NOW), End::Unreadable] {
            check(&[&one], &[&token("aaaaaa", over, true)], "");
        }
    }

    #[test]
    fn without_a_kubeconfig_there_is_nothing_to_sign() {
        let now = Timestamp::from_second(NOW).unwrap();
        assert_eq!(sign(&Data::new(), &[token("aaaaaa", End::Never, true)], now), None);
    }
}
