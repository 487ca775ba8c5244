//! AuthenticationConfiguration: issuers of OpenID Connect, and who may be anonymous.
//!
//! Source: kubernetes.io, "Authenticating", "Using Authentication Configuration"; KEP-3331.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::oidc::Issuer;
use crate::identity::file::{self, Problem};
use crate::request::User;

const GROUP: &str = "apiserver.config.k8s.io";

/// The file's content.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    /// Issuers, asked by the issuer that a token names.
    #[serde(default)]
    pub jwt: Vec<Jwt>,
    /// Who may be anonymous; `None` leaves it to the flag.
    #[serde(default)]
    pub anonymous: Option<Anonymous>,
}

/// Whether requests without credentials are anonymous, and for which paths.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Anonymous {
    /// No: they are refused.
    pub enabled: bool,
    /// Only for these; for all if empty.
    #[serde(default)]
    pub conditions: Vec<AnonymousCondition>,
}

/// A path that may be asked for anonymously.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnonymousCondition {
    /// The whole path.
    pub path: String,
}

impl Default for Anonymous {
    fn default() -> Self {
        Self { enabled: true, conditions: Vec::new() }
    }
}

impl Anonymous {
    /// Whether a request for `path` may be anonymous.
    pub(super) fn allows(&self, path: &str) -> bool {
        let listed = || self.conditions.iter().any(|condition| condition.path == path);
        self.enabled && (self.conditions.is_empty() || listed())
    }
}

/// One issuer, and what its tokens mean here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Jwt {
    /// Who issues, and for whom.
    pub issuer: IssuerConfig,
    /// What must be true of the claims.
    #[serde(default)]
    pub claim_validation_rules: Vec<ClaimRule>,
    /// How claims become a user.
    pub claim_mappings: Mappings,
    /// What must be true of the user.
    #[serde(default)]
    pub user_validation_rules: Vec<UserRule>,
    /// Algorithms of signatures; not part of the file, only of the flags.
    #[serde(skip)]
    pub algorithms: Vec<String>,
}

/// Who issues tokens.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssuerConfig {
    /// What tokens name as their issuer, and where its discovery document is.
    pub url: String,
    /// Where the discovery document is instead.
    #[serde(default, rename = "discoveryURL")]
    pub discovery_url: Option<String>,
    /// Who vouches for its server (PEM); the system's authorities if empty.
    #[serde(default)]
    pub certificate_authority: String,
    /// For whom tokens must be meant; one is enough.
    pub audiences: Vec<String>,
    /// Empty, or `MatchAny`.
    #[serde(default)]
    pub audience_match_policy: String,
    /// Not supported: everything is reached the same way here.
    #[serde(default)]
    pub egress_selector_type: String,
}

/// A claim that must have a value, or an expression that must be true.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClaimRule {
    /// Name of the claim.
    pub claim: String,
    /// Its value.
    pub required_value: String,
    /// Or an expression over `claims`.
    pub expression: String,
    /// What to tell if it is false.
    pub message: String,
}

/// An expression over `user` that must be true.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UserRule {
    /// The expression.
    pub expression: String,
    /// What to tell if it is false.
    pub message: String,
}

/// How claims become a user.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mappings {
    /// The user's name.
    pub username: Mapping,
    /// The user's groups.
    #[serde(default)]
    pub groups: Mapping,
    /// The user's uid.
    #[serde(default)]
    pub uid: Mapping,
    /// Further facts.
    #[serde(default)]
    pub extra: Vec<Extra>,
}

/// A claim with a prefix, or an expression over `claims`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mapping {
    /// Name of the claim.
    pub claim: String,
    /// What is put before its value; must be said, even if it is empty.
    pub prefix: Option<String>,
    /// Or an expression.
    pub expression: String,
}

/// A further fact about a user.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Extra {
    /// Its key, a domain and a path.
    pub key: String,
    /// Expression over `claims` for its values.
    pub value_expression: String,
}

/// The configuration, ready to be asked.
#[derive(Debug, Default)]
pub struct Structured {
    issuers: Vec<Arc<Issuer>>,
    /// Who may be anonymous.
    pub anonymous: Anonymous,
}

impl Structured {
    /// Makes the issuers of a document that is valid.
    ///
    /// # Errors
    /// The field that is wrong, with its line in `text`, the content of `path`.
    pub fn new(path: &Path, text: &str, document: &Document, own: &str) -> Result<Self, Problem> {
        validate(document, own)
            .map_err(|fault| Problem::at(path, text, &fault.value, &fault.text))?;
        let made = document.jwt.iter().enumerate().map(|(at, jwt)| {
            Issuer::new(jwt).map(Arc::new).map_err(|(field, value, reason)| {
                let text_of = format!("jwt[{at}].{field}: Invalid value: {reason}");
                Problem::at(path, text, &value, text_of)
            })
        });
        Ok(Self {
            issuers: made.collect::<Result<_, _>>()?,
            anonymous: document.anonymous.clone().unwrap_or_default(),
        })
    }

    /// Reads the text of a file. `anonymous` is what the flag says; `own` issues accounts' tokens.
    ///
    /// # Errors
    /// What is wrong with the file, and where.
    pub fn parse(
        path: &Path,
        text: &str,
        anonymous: Option<bool>,
        own: &str,
    ) -> Result<Self, Problem> {
        let mut document: Document = file::parse(path, text)?;
        let version = document.api_version.strip_prefix(GROUP).and_then(|v| v.strip_prefix('/'));
        if !matches!(version, Some("v1" | "v1beta1" | "v1alpha1"))
            || document.kind != "AuthenticationConfiguration"
        {
            let reason = format!("must be an AuthenticationConfiguration of {GROUP}/v1");
            return Err(Problem::at(path, text, &document.api_version, reason));
        }
        if anonymous.is_some() && document.anonymous.is_some() {
            let reason = "anonymous and the flag --anonymous-auth cannot both be set";
            return Err(Problem::at(path, text, "anonymous", reason));
        }
        if let Some(enabled) = anonymous {
            document.anonymous = Some(Anonymous { enabled, conditions: Vec::new() });
        }
        Self::new(path, text, &document, own)
    }

    /// The user of a token of one of the issuers; `None` if none vouches for it.
    pub(super) async fn user(&self, token: &str, now: i64) -> Option<User> {
        #[derive(Deserialize)]
        struct Claims {
            iss: String,
        }
        if self.issuers.is_empty() {
            return None;
        }
        let Claims { iss } = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
        let issuer = self.issuers.iter().find(|issuer| issuer.url() == iss)?;
        match issuer.user(token, now).await {
            Ok(user) => Some(user),
            Err(reason) => {
                tracing::debug!(issuer = iss, reason, "token refused");
                None
            }
        }
    }
}

/// What is wrong with a document, and the value by which it is found in the file.
struct Fault {
    text: String,
    value: String,
}

fn fault(field: &str, value: &str, reason: &str) -> Fault {
    Fault { text: format!("{field}: Invalid value: {value:?}: {reason}"), value: value.to_owned() }
}

fn required(field: &str, reason: &str) -> Fault {
    let last = field.rsplit(['.', ']']).find(|part| !part.is_empty()).unwrap_or_default();
    Fault { text: format!("{field}: Required value{reason}"), value: last.to_owned() }
}

fn validate(document: &Document, own: &str) -> Result<(), Fault> {
    for (at, jwt) in document.jwt.iter().enumerate() {
        let field = format!("jwt[{at}]");
        let same = |other: &&Jwt| other.issuer.url == jwt.issuer.url;
        if document.jwt[..at].iter().any(|other| same(&other)) {
            let text = format!("{field}.issuer.url: Duplicate value: {:?}", jwt.issuer.url);
            return Err(Fault { text, value: jwt.issuer.url.clone() });
        }
        validate_issuer(&jwt.issuer, &field, own)?;
        validate_rules(jwt, &field)?;
        validate_mappings(&jwt.claim_mappings, &field)?;
    }
    let anonymous = document.anonymous.as_ref();
    if anonymous.is_some_and(|a| !a.enabled && !a.conditions.is_empty()) {
        let reason = "enabled should be set to true when conditions are defined";
        return Err(fault("anonymous.conditions", "conditions", reason));
    }
    Ok(())
}

fn validate_issuer(issuer: &IssuerConfig, field: &str, own: &str) -> Result<(), Fault> {
    let field = format!("{field}.issuer");
    let url = |name: &str, value: &str| {
        let name = format!("{field}.{name}");
        let wrong = |reason: &str| Err(fault(&name, value, reason));
        match value.strip_prefix("https://") {
            None => wrong("URL scheme must be https"),
            Some(rest) if rest.split('/').next().unwrap_or_default().contains('@') => {
                wrong("URL must not contain a username or password")
            }
            Some(rest) if rest.contains('?') => wrong("URL must not contain a query"),
            Some(rest) if rest.contains('#') => wrong("URL must not contain a fragment"),
            Some(_) if value.parse::<http::Uri>().is_err() => wrong("is no URL"),
            Some(_) => Ok(()),
        }
    };
    if issuer.url.is_empty() {
        return Err(required(&format!("{field}.url"), ""));
    }
    url("url", &issuer.url)?;
    if issuer.url == own {
        let reason = format!("URL must not overlap with disallowed issuers: [{own}]");
        return Err(fault(&format!("{field}.url"), &issuer.url, &reason));
    }
    if let Some(discovery) = &issuer.discovery_url {
        url("discoveryURL", discovery)?;
        if discovery.trim_end_matches('/') == issuer.url.trim_end_matches('/') {
            let reason = "discoveryURL must be different from URL";
            return Err(fault(&format!("{field}.discoveryURL"), discovery, reason));
        }
    }
    if issuer.audiences.is_empty() || issuer.audiences.iter().any(String::is_empty) {
        return Err(required(&format!("{field}.audiences"), ": at least one is required"));
    }
    let policy = issuer.audience_match_policy.as_str();
    if policy != "MatchAny" && (!policy.is_empty() || issuer.audiences.len() > 1) {
        let reason = "audienceMatchPolicy must be MatchAny for multiple audiences";
        return Err(fault(&format!("{field}.audienceMatchPolicy"), policy, reason));
    }
    if !issuer.egress_selector_type.is_empty() {
        let reason = "egress selectors are not supported";
        let value = &issuer.egress_selector_type;
        return Err(fault(&format!("{field}.egressSelectorType"), value, reason));
    }
    Ok(())
}

fn validate_rules(jwt: &Jwt, field: &str) -> Result<(), Fault> {
    for (at, rule) in jwt.claim_validation_rules.iter().enumerate() {
        let field = format!("{field}.claimValidationRules[{at}]");
        match (rule.claim.is_empty(), rule.expression.is_empty()) {
            (true, true) => return Err(required(&field, ": claim or expression is required")),
            (false, false) => {
                return Err(fault(&field, &rule.claim, "claim and expression can't both be set"));
            }
            (false, true) if !rule.message.is_empty() => {
                let reason = "may not be specified when claim is set";
                return Err(fault(&format!("{field}.message"), &rule.message, reason));
            }
            (true, false) if !rule.required_value.is_empty() => {
                let reason = "may not be specified when expression is set";
                return Err(fault(&format!("{field}.requiredValue"), &rule.required_value, reason));
            }
            _ => (),
        }
    }
    for (at, rule) in jwt.user_validation_rules.iter().enumerate() {
        if rule.expression.is_empty() {
            return Err(required(&format!("{field}.userValidationRules[{at}].expression"), ""));
        }
    }
    Ok(())
}

fn validate_mappings(mappings: &Mappings, field: &str) -> Result<(), Fault> {
    let field = format!("{field}.claimMappings");
    let each = [
        ("username", &mappings.username, true, true),
        ("groups", &mappings.groups, false, true),
        ("uid", &mappings.uid, false, false),
    ];
    for (name, mapping, is_required, has_prefix) in each {
        let field = format!("{field}.{name}");
        match (mapping.claim.is_empty(), mapping.expression.is_empty()) {
            (false, false) => {
                return Err(fault(
                    &field,
                    &mapping.claim,
                    "claim and expression can't both be set",
                ));
            }
            (true, true) if is_required => {
                return Err(required(&field, ": claim or expression is required"));
            }
            (true, _) if mapping.prefix.is_some() => {
                let prefix = mapping.prefix.as_deref().unwrap_or_default();
                let reason = "may not be specified when expression is set";
                return Err(fault(&format!("{field}.prefix"), prefix, reason));
            }
            (false, _) if has_prefix && mapping.prefix.is_none() => {
                let reason = ": prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                return Err(required(&format!("{field}.prefix"), reason));
            }
            _ => (),
        }
    }
    for (at, extra) in mappings.extra.iter().enumerate() {
        validate_extra(extra, &mappings.extra[..at], &format!("{field}.extra[{at}]"))?;
    }
    Ok(())
}

fn validate_extra(extra: &Extra, others: &[Extra], field: &str) -> Result<(), Fault> {
    let key = format!("{field}.key");
    let Some((domain, path)) = extra.key.split_once('/') else {
        return Err(fault(
            &key,
            &extra.key,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        ));
    };
    if domain.is_empty() || path.is_empty() || extra.key != extra.key.to_lowercase() {
        return Err(fault(&key, &extra.key, "must be a lowercase domain and path"));
    }
    let reserved = ["k8s.io", "kubernetes.io"];
    if reserved.iter().any(|r| domain == *r || domain.ends_with(&format!(".{r}"))) {
        let reason = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
        return Err(fault(&key, &extra.key, reason));
    }
    if others.iter().any(|other| other.key == extra.key) {
        return Err(fault(&key, &extra.key, "is there twice"));
    }
    if extra.value_expression.is_empty() {
        return Err(required(&format!("{field}.valueExpression"), ""));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: https://id.example
    audiences: [here]
  claimMappings:
    username:
      claim: sub
      prefix: ''
anonymous:
  enabled: true
  conditions:
  - path: /healthz
";

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let parsed = Structured::parse(Path::new("f.yaml"), text, None, "https://own");
        let got = parsed.map_or_else(|problem| problem.to_string(), |_| "good".to_owned());
        assert!(got.contains(expected), "{got:?} lacks {expected:?}\n{text}");
    }

    #[test]
    fn a_wrong_file_is_told_with_line_and_reason() {
        check(GOOD, "good");
        let with = |from: &str, to: &str| GOOD.replace(from, to);
        check(&with("https://id", "http://id"), "f.yaml:5: jwt[0].issuer.url: Invalid value");
        check(&with("https://id.example", "https://own"), "disallowed issuers");
        check(&with("audiences: [here]", "audiences: []"), "f.yaml:6: jwt[0].issuer.audiences");
        check(&with("      prefix: ''\n", ""), "claimMappings.username.prefix: Required value");
        check(&with("claim: sub", "claim: sub\n      expression: claims.sub"), "can't both be set");
        check(
            &with("      claim: sub\n      prefix: ''", "      expression: claims.("),
            "f.yaml:9: jwt[0].claimMappings.username",
        );
        check(&with("enabled: true", "enabled: false"), "enabled should be set to true");
        check(&with("kind: Auth", "kind: Oth"), "f.yaml:1: must be an AuthenticationConfiguration");
        check(&with("anonymous:", "anonymus:"), "f.yaml:11");
        check("{", "f.yaml:1");
    }

    #[test]
    fn only_listed_paths_are_anonymous() {
        let made = Structured::parse(Path::new("f"), GOOD, None, "").unwrap();
        assert!(made.anonymous.allows("/healthz") && !made.anonymous.allows("/version"));
        let flag = Structured::parse(Path::new("f"), GOOD, Some(true), "").unwrap_err();
        assert!(flag.to_string().contains("--anonymous-auth"), "{flag}");
        assert!(!Anonymous { enabled: false, conditions: Vec::new() }.allows("/healthz"));
    }
}
