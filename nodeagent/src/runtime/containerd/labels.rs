//! What the agent remembers with a container: labels of the containerd record. A restarted agent reads them back.

use std::collections::{BTreeMap, HashMap};

use containerd_client::services::v1::Container;
use k8s_openapi::jiff::Timestamp;
use prost_types::Timestamp as WireTime;

use crate::runtime::{ContainerId, ContainerSpec, ContainerState, ContainerStatus, PodIdentity};

/// Before the labels that the pod side gave.
const USER: &str = "improv.dev/label.";

pub(super) const POD_UID: &str = "improv.dev/pod-uid";
const POD_NAME: &str = "improv.dev/pod-name";
const POD_NAMESPACE: &str = "improv.dev/pod-namespace";
const NAME: &str = "improv.dev/name";
const ATTEMPT: &str = "improv.dev/attempt";
const IMAGE_ID: &str = "improv.dev/image-id";
const LOG_PATH: &str = "improv.dev/log-path";
const FLAGS: &str = "improv.dev/flags";
const CGROUP: &str = "improv.dev/cgroup";
pub(super) const STARTED_AT: &str = "improv.dev/started-at";

/// Name of the record of the process that holds a shared process namespace. Not a container of the pod.
pub(super) const PAUSE: &str = "-pause";

/// What the agent knows of a container from its record alone.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) pod: PodIdentity,
    pub(super) name: String,
    pub(super) attempt: u32,
    pub(super) image: String,
    pub(super) image_id: String,
    pub(super) log_path: String,
    pub(super) cgroup: String,
    pub(super) tty: bool,
    pub(super) stdin: bool,
    pub(super) stdin_once: bool,
    pub(super) created_at: Timestamp,
    pub(super) started_at: Option<Timestamp>,
    pub(super) labels: BTreeMap<String, String>,
}

/// The labels of a new container.
pub(super) fn of(
    spec: &ContainerSpec,
    pod: &PodIdentity,
    image_id: &str,
    cgroup: &str,
) -> HashMap<String, String> {
    let flags = [(spec.tty, 't'), (spec.stdin, 'i'), (spec.stdin_once, 'o')];
    let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect();
    let mut labels = of_user(&spec.labels);
    labels.extend(
        [
            (POD_UID, pod.uid.clone()),
            (POD_NAME, pod.name.clone()),
            (POD_NAMESPACE, pod.namespace.clone()),
            (NAME, spec.name.clone()),
            (ATTEMPT, spec.attempt.to_string()),
            (IMAGE_ID, image_id.to_owned()),
            (LOG_PATH, spec.log_path.display().to_string()),
            (FLAGS, flags),
            (CGROUP, cgroup.to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    labels
}

/// Labels that the pod side gave, as containerd keeps them.
pub(super) fn of_user(labels: &BTreeMap<String, String>) -> HashMap<String, String> {
    labels.iter().map(|(k, v)| (format!("{USER}{k}"), v.clone())).collect()
}

impl Record {
    /// Reads a containerd record; `None` if it is not one of the agent's.
    pub(super) fn read(container: &Container) -> Option<Self> {
        let label = |key: &str| container.labels.get(key).cloned();
        let flags = label(FLAGS).unwrap_or_default();
        Some(Self {
            id: container.id.clone(),
            pod: PodIdentity {
                namespace: label(POD_NAMESPACE)?,
                name: label(POD_NAME)?,
                uid: label(POD_UID)?,
            },
            name: label(NAME)?,
            attempt: label(ATTEMPT)?.parse().ok()?,
            image: container.image.clone(),
            image_id: label(IMAGE_ID).unwrap_or_default(),
            log_path: label(LOG_PATH).unwrap_or_default(),
            cgroup: label(CGROUP).unwrap_or_default(),
            tty: flags.contains('t'),
            stdin: flags.contains('i'),
            stdin_once: flags.contains('o'),
            created_at: container.created_at.map(time).unwrap_or_default(),
            started_at: label(STARTED_AT).and_then(|text| text.parse().ok()),
            labels: container
                .labels
                .iter()
                .filter_map(|(key, value)| {
                    Some((key.strip_prefix(USER)?.to_owned(), value.clone()))
                })
                .collect(),
        })
    }

    pub(super) fn is_pause(&self) -> bool {
        self.name == PAUSE
    }

    pub(super) fn status(self, state: ContainerState) -> ContainerStatus {
        ContainerStatus {
            id: ContainerId(self.id),
            pod: self.pod,
            name: self.name,
            attempt: self.attempt,
            image: self.image.parse().unwrap_or_default(),
            image_id: self.image_id,
            log_path: self.log_path.into(),
            created_at: self.created_at,
            state,
            labels: self.labels,
        }
    }
}

/// A time from the wire; what cannot be a time is the epoch.
pub(super) fn time(wire: WireTime) -> Timestamp {
    Timestamp::new(wire.seconds, wire.nanos).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_containerd() {
        let spec = ContainerSpec {
            name: "web".into(),
            attempt: 3,
            tty: true,
            stdin_once: true,
            log_path: "/logs/0.log".into(),
            labels: [("hash".to_owned(), "abc".to_owned())].into(),
            ..ContainerSpec::default()
        };
        let pod = PodIdentity { namespace: "default".into(), name: "p".into(), uid: "u".into() };
        let container = Container {
            id: "c1".into(),
            labels: of(&spec, &pod, "sha256:1", "/k/podu/c1"),
            ..Default::default()
        };
        assert!(container.labels.keys().all(|key| key.starts_with("improv.dev/")));
        let record = Record::read(&container).unwrap();
        assert_eq!(
            (record.attempt, record.tty, record.stdin, record.stdin_once),
            (3, true, false, true)
        );
        assert_eq!(record.labels, spec.labels);
        assert_eq!(record.pod, pod);
        assert!(Record::read(&Container::default()).is_none());
    }
}
