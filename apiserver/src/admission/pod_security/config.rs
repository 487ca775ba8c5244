//! The configuration of Pod Security: what holds where labels are silent, and for whom nothing does.

use std::collections::HashSet;

use serde_json::Value;

use super::policy::{Level, Policy, Standard, Version};
use crate::types::check::{is_empty, items, text};
use crate::types::words;

/// `PodSecurityConfiguration` of `pod-security.admission.config.k8s.io/v1`.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) defaults: Policy,
    pub(super) users: HashSet<String>,
    pub(super) namespaces: HashSet<String>,
    pub(super) runtime_classes: HashSet<String>,
}

impl Config {
    /// Reads a configuration; without one, nothing is checked but what labels ask for.
    ///
    /// # Errors
    /// What is wrong with it, by field.
    pub(super) fn read(configuration: Option<&Value>) -> Result<Self, String> {
        let none = Value::Null;
        let configuration = configuration.unwrap_or(&none);
        let version =
            text(configuration, "apiVersion").strip_prefix("pod-security.admission.config.k8s.io/");
        let known = matches!(version, Some("v1" | "v1beta1" | "v1alpha1"))
            && text(configuration, "kind") == "PodSecurityConfiguration";
        if !configuration.is_null() && !known {
            return Err(
                "expected PodSecurityConfiguration of pod-security.admission.config.k8s.io/v1"
                    .to_owned(),
            );
        }
        let defaults = &configuration["defaults"];
        let standard = |mode: &str| -> Result<Standard, String> {
            let version = format!("{mode}-version");
            let or = |field: &str, absent: &'static str| match text(defaults, field) {
                "" => absent.to_owned(),
                given => given.to_owned(),
            };
            let at = |field: &str, why: &str| format!("defaults.{field}: {why}");
            Ok(Standard {
                level: Level::parse(&or(mode, "privileged")).map_err(|why| at(mode, why))?,
                version: Version::parse(&or(&version, "latest"))
                    .map_err(|why| at(&version, why))?,
            })
        };
        let exempt = |list: &str, faults: fn(&str) -> Vec<String>| {
            exemptions(&configuration["exemptions"], list, faults)
        };
        Ok(Self {
            defaults: Policy {
                enforce: standard("enforce")?,
                audit: standard("audit")?,
                warn: standard("warn")?,
            },
            users: exempt("usernames", |name| {
                if name.is_empty() {
                    vec!["username must not be empty".to_owned()]
                } else {
                    Vec::new()
                }
            })?,
            namespaces: exempt("namespaces", words::label)?,
            runtime_classes: exempt("runtimeClasses", words::subdomain)?,
        })
    }
}

fn exemptions(
    exemptions: &Value,
    list: &str,
    faults: fn(&str) -> Vec<String>,
) -> Result<HashSet<String>, String> {
    let entries = &exemptions[list];
    if !entries.is_array() && !is_empty(entries) {
        return Err(format!("exemptions.{list}: must be a list"));
    }
    let mut seen = HashSet::new();
    for (n, entry) in items(entries).iter().enumerate() {
        let name = entry.as_str().unwrap_or_default();
        let faults = faults(name);
        if !faults.is_empty() {
            let faults = faults.join(", ");
            return Err(format!("exemptions.{list}[{n}]: Invalid value: {name:?}: {faults}"));
        }
        if !seen.insert(name.to_owned()) {
            return Err(format!("exemptions.{list}[{n}]: Duplicate value: {name:?}"));
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn refused(part: Value, why: &str) {
        let mut configuration = json!({"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration"});
        configuration.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        assert_eq!(Config::read(Some(&configuration)).unwrap_err(), why);
    }

    #[test]
    fn bad_configurations_are_refused() {
        refused(
            json!({"kind": "Other"}),
            "expected PodSecurityConfiguration of pod-security.admission.config.k8s.io/v1",
        );
        refused(
            json!({"defaults": {"audit": "strict"}}),
            "defaults.audit: must be one of privileged, baseline, restricted",
        );
        refused(
            json!({"defaults": {"warn-version": "1"}}),
            "defaults.warn-version: must be \"latest\" or \"v1.x\"",
        );
        refused(
            json!({"exemptions": {"usernames": ["a", ""]}}),
            "exemptions.usernames[1]: Invalid value: \"\": username must not be empty",
        );
        refused(
            json!({"exemptions": {"namespaces": ["a", "a"]}}),
            "exemptions.namespaces[1]: Duplicate value: \"a\"",
        );
        assert!(Config::read(None).unwrap().defaults.is_privileged());
    }
}
