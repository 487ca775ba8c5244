//! Attribute-based access control: policies of a file, a JSON object a line.
//!
//! Source: kubernetes.io, "Using ABAC Authorization". The file is read once, at the start.

use std::path::Path;

use serde::Deserialize;

use super::{Attributes, Decision};
use crate::identity::file::{self, Problem};
use crate::identity::rbac::Rule;
use crate::request::User;

const VERSION: &str = "abac.authorization.kubernetes.io/v1beta1";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    api_version: String,
    kind: String,
    spec: Policy,
}

/// One policy. Empty fields match nothing, `*` everything.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

/// The policies of a file.
#[derive(Debug)]
pub struct Policies(Vec<Policy>);

impl Policies {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or a line is no policy.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        Self::parse(path, &file::read(path)?)
    }

    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, Problem> {
        let mut policies = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |reason: &dyn std::fmt::Display| Problem::in_line(path, at + 1, reason);
            let line: Line = serde_json::from_str(line).map_err(|error| wrong(&error))?;
            if line.api_version != VERSION || line.kind != "Policy" {
                return Err(wrong(&format!("must be a Policy of {VERSION}")));
            }
            policies.push(line.spec);
        }
        Ok(Self(policies))
    }

    /// Whether a policy allows it.
    pub(super) fn authorize(&self, asked: &Attributes<'_>) -> Decision {
        if self.0.iter().any(|policy| policy.is_for(asked.user) && policy.allows(asked)) {
            return Decision { allowed: true, ..Decision::default() };
        }
        Decision::no_opinion("No policy matched.")
    }

    /// The rules that the policies are for a user.
    pub(super) fn rules_for(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let own = self.0.iter().filter(|policy| policy.is_for(user));
        own.flat_map(|policy| policy.rules(namespace)).collect()
    }
}

fn fits(pattern: &str, value: &str) -> bool {
    pattern == "*" || (!pattern.is_empty() && pattern == value)
}

impl Policy {
    fn is_for(&self, user: &User) -> bool {
        let by_name = self.user.is_empty() || fits(&self.user, &user.name);
        let by_group = self.group.is_empty() || (self.group == "*" || user.in_group(&self.group));
        by_name && by_group && !(self.user.is_empty() && self.group.is_empty())
    }

    fn allows(&self, asked: &Attributes<'_>) -> bool {
        let reads = matches!(asked.verb, "get" | "list" | "watch");
        if self.readonly && !reads {
            return false;
        }
        if asked.is_resource {
            // The core group has no name, so an empty pattern is it.
            let group = self.api_group == "*" || self.api_group == asked.group;
            let namespace = self.namespace == "*" || self.namespace == asked.namespace;
            return group && namespace && fits(&self.resource, asked.resource);
        }
        match self.non_resource_path.strip_suffix('*') {
            Some(prefix) => asked.path.starts_with(prefix),
            None => fits(&self.non_resource_path, asked.path),
        }
    }

    fn rules(&self, namespace: &str) -> Vec<Rule> {
        let reads = || ["get", "list", "watch"].map(str::to_owned).to_vec();
        let verbs = || if self.readonly { reads() } else { vec!["*".to_owned()] };
        let mut rules = Vec::new();
        if !self.resource.is_empty() && (self.namespace == "*" || self.namespace == namespace) {
            rules.push(Rule {
                verbs: verbs(),
                api_groups: vec![self.api_group.clone()],
                resources: vec![self.resource.clone()],
                ..Rule::default()
            });
        }
        if !self.non_resource_path.is_empty() {
            let urls = vec![self.non_resource_path.clone()];
            rules.push(Rule { verbs: verbs(), non_resource_urls: urls, ..Rule::default() });
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(specs: &[&str]) -> Policies {
        let line =
            |spec: &&str| format!(r#"{{"apiVersion":"{VERSION}","kind":"Policy","spec":{spec}}}"#);
        let text: Vec<String> = specs.iter().map(line).collect();
        Policies::parse(Path::new("p.jsonl"), &text.join("\n")).unwrap()
    }

    #[test]
    fn a_policy_allows_what_it_names() {
        let policies = policies(&[
            r#"{"user":"jane","namespace":"shop","resource":"pods","apiGroup":"","readonly":true}"#,
            r#"{"group":"ops","namespace":"*","resource":"*","apiGroup":"*"}"#,
            r#"{"group":"system:authenticated","nonResourcePath":"/version","readonly":true}"#,
            r#"{"namespace":"*","resource":"*","apiGroup":"*"}"#,
        ]);
        let ask = |user: &User, verb: &str, namespace: &str, resource: &str| {
            let asked = Attributes { verb, namespace, resource, ..Attributes::of_nothing(user) };
            policies.authorize(&asked).allowed
        };
        let (jane, joe) = (User::new("jane", &[]), User::new("joe", &["ops"]));
        assert!(ask(&jane, "get", "shop", "pods"));
        assert!(!ask(&jane, "delete", "shop", "pods") && !ask(&jane, "get", "other", "pods"));
        assert!(ask(&joe, "delete", "other", "secrets"));
        let url = Attributes {
            verb: "get",
            path: "/version",
            is_resource: false,
            ..Attributes::of_nothing(&jane)
        };
        assert!(policies.authorize(&url).allowed);
        assert!(!policies.authorize(&Attributes { path: "/metrics", ..url }).allowed);
        assert_eq!(policies.rules_for(&jane, "shop").len(), 2);
    }

    #[test]
    fn a_line_that_is_no_policy_is_told() {
        let problem = Policies::parse(Path::new("p"), "\n{\"a\":1}").unwrap_err().to_string();
        assert!(problem.starts_with("p:2: "), "{problem}");
    }
}
