//! `--runtime-config`: which versions and resources are served.
//!
//! Everything that there is, is served unless it is turned off. What the server itself stands on cannot be.
//!
//! Source: upstream `apiserver/pkg/server/resourceconfig/helpers.go`.

use std::collections::BTreeMap;

use crate::registry::HOSTED_GROUPS;
use crate::registry::facts::FACTS;

/// Versions that upstream can turn on, and that are not here.
///
/// Source: the versions that `DefaultAPIResourceConfigSource` in upstream `pkg/controlplane/instance.go` disables.
const ABSENT: [(&str, &str); 20] = [
    ("admissionregistration.k8s.io", "v1alpha1"),
    ("admissionregistration.k8s.io", "v1beta1"),
    ("authentication.k8s.io", "v1alpha1"),
    ("authentication.k8s.io", "v1beta1"),
    ("certificates.k8s.io", "v1alpha1"),
    ("certificates.k8s.io", "v1beta1"),
    ("coordination.k8s.io", "v1alpha2"),
    ("coordination.k8s.io", "v1beta1"),
    ("flowcontrol.apiserver.k8s.io", "v1beta1"),
    ("flowcontrol.apiserver.k8s.io", "v1beta2"),
    ("flowcontrol.apiserver.k8s.io", "v1beta3"),
    ("internal.apiserver.k8s.io", "v1alpha1"),
    ("networking.k8s.io", "v1beta1"),
    ("resource.k8s.io", "v1alpha3"),
    ("resource.k8s.io", "v1beta1"),
    ("resource.k8s.io", "v1beta2"),
    ("scheduling.k8s.io", "v1alpha2"),
    ("storage.k8s.io", "v1alpha1"),
    ("storage.k8s.io", "v1beta1"),
    ("storagemigration.k8s.io", "v1beta1"),
];

/// What one part of the flag is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// `api/all`, `api/ga`, `api/beta` or `api/alpha`.
    Stage(Stage),
    /// A group and version.
    Version(String, String),
    /// A group, version and plural name.
    Resource(String, String, String),
    /// An empty part, or `api/legacy`, which upstream takes and forgets.
    Nothing,
}

/// How far versions are, in the order in which they are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// All of them.
    All,
    /// `v1`.
    Ga,
    /// `v1beta1`.
    Beta,
    /// `v1alpha1`.
    Alpha,
}

/// One part of the flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is about.
    pub key: Key,
    /// Whether that is to be served.
    pub enabled: bool,
}

/// Reads one `key=value`.
///
/// # Errors
/// It makes no sense, or names a version that this server cannot serve.
pub fn entry(text: &str) -> Result<Entry, String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let enabled = boolean(if value.is_empty() { "true" } else { value })
        .ok_or_else(|| format!("invalid value {key}={value}"))?;
    let key = parse(key)?;
    if let Key::Version(group, version) | Key::Resource(group, version, _) = &key {
        exists(group, version, enabled)?;
    }
    Ok(Entry { key, enabled })
}

fn parse(key: &str) -> Result<Key, String> {
    let owned = str::to_owned;
    Ok(match key.split('/').collect::<Vec<_>>()[..] {
        [""] | ["api", "legacy"] => Key::Nothing,
        ["api", "all"] => Key::Stage(Stage::All),
        ["api", "ga"] => Key::Stage(Stage::Ga),
        ["api", "beta"] => Key::Stage(Stage::Beta),
        ["api", "alpha"] => Key::Stage(Stage::Alpha),
        ["v1"] | ["api", "v1"] => Key::Version(String::new(), owned("v1")),
        ["v1", name] | ["api", "v1", name] => {
            Key::Resource(String::new(), owned("v1"), owned(name))
        }
        [group, version] => Key::Version(owned(group), owned(version)),
        [group, version, name] => Key::Resource(owned(group), owned(version), owned(name)),
        _ => return Err(format!("runtime-config invalid key {key}")),
    })
}

fn exists(group: &str, version: &str, enabled: bool) -> Result<(), String> {
    if FACTS.groups.get(group).is_some_and(|known| known.versions.iter().any(|v| v == version)) {
        return Ok(());
    }
    match ABSENT.contains(&(group, version)) {
        true if enabled => Err(format!("this server does not have {group}/{version}")),
        true => Ok(()),
        false if FACTS.groups.contains_key(group) || ABSENT.iter().any(|(g, _)| *g == group) => {
            Err(format!("group version {group}/{version} that has not been registered"))
        }
        false => Err(format!("unknown api groups {group}/{version}")),
    }
}

/// What is not served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disabled(BTreeMap<Key, bool>);

impl Disabled {
    /// What all parts of the flag say together; the last one about a thing counts.
    ///
    /// # Errors
    /// The server cannot be without what is turned off.
    pub fn new(entries: &[Entry]) -> Result<Self, String> {
        let said = entries.iter().filter(|entry| entry.key != Key::Nothing);
        let all: BTreeMap<Key, bool> =
            said.map(|entry| (entry.key.clone(), entry.enabled)).collect();
        if all.len() == 1 && all.get(&Key::Stage(Stage::All)) == Some(&false) {
            return Err("invalid runtime-config with only api/all=false".to_owned());
        }
        let disabled = Self(all);
        let hosted = |group: &str| HOSTED_GROUPS.contains(&group);
        let versions = FACTS.groups.iter().filter(|(group, _)| hosted(group));
        let mut versions =
            versions.flat_map(|(g, known)| known.versions.iter().map(move |v| (g, v)));
        if let Some((group, version)) = versions.find(|(g, v)| !disabled.serves_version(g, v)) {
            let slash = if group.is_empty() { "" } else { "/" };
            return Err(format!(
                "{group}{slash}{version} cannot be turned off: the server itself needs it"
            ));
        }
        for (key, enabled) in &disabled.0 {
            if let (Key::Resource(group, _, name), false) = (key, enabled)
                && hosted(group)
            {
                return Err(format!("{name} cannot be turned off: the server itself needs them"));
            }
        }
        Ok(disabled)
    }

    /// Whether a resource is served, if there is one of that name.
    pub fn serves(&self, group: &str, version: &str, name: &str) -> bool {
        let key = Key::Resource(group.to_owned(), version.to_owned(), name.to_owned());
        let said = self.0.get(&key).copied();
        said.unwrap_or_else(|| self.serves_version(group, version))
    }

    /// Whether something is asked for that is not here: versions that are no stable ones.
    pub fn wants_more(&self) -> bool {
        let stages = [Stage::All, Stage::Beta, Stage::Alpha];
        stages.iter().any(|stage| self.0.get(&Key::Stage(*stage)) == Some(&true))
    }

    fn serves_version(&self, group: &str, version: &str) -> bool {
        let key = Key::Version(group.to_owned(), version.to_owned());
        if let Some(said) = self.0.get(&key) {
            return *said;
        }
        // Versions of others' definitions are no versions of Kubernetes'.
        if !FACTS.groups.contains_key(group) {
            return true;
        }
        let stage = match version {
            _ if version.contains("alpha") => Stage::Alpha,
            _ if version.contains("beta") => Stage::Beta,
            _ => Stage::Ga,
        };
        let said = |stage| self.0.get(&Key::Stage(stage)).copied();
        said(stage).or_else(|| said(Stage::All)).unwrap_or(true)
    }
}

/// What Go takes for a truth value.
///
/// Source: `strconv.ParseBool` of Go.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Disabled, String> {
        Disabled::new(&text.split(',').map(entry).collect::<Result<Vec<_>, _>>()?)
    }

    #[test]
    fn what_is_turned_off_is_not_served() {
        let read = read("apps/v1=false,batch/v1/jobs=0,apps/v1/deployments").unwrap();
        assert!(!read.serves("apps", "v1", "daemonsets"));
        assert!(read.serves("apps", "v1", "deployments"));
        assert!(!read.serves("batch", "v1", "jobs"));
        assert!(read.serves("batch", "v1", "cronjobs"));
        assert!(read.serves("", "v1", "pods"));
    }

    #[test]
    fn a_version_is_stronger_than_its_stage() {
        let hosted = HOSTED_GROUPS.iter().map(|group| match *group {
            "" => "v1=true".to_owned(),
            group => format!("{group}/v1=true"),
        });
        let hosted = hosted.collect::<Vec<_>>().join(",");
        let read = read(&format!("api/all=false,{hosted},batch/v1=true")).unwrap();
        assert!(read.serves("batch", "v1", "jobs"));
        assert!(!read.serves("apps", "v1", "deployments"));
        assert!(read.serves("acme.com", "v1", "things"));
    }

    #[test]
    fn bulk_keys_turn_on_what_there_is() {
        assert_eq!(read(",api/legacy=false"), Ok(Disabled::default()));
        assert!(read("api/all=true").unwrap().wants_more());
        assert!(!read("api/beta=false,api/alpha=false").unwrap().wants_more());
    }

    #[test]
    fn refusals_say_why() {
        let check = |text: &str, expected: &str| assert_eq!(read(text), Err(expected.to_owned()));
        check("api/all=false", "invalid runtime-config with only api/all=false");
        check("v1=false", "v1 cannot be turned off: the server itself needs it");
        check("v1/pods=false", "pods cannot be turned off: the server itself needs them");
        check("acme.com/v1=true", "unknown api groups acme.com/v1");
        check("apps/v7=true", "group version apps/v7 that has not been registered");
        check("storage.k8s.io/v1beta1=true", "this server does not have storage.k8s.io/v1beta1");
        check("apps/v1=maybe", "invalid value apps/v1=maybe");
        check("apps", "runtime-config invalid key apps");
        assert!(read("storage.k8s.io/v1beta1=false").is_ok());
    }
}
