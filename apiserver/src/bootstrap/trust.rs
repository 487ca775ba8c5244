//! Whom extension servers may believe: what all API servers of a cluster say together. Pure.
//!
//! Source: upstream `pkg/controlplane/controller/clusterauthenticationtrust`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use x509_parser::pem::Pem;

use super::plan::{Settings, Step};

/// Members of the ConfigMap.
type Data = BTreeMap<String, String>;

/// Members that hold certificates; all others hold lists of strings, as JSON.
const CERTIFICATES: [&str; 2] = ["client-ca-file", "requestheader-client-ca-file"];

/// The ConfigMap, as this server alone would write it at `now` (seconds since 1970).
pub(super) fn object(settings: &Settings, now: i64) -> Value {
    let list = |names: &[String]| Value::from(names).to_string();
    let front_proxy = &settings.front_proxy;
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
        "data": {
            "client-ca-file": certificates(&settings.client_ca, now).concat(),
            "requestheader-allowed-names": list(&front_proxy.allowed_names),
            "requestheader-client-ca-file": certificates(&settings.front_proxy_ca, now).concat(),
            "requestheader-extra-headers-prefix": list(&front_proxy.extra_headers_prefix),
            "requestheader-group-headers": list(&front_proxy.group_headers),
            "requestheader-uid-headers": list(&front_proxy.uid_headers),
            "requestheader-username-headers": list(&front_proxy.username_headers),
        },
    })
}

/// Compares what this server says with what is there. What others have added stays; what this server said
/// `before`, and says no more, goes; certificates that have expired at `now` (seconds since 1970) go, too.
pub(super) fn step(
    wanted: &Value,
    present: Option<&Value>,
    before: Option<&Value>,
    now: i64,
) -> Step {
    let Some(present) = present else { return Step::Create };
    let data = |object: &Value| -> Data {
        serde_json::from_value(object["data"].clone()).unwrap_or_default()
    };
    let (there, ours) = (data(present), data(wanted));
    let before = before.map(data).unwrap_or_default();
    let mut next = present.clone();
    for (member, ours) in &ours {
        let [there, before] = [&there, &before].map(|d| d.get(member).map_or("", String::as_str));
        let text = if CERTIFICATES.contains(&member.as_str()) {
            let lists = [there, before, ours].map(|pem| certificates(pem, now));
            together(lists).concat()
        } else {
            let lists = [there, before, ours].map(|l| serde_json::from_str(l).unwrap_or_default());
            Value::from(together::<String>(lists)).to_string()
        };
        next["data"][member] = text.into();
    }
    if next == *present { Step::Keep } else { Step::Update(next) }
}

/// What is there, less what was said before, and what is said now; nothing twice.
fn together<T: PartialEq>([there, before, ours]: [Vec<T>; 3]) -> Vec<T> {
    let kept = there.into_iter().filter(|one| ours.contains(one) || !before.contains(one));
    let mut all: Vec<T> = Vec::new();
    for one in kept.collect::<Vec<_>>().into_iter().chain(ours) {
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all
}

/// The certificates of a PEM text that are good at `now`, each as PEM in one form. What is no certificate is left
/// out: nobody could believe it.
fn certificates(pem: &str, now: i64) -> Vec<String> {
    let blocks = Pem::iter_from_buffer(pem.as_bytes()).filter_map(Result::ok);
    let good = blocks.filter(|block| {
        block.parse_x509().is_ok_and(|found| found.validity().not_after.timestamp() > now)
    });
    good.map(|block| to_pem(&block.contents)).collect()
}

fn to_pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    /// A certificate that ends so many seconds after [`NOW`].
    fn certificate(seconds: i64) -> String {
        let mut params = rcgen::CertificateParams::default();
        let end = std::time::Duration::from_secs(u64::try_from(NOW + seconds).unwrap());
        params.not_after = (std::time::SystemTime::UNIX_EPOCH + end).into();
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem().replace("\r\n", "\n")
    }

    fn map(authorities: &[&str], names: &[&str]) -> Value {
        json!({ "data": {
            "client-ca-file": authorities.concat(),
            "requestheader-allowed-names": json!(names).to_string(),
        } })
    }

    #[track_caller]
    fn check(wanted: &Value, present: &Value, before: Option<&Value>, expected: &Value) {
        let expected =
            if expected == present { Step::Keep } else { Step::Update(expected.clone()) };
        assert_eq!(step(wanted, Some(present), before, NOW), expected);
    }

    #[test]
    fn what_other_servers_say_stays_and_nothing_stands_twice() {
        let (ours, theirs) = (&certificate(60), &certificate(60));
        let both = &map(&[theirs, ours], &["their", "our"]);
        let wanted = &map(&[ours], &["our"]);
        check(wanted, &map(&[theirs], &["their"]), None, both);
        check(wanted, both, None, both);
        check(wanted, &map(&[theirs, theirs, ours], &["their", "our"]), Some(wanted), both);
        assert_eq!(step(wanted, None, None, NOW), Step::Create);
    }

    #[test]
    fn expired_authorities_and_what_is_none_go() {
        let (ours, old) = (&certificate(60), &certificate(-60));
        let expected = &map(&[ours], &["our"]);
        check(&map(&[ours], &["our"]), &map(&[old, "x\n", ours], &["our"]), None, expected);
    }

    #[test]
    fn what_this_server_took_back_goes_and_what_others_added_stays() {
        let (first, second, theirs) = (&certificate(60), &certificate(60), &certificate(60));
        let present = map(&[first, theirs], &["first", "their"]);
        let before = map(&[first], &["first"]);
        let expected = map(&[theirs, second], &["their", "second"]);
        check(&map(&[second], &["second"]), &present, Some(&before), &expected);
    }

    #[test]
    fn a_map_of_which_members_are_broken_is_mended() {
        let wanted = map(&[&certificate(60)], &["our"]);
        let present = json!({ "data": { "client-ca-file": "x", "requestheader-allowed-names": "x",
            "other": "stays" } });
        let mut expected = wanted.clone();
        expected["data"]["other"] = "stays".into();
        check(&wanted, &present, None, &expected);
    }
}
