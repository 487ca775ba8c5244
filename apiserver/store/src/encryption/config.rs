//! Reads an `EncryptionConfiguration`, and refuses a wrong one at the line that is wrong.
//!
//! Source: upstream `apiserver/pkg/apis/apiserver/v1`, and its validation.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    Rule, Rules, Target,
    provider::{Kind, Provider},
};

/// Where and why a configuration is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ConfigError {
    /// Counted from 1.
    pub line: u64,
    /// What is wrong there.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    api_version: Spanned<String>,
    kind: Spanned<String>,
    resources: Spanned<Vec<Spanned<Section>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    resources: Vec<Spanned<String>>,
    providers: Vec<Spanned<Choice>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    aescbc: Option<Keys>,
    aesgcm: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Identity>,
    kms: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<Spanned<Key>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    secret: String,
}

/// Reads the text of an `EncryptionConfiguration` (YAML or JSON).
///
/// # Errors
/// [`ConfigError`] says what is wrong, and in which line.
pub fn parse(text: &str) -> Result<Rules, ConfigError> {
    let document: Document = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let whole = error.without_snippet().to_string();
        ConfigError { line, reason: whole }
    })?;
    expect(&document.api_version, &["apiserver.config.k8s.io/v1"], "apiVersion")?;
    expect(&document.kind, &["EncryptionConfiguration"], "kind")?;
    if document.resources.value.is_empty() {
        return Err(at(&document.resources, "at least one resources is required"));
    }
    document.resources.value.iter().map(rule).collect::<Result<_, _>>().map(Rules)
}

fn at<T>(place: &Spanned<T>, reason: impl Into<String>) -> ConfigError {
    ConfigError { line: place.referenced.line(), reason: reason.into() }
}

fn expect(value: &Spanned<String>, known: &[&str], what: &str) -> Result<(), ConfigError> {
    if known.contains(&value.value.as_str()) {
        return Ok(());
    }
    Err(at(value, format!("{what} {:?} must be {}", value.value, known.join(" or "))))
}

fn rule(section: &Spanned<Section>) -> Result<Rule, ConfigError> {
    let Section { resources, providers } = &section.value;
    if resources.is_empty() {
        return Err(at(section, "at least one resource is required"));
    }
    if providers.is_empty() {
        return Err(at(section, "at least one provider is required"));
    }
    let targets: Vec<Target> = resources.iter().map(target).collect::<Result<_, _>>()?;
    for (n, resource) in resources.iter().enumerate() {
        if let Some(other) = (0..n).find(|m| overlap(&targets[n], &targets[*m])) {
            let text = format!("{:?} overlaps with {:?}", resource.value, resources[other].value);
            return Err(at(resource, text));
        }
    }
    let providers: Vec<Vec<Provider>> = providers.iter().map(choice).collect::<Result<_, _>>()?;
    Ok(Rule { targets, providers: providers.into_iter().flatten().collect() })
}

/// `secrets`, `deployments.apps`, `*.apps`, `*.` (the core group), `*.*`.
fn target(name: &Spanned<String>) -> Result<Target, ConfigError> {
    let text = name.value.as_str();
    let (resource, group) = text.split_once('.').unwrap_or((text, ""));
    let why = if text.is_empty() || text == "*" {
        "use '*.' for all resources of the core group, or '*.*' for all resources"
    } else if text.chars().any(char::is_uppercase) {
        "resource name should not contain capital letters"
    } else if group == "*" && resource != "*" {
        "encrypting the same resource across groups is not supported"
    } else if group == "events.k8s.io" {
        "events of this group are stored as 'events' of the core group; name those"
    } else if group == "extensions" {
        "the group 'extensions' does not exist any more"
    } else {
        let group = if group.is_empty() { "core" } else { group };
        let some = |part: &str| (part != "*").then(|| part.to_owned());
        return Ok(Target { group: some(group), resource: some(resource) });
    };
    Err(at(name, format!("{text:?}: {why}")))
}

fn overlap(a: &Target, b: &Target) -> bool {
    let meet = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
    meet(&a.group, &b.group) && meet(&a.resource, &b.resource)
}

fn choice(choice: &Spanned<Choice>) -> Result<Vec<Provider>, ConfigError> {
    let Choice { aescbc, aesgcm, secretbox, identity, kms } = &choice.value;
    if kms.is_some() {
        return Err(at(choice, "the kms provider is not supported; use secretbox or aesgcm"));
    }
    let mut keys = [(Kind::AesCbc, aescbc), (Kind::AesGcm, aesgcm), (Kind::Secretbox, secretbox)]
        .into_iter()
        .filter_map(|(kind, keys)| Some((kind, keys.as_ref()?)));
    match (keys.next(), keys.next(), identity) {
        (Some((kind, keys)), None, None) => providers(choice, kind, &keys.keys),
        (None, None, Some(Identity {})) => Ok(vec![Provider::identity()]),
        (None, None, None) => Err(at(
            choice,
            "provider does not contain any of the expected providers: aescbc, aesgcm, secretbox, identity",
        )),
        _ => Err(at(
            choice,
            "more than one provider specified in a single element, should split into different list elements",
        )),
    }
}

fn providers(
    choice: &Spanned<Choice>,
    kind: Kind,
    keys: &[Spanned<Key>],
) -> Result<Vec<Provider>, ConfigError> {
    if keys.is_empty() {
        return Err(at(choice, format!("{}: at least one key is required", kind.name())));
    }
    keys.iter().map(|key| provider(kind, key)).collect()
}

/// Says nothing of the secret itself: errors end in logs.
fn provider(kind: Kind, key: &Spanned<Key>) -> Result<Provider, ConfigError> {
    let Key { name, secret } = &key.value;
    if name.is_empty() || name.contains(':') {
        return Err(at(key, format!("key name {name:?} must not be empty or contain ':'")));
    }
    let secret = STANDARD
        .decode(secret)
        .map_err(|_| at(key, format!("the secret of key {name:?} must be base64 encoded")))?;
    Provider::new(kind, name, &secret).ok_or_else(|| {
        let (size, sizes) = (secret.len(), kind.key_sizes());
        at(key, format!("the secret of key {name:?} has {size} bytes, expected one of {sizes:?}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

    fn document(resources: &str, providers: &str) -> String {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [{resources}]\n  providers:\n{providers}"
        )
    }

    fn secretbox() -> String {
        format!(
            "  - secretbox:\n      keys:\n      - name: one\n        secret: {KEY}\n  - identity: {{}}\n"
        )
    }

    #[test]
    fn the_first_section_that_names_a_resource_counts() {
        let section = |resources: &str| {
            format!("- resources: ['{resources}']\n  providers:\n{}", secretbox())
        };
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{}- resources: [events]\n  providers:\n  - identity: {{}}\n{}{}",
            section("secrets"),
            section("*."),
            section("*.apps"),
        );
        let rules = parse(&text).unwrap();
        let first = |key: &str| rules.of(key).first().map(ToString::to_string);
        let sealed = Some("k8s:enc:secretbox:v1:one".to_owned());
        assert_eq!(first("/registry/core/secrets/default/a"), sealed);
        assert_eq!(first("/registry/core/configmaps/default/a"), sealed);
        assert_eq!(first("/registry/core/events/default/a"), Some(String::new()));
        assert_eq!(first("/registry/apps/deployments/default/a"), sealed);
        assert_eq!(first("/registry/batch/jobs/default/a"), None);
    }

    #[track_caller]
    fn refused(text: &str, line: u64, reason: &str) {
        let error = parse(text).unwrap_err();
        assert_eq!(error.line, line, "{error}");
        assert!(error.reason.contains(reason), "{error}");
        assert!(!error.reason.contains("MDEy"), "secrets stay secret: {error}");
    }

    #[test]
    fn a_wrong_file_is_refused_at_its_line() {
        let keys = |secret: &str| {
            format!("  - aesgcm:\n      keys:\n      - name: one\n        secret: {secret}\n")
        };
        refused(
            "apiVersion: v1\nkind: EncryptionConfiguration\nresources: []\n",
            1,
            "apiserver.config.k8s.io/v1",
        );
        refused(&document("secrets", &keys("c2hvcnQ=")), 8, "has 5 bytes");
        refused(&document("secrets", &keys("'?'")), 8, "base64");
        refused(&document("secrets", "  - aesgcm: {keys: []}\n"), 6, "at least one key");
        refused(&document("secrets", "  - kms: {name: x}\n"), 6, "kms");
        refused(&document("secrets", "  - {}\n"), 6, "expected providers");
        refused(&document("secrets, Secrets", &secretbox()), 4, "capital letters");
        refused(&document("secrets, '*.'", &secretbox()), 4, "overlaps");
        refused(&document("'*'", &secretbox()), 4, "'*.*'");
        refused(&document("secrets", "  - aesgmc: {}\n"), 6, "aesgmc");
    }
}
