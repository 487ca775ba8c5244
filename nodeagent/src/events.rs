//! Events about pods and the node, in upstream's words, since people and tools match on them.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::pods::observed::{Role, Wanted};

/// `source.component` and `reportingComponent`.
const COMPONENT: &str = "kubelet";
/// Events not yet sent; more are dropped, since they must never hold up a pod.
const QUEUE: usize = 4096;
/// Kinds of events remembered so that repeats are counted instead of listed.
const REMEMBERED: usize = 4096;
/// A repeat after this time is a new event.
const WINDOW: Duration = Duration::from_secs(600);

/// Whether an event is a complaint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Something is wrong.
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Note {
    namespace: String,
    kind: &'static str,
    name: String,
    uid: String,
    field_path: Option<String>,
    severity: Severity,
    reason: String,
    message: String,
}

/// Publishes events in the background.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<(Note, Timestamp)>,
}

impl Recorder {
    /// Starts the task that publishes; it ends with the last recorder.
    pub fn start(client: Client, node: String) -> Self {
        let (queue, notes) = mpsc::channel(QUEUE);
        tokio::spawn(publish_all(client, node, notes));
        Self { queue }
    }

    /// An event about a pod as a whole.
    pub fn pod(&self, pod: &Wanted, severity: Severity, reason: &str, message: impl Into<String>) {
        self.send(note_of(pod, None, severity, reason, message.into()));
    }

    /// An event about one container of a pod.
    pub fn container(
        &self,
        pod: &Wanted,
        name: &str,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        let list = match pod.container(name).map(|c| c.role) {
            Some(Role::Init | Role::Sidecar) => "spec.initContainers",
            Some(Role::Ephemeral) => "spec.ephemeralContainers",
            Some(Role::Main) | None => "spec.containers",
        };
        let path = Some(format!("{list}{{{name}}}"));
        self.send(note_of(pod, path, severity, reason, message.into()));
    }

    /// An event about the node.
    pub fn node(&self, node: &str, severity: Severity, reason: &str, message: impl Into<String>) {
        self.send(Note {
            namespace: "default".to_owned(),
            kind: "Node",
            name: node.to_owned(),
            uid: node.to_owned(),
            field_path: None,
            severity,
            reason: reason.to_owned(),
            message: message.into(),
        });
    }

    fn send(&self, note: Note) {
        if self.queue.try_send((note, Timestamp::now())).is_err() {
            tracing::debug!("event dropped");
        }
    }
}

fn note_of(
    pod: &Wanted,
    field_path: Option<String>,
    severity: Severity,
    reason: &str,
    message: String,
) -> Note {
    Note {
        namespace: pod.namespace.clone(),
        kind: "Pod",
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        field_path,
        severity,
        reason: reason.to_owned(),
        message,
    }
}

struct Published {
    name: String,
    count: i32,
    last: Timestamp,
}

async fn publish_all(client: Client, node: String, mut notes: mpsc::Receiver<(Note, Timestamp)>) {
    let mut known: HashMap<Note, Published> = HashMap::new();
    while let Some((note, time)) = notes.recv().await {
        let api = Api::<Event>::namespaced(client.clone(), &note.namespace);
        let fresh = |p: &Published| time.duration_since(p.last).unsigned_abs() < WINDOW;
        if let Some(published) = known.get_mut(&note).filter(|p| fresh(p)) {
            published.count += 1;
            published.last = time;
            let change = serde_json::json!({"count": published.count, "lastTimestamp": Time(time)});
            let sent = api
                .patch(&published.name, &PatchParams::default(), &Patch::Strategic(change))
                .await;
            if sent.is_ok() {
                continue;
            }
        }
        let event = event_of(&note, &node, time);
        let name = event.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(note, Published { name, count: 1, last: time });
            }
            // An event is a courtesy: a namespace that is going away takes none.
            Err(error) => tracing::debug!(error = %error, reason = note.reason, "event not taken"),
        }
    }
}

fn event_of(note: &Note, node: &str, time: Timestamp) -> Event {
    let type_ = match note.severity {
        Severity::Normal => "Normal",
        Severity::Warning => "Warning",
    };
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", note.name, time.as_nanosecond())),
            namespace: Some(note.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(note.kind.to_owned()),
            namespace: (note.kind == "Pod").then(|| note.namespace.clone()),
            name: Some(note.name.clone()),
            uid: Some(note.uid.clone()),
            field_path: note.field_path.clone(),
            ..ObjectReference::default()
        },
        type_: Some(type_.to_owned()),
        reason: Some(note.reason.clone()),
        message: Some(note.message.clone()),
        source: Some(EventSource {
            component: Some(COMPONENT.to_owned()),
            host: Some(node.to_owned()),
        }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(node.to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(time)),
        last_timestamp: Some(Time(time)),
        ..Event::default()
    }
}
