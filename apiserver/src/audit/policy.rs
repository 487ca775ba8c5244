//! The audit policy: what is recorded of which request. The first rule that matches decides.
//!
//! Source: kubernetes.io, "Auditing", "Audit policy"; `audit.k8s.io/v1` `Policy`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::event::{Level, Stage};
use crate::request::{RequestInfo, User};

/// A policy file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {reason}", path.display(), line.map(|n| format!(":{n}")).unwrap_or_default())]
pub struct PolicyError {
    /// The file.
    pub path: PathBuf,
    /// The line, if it is known.
    pub line: Option<u64>,
    /// What is wrong there.
    pub reason: String,
}

/// What is recorded of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// How much.
    pub level: Level,
    /// Whether `managedFields` are left out of objects.
    pub omit_managed_fields: bool,
    rule: Option<&'a [Stage]>,
    policy: &'a [Stage],
}

impl Decision<'_> {
    /// Whether no event is made for a stage.
    pub fn omits(&self, stage: Stage) -> bool {
        self.policy.contains(&stage) || self.rule.is_some_and(|stages| stages.contains(&stage))
    }
}

/// A policy that was read and checked.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: Option<serde_json::Value>,
    #[serde(default)]
    rules: Vec<Spanned<Rule>>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// File, line and reason.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        let text = std::fs::read_to_string(path).map_err(|error| PolicyError {
            path: path.to_owned(),
            line: None,
            reason: format!("cannot be read: {error}"),
        })?;
        Self::parse(&text).map_err(|(line, reason)| PolicyError {
            path: path.to_owned(),
            line,
            reason,
        })
    }

    /// Reads a policy from YAML or JSON.
    ///
    /// # Errors
    /// The line, if it is known, and what is wrong.
    pub fn parse(text: &str) -> Result<Self, (Option<u64>, String)> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| {
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            (error.location().map(|at| at.line()), reason)
        })?;
        let (version, kind) = (&file.api_version, &file.kind);
        if version != "audit.k8s.io/v1" || kind != "Policy" {
            let reason = format!("must be a Policy of audit.k8s.io/v1, not a {kind} of {version}");
            return Err((Some(1), reason));
        }
        if file.rules.is_empty() {
            return Err((Some(1), "a policy must have at least one rule".to_owned()));
        }
        for (n, rule) in file.rules.iter().enumerate() {
            if let Some(fault) = rule.value.fault() {
                return Err((Some(rule.referenced.line()), format!("rules[{n}].{fault}")));
            }
        }
        Ok(Self {
            rules: file.rules.into_iter().map(|rule| rule.value).collect(),
            omit_stages: file.omit_stages,
            omit_managed_fields: file.omit_managed_fields,
        })
    }

    /// What is recorded of a request; nothing, if no rule matches.
    pub fn decide(&self, user: Option<&User>, info: &RequestInfo) -> Decision<'_> {
        let rule = self.rules.iter().find(|rule| rule.matches(user, info));
        Decision {
            level: rule.map_or(Level::None, |rule| rule.level),
            omit_managed_fields: rule
                .and_then(|rule| rule.omit_managed_fields)
                .unwrap_or(self.omit_managed_fields),
            rule: rule.map(|rule| rule.omit_stages.as_slice()),
            policy: &self.omit_stages,
        }
    }
}

impl Rule {
    /// What is wrong with the rule, beginning with the field's path.
    fn fault(&self) -> Option<String> {
        let urls = &self.non_resource_urls;
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !urls.is_empty() {
            return Some(
                "nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs"
                    .to_owned(),
            );
        }
        let url = urls.iter().filter(|url| *url != "*").find_map(|url| {
            if !url.starts_with('/') {
                return Some((url, "must begin with a '/' character"));
            }
            let inner = url.find('*').is_some_and(|at| at + 1 < url.len());
            inner.then_some((url, "wildcards '*' must be the final character of the rule"))
        });
        if let Some((url, fault)) = url {
            return Some(format!("nonResourceURLs: {url:?}: {fault}"));
        }
        self.resources.iter().find_map(|resources| {
            let group = &resources.group;
            if group != "*"
                && group.contains(|c: char| {
                    !(c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
                })
            {
                return Some(format!(
                    "resources.group: {group:?} must be a group's name, without version"
                ));
            }
            let nameless = !resources.resource_names.is_empty() && resources.resources.is_empty();
            nameless.then(|| {
                "resources.resourceNames: using resourceNames requires at least one resource"
                    .to_owned()
            })
        })
    }

    fn matches(&self, user: Option<&User>, info: &RequestInfo) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|entry| entry == value);
        let of_user = self.users.is_empty() || user.is_some_and(|u| has(&self.users, &u.name));
        let of_group = self.user_groups.is_empty()
            || user.is_some_and(|u| u.groups.iter().any(|group| has(&self.user_groups, group)));
        if !of_user || !of_group || !(self.verbs.is_empty() || has(&self.verbs, &info.verb)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource
                && (self.namespaces.is_empty() || has(&self.namespaces, &info.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(info)));
        }
        if !self.non_resource_urls.is_empty() {
            let is_it = |url: &String| match url.strip_suffix('*') {
                Some(start) => info.path.starts_with(start),
                None => *url == info.path,
            };
            return !info.is_resource && self.non_resource_urls.iter().any(is_it);
        }
        true
    }
}

impl Resources {
    fn matches(&self, info: &RequestInfo) -> bool {
        if self.group != info.group && self.group != "*" {
            return false;
        }
        let named = self.resource_names.is_empty() || self.resource_names.contains(&info.name);
        let is_it = |resource: &String| match resource.split_once('/') {
            None => resource == "*" || (*resource == info.resource && info.subresource.is_empty()),
            Some((of, sub)) => {
                (of == "*" && sub == info.subresource && !sub.is_empty())
                    || (of == info.resource && (sub == "*" || sub == info.subresource))
            }
        };
        self.resources.is_empty() || (named && self.resources.iter().any(is_it))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    const HEAD: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";

    #[track_caller]
    fn check(rules: &str, request: &str, expected: Level) {
        let policy = Policy::parse(&format!("{HEAD}rules:\n{rules}\n")).unwrap();
        let (method, path) = request.split_once(' ').unwrap();
        let info = RequestInfo::parse(&method.parse::<Method>().unwrap(), path, None);
        let user = User::new("jane", &["dev"]);
        assert_eq!(policy.decide(Some(&user), &info).level, expected, "{rules}\n{request}");
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = "- {level: None, verbs: [get]}\n- {level: Metadata}";
        check(rules, "GET /api/v1/namespaces/a/pods/p", Level::None);
        check(rules, "GET /api/v1/pods", Level::Metadata);
        check("- {level: Request, users: [joe]}", "GET /api/v1/pods", Level::None);
        check("- {level: Request, userGroups: [dev]}", "GET /api/v1/pods", Level::Request);
        check(
            "- {level: Request, namespaces: [a]}",
            "GET /api/v1/namespaces/a/pods",
            Level::Request,
        );
        check("- {level: Request, namespaces: ['']}", "GET /api/v1/nodes", Level::Request);
        check("- {level: Request, namespaces: ['']}", "GET /healthz", Level::None);
    }

    #[test]
    fn resources_match_with_their_subresources() {
        let status = "PUT /api/v1/namespaces/a/pods/p/status";
        let rule = |list: &str| format!("- {{level: Request, resources: [{{group: '', {list}}}]}}");
        check(&rule("resources: [pods]"), status, Level::None);
        check(&rule("resources: [pods/status]"), status, Level::Request);
        check(&rule("resources: ['*/status']"), status, Level::Request);
        check(&rule("resources: ['pods/*']"), status, Level::Request);
        check(&rule("resources: ['*']"), status, Level::Request);
        // As upstream has it, and unlike what the name says.
        check(&rule("resources: ['pods/*']"), "GET /api/v1/namespaces/a/pods/p", Level::Request);
        check(&rule("resources: ['pods/status'], resourceNames: [q]"), status, Level::None);
        check(&rule("resources: ['pods/status'], resourceNames: [p]"), status, Level::Request);
        check(
            "- {level: Request, resources: [{group: '*'}]}",
            "GET /apis/apps/v1/deployments",
            Level::Request,
        );
        check("- {level: Request, resources: [{group: apps}]}", "GET /api/v1/pods", Level::None);
    }

    #[test]
    fn paths_match_whole_or_by_their_start() {
        check(
            "- {level: Metadata, nonResourceURLs: ['/healthz*']}",
            "GET /healthz/ping",
            Level::Metadata,
        );
        check("- {level: Metadata, nonResourceURLs: [/healthz]}", "GET /healthz/ping", Level::None);
        check("- {level: Metadata, nonResourceURLs: ['*']}", "GET /version", Level::Metadata);
        check("- {level: Metadata, nonResourceURLs: ['*']}", "GET /api/v1/pods", Level::None);
    }

    #[test]
    fn stages_are_omitted_by_rule_and_by_policy() {
        let text = format!(
            "{HEAD}omitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n- level: Metadata\n  omitStages: [Panic]\n  omitManagedFields: false\n"
        );
        let policy = Policy::parse(&text).unwrap();
        let decision = policy.decide(None, &RequestInfo::default());
        assert!(decision.omits(Stage::RequestReceived) && decision.omits(Stage::Panic));
        assert!(!decision.omits(Stage::ResponseComplete) && !decision.omit_managed_fields);
    }

    #[track_caller]
    fn refused(text: &str, line: u64, reason: &str) {
        let (at, why) = Policy::parse(text).unwrap_err();
        assert_eq!(at, Some(line), "{why}");
        assert!(why.contains(reason), "{why}");
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_line() {
        let rules = |text: &str| format!("{HEAD}rules:\n- level: None\n{text}");
        refused(&rules("- level: Everything\n"), 5, "Everything");
        refused(&rules("- verbs: [get]\n"), 5, "level");
        refused(&rules("- level: None\n  verb: [get]\n"), 6, "verb");
        refused(&rules("- level: None\n  omitStages: [Never]\n"), 6, "Never");
        refused(&rules("- level: None\n  nonResourceURLs: [healthz]\n"), 5, "must begin with");
        refused(&rules("- level: None\n  nonResourceURLs: ['/a*b']\n"), 5, "final character");
        refused(&rules("- level: None\n  nonResourceURLs: [/a]\n  namespaces: [b]\n"), 5, "both");
        refused(&rules("- level: None\n  resources: [{group: apps/v1}]\n"), 5, "group");
        refused(&rules("- level: None\n  resources: [{resourceNames: [a]}]\n"), 5, "resourceNames");
        refused(
            "apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]\n",
            1,
            "v1beta1",
        );
        refused(&format!("{HEAD}rules: []\n"), 1, "at least one rule");
        assert!(Policy::parse(&format!("{HEAD}rules:\n- {{level: None\n")).is_err());
    }
}
