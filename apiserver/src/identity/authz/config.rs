//! Which authorizers there are: modes by flags, or an AuthorizationConfiguration.
//!
//! Source: kubernetes.io, "Authorization", "Configuring the API Server using an Authorization Config
//! File"; KEP-3221.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::Member;
use super::abac::Policies;
use super::remote::{Remote, Settings};
use crate::duration;
use crate::identity::file::{self, Problem};
use crate::identity::options::AuthorizationOptions;

const GROUP: &str = "apiserver.config.k8s.io";

/// Longest wait for a server outside.
const LONGEST: Duration = Duration::from_secs(30);

/// A kind of authorizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
pub enum Mode {
    /// Node agents, by what runs on their node.
    #[value(name = "Node")]
    Node,
    /// Role bindings.
    #[value(name = "RBAC")]
    #[serde(rename = "RBAC")]
    Rbac,
    /// Policies of a file.
    #[value(name = "ABAC")]
    #[serde(rename = "ABAC")]
    Abac,
    /// A server outside.
    #[value(name = "Webhook")]
    Webhook,
    /// Everybody may everything.
    #[value(name = "AlwaysAllow")]
    AlwaysAllow,
    /// Nobody may anything.
    #[value(name = "AlwaysDeny")]
    AlwaysDeny,
}

/// The chain that flags describe.
///
/// # Errors
/// A file is wrong, or one that a mode needs is not named.
pub fn by_modes(options: &AuthorizationOptions) -> Result<Vec<Member>, Problem> {
    let modes = &options.modes;
    if let Some(at) = (1..modes.len()).find(|at| modes[..*at].contains(&modes[*at])) {
        let reason = format!("has mode {:?} specified more than once", modes[at]);
        return Err(Problem::new("--authorization-mode", reason));
    }
    for (mode, flag, file) in [
        (Mode::Abac, "--authorization-policy-file", &options.policy_file),
        (Mode::Webhook, "--authorization-webhook-config-file", &options.webhook_config_file),
    ] {
        match (modes.contains(&mode), file) {
            (true, None) => {
                return Err(Problem::new(flag, format!("must be set for mode {mode:?}")));
            }
            (false, Some(_)) => {
                let reason = format!("is of no use without {mode:?} in --authorization-mode");
                return Err(Problem::new(flag, reason));
            }
            _ => (),
        }
    }
    modes.iter().map(|mode| by_mode(*mode, options)).collect()
}

fn by_mode(mode: Mode, options: &AuthorizationOptions) -> Result<Member, Problem> {
    let none = PathBuf::new();
    Ok(match mode {
        Mode::Abac => Member::Abac(Policies::read(options.policy_file.as_ref().unwrap_or(&none))?),
        Mode::Webhook => {
            let settings = Settings {
                version: options.webhook_version.clone(),
                authorized_ttl: options.authorized_ttl,
                unauthorized_ttl: options.unauthorized_ttl,
                timeout: LONGEST,
                ..Settings::default()
            };
            let path = options.webhook_config_file.as_ref().unwrap_or(&none);
            Member::Remote(Box::new(Remote::new("default", path, settings)?))
        }
        other => simple(other),
    })
}

fn simple(mode: Mode) -> Member {
    match mode {
        Mode::Node => Member::Node,
        Mode::Rbac => Member::Rbac,
        Mode::AlwaysAllow => {
            tracing::warn!(
                "authorization mode AlwaysAllow: whoever gets in may do everything; never use it where strangers come"
            );
            Member::AlwaysAllow
        }
        // The other two need files, and are made of them.
        Mode::AlwaysDeny | Mode::Abac | Mode::Webhook => Member::AlwaysDeny,
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    authorizers: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    #[serde(rename = "type")]
    mode: Mode,
    #[serde(default)]
    name: String,
    #[serde(default)]
    webhook: Option<WebhookEntry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WebhookEntry {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: String,
    cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: String,
    cache_unauthorized_requests: Option<bool>,
    timeout: String,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: Connection,
    match_conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Connection {
    #[serde(rename = "type")]
    kind: String,
    kube_config_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Condition {
    expression: String,
}

/// The chain in the text of an AuthorizationConfiguration, the content of `path`.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse(path: &Path, text: &str, policy: Option<&Path>) -> Result<Vec<Member>, Problem> {
    let document: Document = file::parse(path, text)?;
    let version = document.api_version.strip_prefix(GROUP).and_then(|v| v.strip_prefix('/'));
    if !matches!(version, Some("v1" | "v1beta1" | "v1alpha1"))
        || document.kind != "AuthorizationConfiguration"
    {
        let reason = format!("must be an AuthorizationConfiguration of {GROUP}/v1");
        return Err(Problem::at(path, text, &document.api_version, reason));
    }
    if document.authorizers.is_empty() {
        let reason = "authorizers: Required value: at least one authorization mode must be defined";
        return Err(Problem::at(path, text, "authorizers", reason));
    }
    let mut members = Vec::new();
    for (at, entry) in document.authorizers.iter().enumerate() {
        let field = format!("authorizers[{at}]");
        let wrong =
            |value: &str, reason: &str| Problem::at(path, text, value, format!("{field}{reason}"));
        let before = &document.authorizers[..at];
        if entry.mode != Mode::Webhook && before.iter().any(|other| other.mode == entry.mode) {
            return Err(wrong("type", &format!(".type: Duplicate value: \"{:?}\"", entry.mode)));
        }
        if entry.name.is_empty() {
            return Err(wrong("type", ".name: Required value"));
        }
        if before.iter().any(|other| other.name == entry.name) {
            return Err(wrong(&entry.name, &format!(".name: Duplicate value: {:?}", entry.name)));
        }
        members.push(match (entry.mode, &entry.webhook) {
            (Mode::Webhook, Some(webhook)) => {
                let made = remote(&entry.name, webhook, &|value: &str, reason: &str| {
                    wrong(value, &format!(".webhook.{reason}"))
                });
                Member::Remote(Box::new(made?))
            }
            (Mode::Webhook, None) => {
                return Err(wrong(&entry.name, ".webhook: Required value: required when type=Webhook"));
            }
            (_, Some(_)) => {
                return Err(wrong(
                    &entry.name,
                    ".webhook: Invalid value: \"non-null\": may only be specified when type=Webhook",
                ));
            }
            (Mode::Abac, None) => match policy {
                Some(policy) => Member::Abac(Policies::read(policy)?),
                None => return Err(wrong(&entry.name, ": needs --authorization-policy-file")),
            },
            (mode, None) => simple(mode),
        });
    }
    Ok(members)
}

fn remote(
    name: &str,
    entry: &WebhookEntry,
    wrong: &dyn Fn(&str, &str) -> Problem,
) -> Result<Remote, Problem> {
    let span = |field: &str, text: &str| match duration::parse(text) {
        Some(span) if !span.is_zero() => Ok(span),
        _ => Err(wrong(field, &format!("{field}: Invalid value: {text:?}: must be > 0s"))),
    };
    let timeout = span("timeout", &entry.timeout)?;
    if timeout > LONGEST {
        let reason =
            format!("timeout: Invalid value: {:?}: must be > 0s and <= 30s", entry.timeout);
        return Err(wrong("timeout", &reason));
    }
    let one_of = |field: &str, value: &str, values: &[&str]| match values.contains(&value) {
        true => Ok(()),
        false => {
            let supported = values.join("\", \"");
            let reason =
                format!("{field}: Unsupported value: {value:?}: supported values: \"{supported}\"");
            Err(wrong(if value.is_empty() { name } else { value }, &reason))
        }
    };
    let version = &entry.subject_access_review_version;
    one_of("subjectAccessReviewVersion", version, &["v1", "v1beta1"])?;
    one_of("failurePolicy", &entry.failure_policy, &["NoOpinion", "Deny"])?;
    one_of("connectionInfo.type", &entry.connection_info.kind, &["KubeConfigFile"])?;
    if !entry.match_conditions.is_empty() {
        let version = &entry.match_condition_subject_access_review_version;
        one_of("matchConditionSubjectAccessReviewVersion", version, &["v1"])?;
    }
    let Some(path) = &entry.connection_info.kube_config_file else {
        return Err(wrong(name, "connectionInfo.kubeConfigFile: Required value"));
    };
    let mut conditions = Vec::new();
    for (at, condition) in entry.match_conditions.iter().enumerate() {
        let text = &condition.expression;
        conditions.push(schema::cel::compile(text).map_err(|reason| {
            let field = format!("matchConditions[{at}].expression");
            wrong(text, &format!("{field}: Invalid value: {text:?}: {reason}"))
        })?);
    }
    let life = |field: &str, text: &str, cached: Option<bool>| {
        Ok(if cached == Some(false) { Duration::ZERO } else { span(field, text)? })
    };
    let settings = Settings {
        version: version.clone(),
        authorized_ttl: life(
            "authorizedTTL",
            &entry.authorized_ttl,
            entry.cache_authorized_requests,
        )?,
        unauthorized_ttl: life(
            "unauthorizedTTL",
            &entry.unauthorized_ttl,
            entry.cache_unauthorized_requests,
        )?,
        timeout,
        conditions,
        denies_on_failure: entry.failure_policy == "Deny",
    };
    Remote::new(name, path, settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(folder: &Path) -> String {
        let kubeconfig = folder.join("w.kubeconfig");
        let text = "{clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}], contexts: [{name: c, context: {cluster: a, user: ''}}], current-context: c}";
        std::fs::write(&kubeconfig, text).unwrap();
        format!(
            "apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Webhook
  name: far
  webhook:
    authorizedTTL: 30s
    unauthorizedTTL: 30s
    timeout: 3s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: Deny
    connectionInfo:
      type: KubeConfigFile
      kubeConfigFile: {}
    matchConditions:
    - expression: has(request.resourceAttributes)
- type: Node
  name: node
- type: RBAC
  name: rbac
",
            kubeconfig.display()
        )
    }

    #[test]
    fn a_wrong_file_is_told_with_line_and_reason() {
        let folder = tempfile::tempdir().unwrap();
        let good = webhook(folder.path());
        #[track_caller]
        fn check(text: &str, expected: &str) {
            let parsed = parse(Path::new("f"), text, None);
            let got = parsed.map_or_else(|p| p.to_string(), |chain| format!("{}", chain.len()));
            assert!(got.contains(expected), "{got:?} lacks {expected:?}\n{text}");
        }
        check(&good, "3");
        let with = |from: &str, to: &str| good.replace(from, to);
        check(&with("timeout: 3s", "timeout: 31s"), "f:9: authorizers[0].webhook.timeout");
        check(&with("failurePolicy: Deny", "failurePolicy: Allow"), "Unsupported value: \"Allow\"");
        check(&with("type: RBAC", "type: Node"), "authorizers[2].type: Duplicate value");
        check(&with("name: rbac", "name: node"), "authorizers[2].name: Duplicate value");
        check(&with("type: RBAC", "type: Magic"), "f:20");
        check(
            &with("has(request", "has(("),
            "authorizers[0].webhook.matchConditions[0].expression",
        );
        check(&with("w.kubeconfig", "gone"), "gone: cannot be read");
        check(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n",
            "at least one",
        );
    }

    #[test]
    fn modes_need_their_files() {
        let chain = |modes: &[Mode]| {
            let options = AuthorizationOptions { modes: modes.to_vec(), ..Default::default() };
            by_modes(&options).map(|chain| chain.len()).map_err(|p| p.to_string())
        };
        assert_eq!(chain(&[Mode::Node, Mode::Rbac]), Ok(2));
        assert!(chain(&[Mode::Rbac, Mode::Rbac]).unwrap_err().contains("more than once"));
        assert!(chain(&[Mode::Abac]).unwrap_err().starts_with("--authorization-policy-file"));
        assert!(chain(&[Mode::Webhook]).unwrap_err().contains("must be set"));
    }
}
