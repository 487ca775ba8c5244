//! Levels and versions of Pod Security, and what a namespace's labels say of them.

use std::fmt;

use schema::Cause;
use serde_json::Value;

/// How much a pod may do; each level forbids what the one before it does, and more.
///
/// Source: kubernetes.io, "Pod Security Standards".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "privileged" => Ok(Self::Privileged),
            "baseline" => Ok(Self::Baseline),
            "restricted" => Ok(Self::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        })
    }
}

/// A version of the checks: that of a Kubernetes minor release, or whatever is newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Version {
    /// `v1.x`.
    Minor(u32),
    Latest,
}

impl Version {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let digits = text.strip_prefix("v1.").filter(|digits| {
            let plain = *digits == "0" || !digits.starts_with('0');
            plain && digits.bytes().all(|b| b.is_ascii_digit())
        });
        let minor = digits.and_then(|digits| digits.parse().ok());
        minor.map(Self::Minor).ok_or("must be \"latest\" or \"v1.x\"")
    }

    /// Whether a check that came with the minor release `since` is part of this version.
    pub(super) fn has(self, since: u32) -> bool {
        match self {
            Self::Minor(minor) => since <= minor,
            Self::Latest => true,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(minor) => write!(f, "v1.{minor}"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

/// What one mode checks against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Standard {
    pub(super) level: Level,
    pub(super) version: Version,
}

impl Standard {
    pub(super) const PRIVILEGED: Self = Self { level: Level::Privileged, version: Version::Latest };

    fn is_equivalent(self, other: Self) -> bool {
        self == other || (self.level == Level::Privileged && other.level == Level::Privileged)
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level, self.version)
    }
}

/// What a namespace enforces, notes in the audit log, and warns of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: Standard,
    pub(super) audit: Standard,
    pub(super) warn: Standard,
}

impl Policy {
    /// Nothing is checked.
    #[cfg(test)]
    pub(super) const PRIVILEGED: Self = Self {
        enforce: Standard::PRIVILEGED,
        audit: Standard::PRIVILEGED,
        warn: Standard::PRIVILEGED,
    };

    /// The three modes by name.
    pub(super) fn modes(&self) -> [(&'static str, Standard); 3] {
        [("enforce", self.enforce), ("audit", self.audit), ("warn", self.warn)]
    }

    pub(super) fn is_privileged(&self) -> bool {
        self.modes().iter().all(|(_, standard)| standard.level == Level::Privileged)
    }

    pub(super) fn is_equivalent(&self, other: &Self) -> bool {
        self.modes().iter().zip(other.modes()).all(|((_, a), (_, b))| a.is_equivalent(b))
    }
}

/// Prefix of the labels and of audit annotations.
pub(super) const PREFIX: &str = "pod-security.kubernetes.io/";

/// Labels of the level and of the version of each mode.
const ENFORCE: [&str; 2] =
    ["pod-security.kubernetes.io/enforce", "pod-security.kubernetes.io/enforce-version"];
const AUDIT: [&str; 2] =
    ["pod-security.kubernetes.io/audit", "pod-security.kubernetes.io/audit-version"];
const WARN: [&str; 2] =
    ["pod-security.kubernetes.io/warn", "pod-security.kubernetes.io/warn-version"];

/// The policy that labels say, over `defaults`, and what is wrong with them. A bad label to enforce counts as the
/// strictest one, bad ones to audit and to warn as none.
pub(super) fn of_labels<'l>(
    label: impl Fn(&str) -> Option<&'l str>,
    defaults: &Policy,
) -> (Policy, Vec<Cause>) {
    let mut policy = *defaults;
    let mut causes = Vec::new();
    let mut parse = |[level, version]: [&str; 2], bad: Level, standard: &mut Standard| {
        let (given, given_version) = (label(level), label(version));
        let mut refuse = |label: &str, value: &str, why: &str| {
            causes.push(Cause::invalid(format!("metadata.labels[{label}]"), &value.into(), why));
        };
        if let Some(text) = given {
            standard.level = Level::parse(text).unwrap_or_else(|why| {
                refuse(level, text, why);
                bad
            });
        }
        if let Some(text) = given_version {
            standard.version = Version::parse(text).unwrap_or_else(|why| {
                refuse(version, text, why);
                Version::Latest
            });
        }
        (
            given.is_some_and(|text| Level::parse(text).is_ok()),
            given.is_some(),
            given_version.is_some(),
        )
    };
    let (enforced, ..) = parse(ENFORCE, Level::Restricted, &mut policy.enforce);
    parse(AUDIT, Level::Privileged, &mut policy.audit);
    let (_, warned, version) = parse(WARN, Level::Privileged, &mut policy.warn);
    // Who enforces a level is warned of it too.
    if !warned && enforced && policy.enforce.level > policy.warn.level {
        policy.warn.level = policy.enforce.level;
        if !version {
            policy.warn.version = policy.enforce.version;
        }
    }
    (policy, causes)
}

/// As [`of_labels`], from a `metadata.labels` object.
pub(super) fn of_object(labels: &Value, defaults: &Policy) -> (Policy, Vec<Cause>) {
    of_labels(|key| labels[key].as_str(), defaults)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(labels: Value) -> (String, Vec<String>) {
        let (policy, causes) = of_object(&labels, &Policy::PRIVILEGED);
        let modes = policy.modes().map(|(_, standard)| standard.to_string()).join(" ");
        (modes, causes.into_iter().map(|cause| cause.message).collect())
    }

    #[test]
    fn labels_choose_the_policy() {
        let (policy, causes) = read(json!({}));
        assert_eq!(policy, "privileged:latest privileged:latest privileged:latest");
        assert!(causes.is_empty());
        let (policy, _) = read(json!({"pod-security.kubernetes.io/enforce": "baseline",
            "pod-security.kubernetes.io/enforce-version": "v1.22"}));
        assert_eq!(policy, "baseline:v1.22 privileged:latest baseline:v1.22");
        let (policy, _) = read(json!({"pod-security.kubernetes.io/enforce": "baseline",
            "pod-security.kubernetes.io/warn": "restricted", "pod-security.kubernetes.io/audit": "restricted"}));
        assert_eq!(policy, "baseline:latest restricted:latest restricted:latest");
    }

    #[test]
    fn bad_labels_close_enforcement_and_open_the_rest() {
        let (policy, causes) = read(json!({"pod-security.kubernetes.io/enforce": "strict",
            "pod-security.kubernetes.io/audit": "strict", "pod-security.kubernetes.io/warn-version": "1.2"}));
        assert_eq!(policy, "restricted:latest privileged:latest privileged:latest");
        assert_eq!(causes.len(), 3);
        assert!(causes[0].contains("must be one of privileged, baseline, restricted"));
        assert!(causes[2].contains("must be \"latest\" or \"v1.x\""));
    }

    #[test]
    fn versions() {
        for good in ["latest", "v1.0", "v1.36"] {
            assert_eq!(Version::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "v1", "v1.", "v1.01", "v2.1", "1.2", "v1.x"] {
            assert!(Version::parse(bad).is_err(), "{bad}");
        }
        assert!(Version::Minor(25).has(25) && !Version::Minor(24).has(25));
    }
}
