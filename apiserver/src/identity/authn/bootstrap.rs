//! Bootstrap tokens: short secrets that let a new node ask for its certificate.
//!
//! Source: kubernetes.io, "Authenticating with Bootstrap Tokens".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::Lookup;
use crate::request::User;

/// Group of all who show such a token.
const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// The user of a bootstrap token, if its Secret in kube-system is there, says so, and is not over.
pub(super) fn user(token: &str, objects: &dyn Lookup, now: i64) -> Option<User> {
    let (id, secret) = split(token)?;
    let object = objects.object("secrets", "kube-system", &format!("bootstrap-token-{id}"))?;
    let alive = object["metadata"]["deletionTimestamp"].is_null();
    if object["type"] != "bootstrap.kubernetes.io/token" || !alive {
        return None;
    }
    let data = |key: &str| decoded(&object["data"][key]);
    let matches = equal(data("token-secret")?.as_bytes(), secret.as_bytes());
    let meant = data("token-id").as_deref() == Some(id)
        && data("usage-bootstrap-authentication").as_deref() == Some("true");
    let over = match data("expiration") {
        // What cannot be read has no meaning that one could rely on.
        Some(text) => text.parse::<Timestamp>().map_or(true, |end| end.as_second() <= now),
        None => false,
    };
    if !matches || !meant || over {
        return None;
    }
    let mut groups = vec![BOOTSTRAPPERS.to_owned()];
    let extra = data("auth-extra-groups").unwrap_or_default();
    for group in extra.split(',').filter(|group| !group.is_empty()) {
        if !is_group(group) {
            return None;
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    Some(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

/// `[a-z0-9]{6}.[a-z0-9]{16}`
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// Whether a bootstrap token may bring this group: further ones stay below the one that all have, so that a Secret
/// cannot make an administrator.
pub fn is_group(group: &str) -> bool {
    let Some(tail) = group.strip_prefix("system:bootstrappers:") else { return false };
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b':' || b == b'-';
    let ends_well = tail.bytes().last().is_some_and(|b| legal(b) && b != b':' && b != b'-');
    tail.len() <= 256 && tail.bytes().all(legal) && ends_well
}

fn decoded(value: &Value) -> Option<String> {
    String::from_utf8(STANDARD.decode(value.as_str()?).ok()?).ok()
}

/// Whether two secrets are equal, in a time that does not tell where they differ.
pub(super) fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (x, y)| differences | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::super::Found;
    use super::*;
    use serde_json::json;

    struct Secrets(Value);

    impl Lookup for Secrets {
        fn find(&self, _: &str, _: &str, _: &str) -> Option<Found> {
            None
        }

        fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
            let there = ("secrets", "kube-system", "bootstrap-token-abcdef");
            ((resource, namespace, name) == there).then(|| self.0.clone())
        }
    }

    /// The user by the Secret with these changes, as `name groups`.
    #[track_caller]
    fn check(changes: &[(&str, &str)], token: &str, expected: Option<&str>) {
        let mut data = json!({
            "token-id": "abcdef", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true", "expiration": "2026-01-01T00:00:00Z",
            "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        });
        for (key, value) in changes {
            data[*key] = (*value).into();
        }
        for value in data.as_object_mut().unwrap().values_mut() {
            *value = STANDARD.encode(value.as_str().unwrap()).into();
        }
        let secret = json!({ "type": "bootstrap.kubernetes.io/token", "data": data });
        let now = "2025-12-31T00:00:00Z".parse::<Timestamp>().unwrap().as_second();
        let found = user(token, &Secrets(secret), now);
        let found = found.map(|user| format!("{} {}", user.name, user.groups.join(",")));
        assert_eq!(found.as_deref(), expected, "{changes:?} {token}");
    }

    const GOOD: &str = "abcdef.0123456789abcdef";

    #[test]
    fn a_good_token_is_a_bootstrapper() {
        let default = "system:bootstrap:abcdef system:bootstrappers,system:bootstrappers:kubeadm:default-node-token";
        check(&[], GOOD, Some(default));
        let plain = "system:bootstrap:abcdef system:bootstrappers";
        check(&[("auth-extra-groups", "")], GOOD, Some(plain));
    }

    #[test]
    fn all_others_are_nobody() {
        check(&[], "abcdef.0123456789abcdeX", None);
        check(&[], "abcdef.0123456789abcdee", None);
        check(&[], "zzzzzz.0123456789abcdef", None);
        check(&[], "abcdef0123456789abcdef", None);
        check(&[("token-id", "fedcba")], GOOD, None);
        check(&[("usage-bootstrap-authentication", "false")], GOOD, None);
        check(&[("expiration", "2025-12-30T00:00:00Z")], GOOD, None);
        check(&[("expiration", "soon")], GOOD, None);
        check(&[("auth-extra-groups", "system:masters")], GOOD, None);
        check(&[("auth-extra-groups", "system:bootstrappers:")], GOOD, None);
    }
}
