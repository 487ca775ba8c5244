//! `audit.k8s.io/v1` `Event`, as it is written.
//!
//! Source: kubernetes.io, "kube-apiserver Audit Configuration (v1)".

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::request::{RequestInfo, User};
use crate::status::{Details, Status};

/// How much is recorded of a request.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who asked for what, and the answer's code.
    Metadata,
    /// Also the object that was sent.
    Request,
    /// Also the object that was answered.
    RequestResponse,
}

impl Level {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// It has come.
    RequestReceived,
    /// The head of its answer is sent; only of watches and streams.
    ResponseStarted,
    /// Its answer is sent.
    ResponseComplete,
    /// The server failed over it.
    Panic,
}

/// One record.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    kind: &'static str,
    api_version: &'static str,
    /// How much is recorded.
    pub level: Level,
    /// The same for all events of a request; also in the answer's `Audit-Id`.
    #[serde(rename = "auditID")]
    pub audit_id: String,
    /// Where the request stands.
    pub stage: Stage,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// As authorization knows it.
    pub verb: String,
    /// Who asked.
    pub user: UserInfo,
    /// Whom they asked to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_user: Option<UserInfo>,
    /// Where it came from, the client first.
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<String>,
    /// As the client says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<ObjectRef>,
    /// The answer without its object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_status: Option<ResponseStatus>,
    /// What was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_object: Option<Arc<Value>>,
    /// What was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_object: Option<Arc<Value>>,
    /// When it came.
    #[serde(serialize_with = "micro_time")]
    pub request_received_timestamp: Timestamp,
    /// When it got to this stage.
    #[serde(serialize_with = "micro_time")]
    pub stage_timestamp: Timestamp,
    /// What authorization and admission have to say.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn micro_time<S: serde::Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"))
}

/// A user, without credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UserInfo {
    /// Name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Stable id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// What the authenticator adds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl From<&User> for UserInfo {
    fn from(user: &User) -> Self {
        Self {
            username: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.iter().cloned().collect(),
        }
    }
}

/// An object, or a collection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
}

impl ObjectRef {
    /// What a request is about; nothing, if it is about a path.
    pub fn of(info: &RequestInfo) -> Option<Self> {
        info.is_resource.then(|| Self {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            api_group: info.group.clone(),
            api_version: info.version.clone(),
            subresource: info.subresource.clone(),
            ..Self::default()
        })
    }

    /// Fills in what the object that was sent says of itself.
    pub fn complete(&mut self, object: &Value) {
        let fill = |field: &mut String, name: &str| {
            if field.is_empty()
                && let Some(value) = object["metadata"][name].as_str()
            {
                value.clone_into(field);
            }
        };
        fill(&mut self.namespace, "namespace");
        fill(&mut self.name, "name");
        fill(&mut self.uid, "uid");
        fill(&mut self.resource_version, "resourceVersion");
    }

    /// Whether texts about the object may quote what must not be written down.
    pub fn is_secret(&self) -> bool {
        matches!(
            (self.resource.as_str(), self.subresource.as_str()),
            ("secrets" | "tokenreviews", _) | ("serviceaccounts", "token")
        )
    }
}

/// The answer without its object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ResponseStatus {
    metadata: Empty,
    #[serde(skip_serializing_if = "String::is_empty")]
    status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    /// HTTP status code.
    pub code: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Empty {}

impl ResponseStatus {
    /// A code alone.
    pub fn of_code(code: u16) -> Self {
        Self { code, ..Self::default() }
    }

    /// A code with a text.
    pub fn with_message(code: u16, status: &str, message: String) -> Self {
        Self { code, status: status.to_owned(), message, ..Self::default() }
    }

    /// A refusal. Of a secret it keeps the reason, and leaves out the texts that may quote it.
    pub fn of(status: &Status, secret: bool) -> Self {
        let quotes = secret && matches!(status.code, 400 | 422 | 500);
        Self {
            status: status.status.clone(),
            message: if quotes { String::new() } else { status.message.clone() },
            reason: status.reason.clone(),
            details: status.details.clone().filter(|_| !quotes),
            code: status.code,
            ..Self::default()
        }
    }
}

impl Event {
    /// The event of a request that has come.
    pub fn new(level: Level, audit_id: String, received: Timestamp) -> Self {
        Self {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level,
            audit_id,
            stage: Stage::RequestReceived,
            request_uri: String::new(),
            verb: String::new(),
            user: UserInfo::default(),
            impersonated_user: None,
            source_ips: Vec::new(),
            user_agent: String::new(),
            object_ref: None,
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: received,
            stage_timestamp: received,
            annotations: BTreeMap::new(),
        }
    }

    /// The event as one line of JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(1024);
        crate::bytes::write_json(&mut line, self);
        line.push(b'\n');
        line
    }

    /// The event as one line for people (`--audit-log-format=legacy`).
    pub fn to_legacy(&self) -> Vec<u8> {
        let quoted = |list: &[String]| {
            list.iter().map(|entry| format!("{entry:?}")).collect::<Vec<_>>().join(",")
        };
        let or = |text: &str, absent: &str| {
            if text.is_empty() { absent.to_owned() } else { text.to_owned() }
        };
        let groups = or(&quoted(&self.user.groups), "<none>");
        let (as_user, as_groups) = match &self.impersonated_user {
            None => ("<self>".to_owned(), "<lookup>".to_owned()),
            Some(user) => (user.username.clone(), or(&quoted(&user.groups), "<lookup>")),
        };
        let ip = self.source_ips.first().map_or("<unknown>", String::as_str);
        let namespace = self.object_ref.as_ref().map_or("", |object| object.namespace.as_str());
        let response = self.response_status.as_ref();
        format!(
            "{} AUDIT: id={:?} stage=\"{:?}\" ip={ip:?} method={:?} user={:?} groups={groups:?} as={as_user:?} asgroups={as_groups:?} user-agent={:?} namespace={:?} uri={:?} response=\"{}\"\n",
            self.request_received_timestamp,
            self.audit_id,
            self.stage,
            self.verb,
            or(&self.user.username, "<none>"),
            self.user_agent,
            or(namespace, "<none>"),
            self.request_uri,
            response.map_or("<deferred>".to_owned(), |response| response.code.to_string()),
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_has_the_known_shape() {
        let time: Timestamp = "2026-01-02T03:04:05.123456789Z".parse().unwrap();
        let mut event = Event::new(Level::Metadata, "id".into(), time);
        event.user = (&User::new("jane", &["dev"])).into();
        event.verb = "get".into();
        event.request_uri = "/api/v1/pods".into();
        event.response_status = Some(ResponseStatus::of_code(200));
        let got: Value = serde_json::from_slice(&event.to_json()).unwrap();
        let expected = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
            "auditID": "id", "stage": "RequestReceived", "requestURI": "/api/v1/pods",
            "verb": "get",
            "user": { "username": "jane", "groups": ["dev", "system:authenticated"] },
            "responseStatus": { "metadata": {}, "code": 200 },
            "requestReceivedTimestamp": "2026-01-02T03:04:05.123456Z",
            "stageTimestamp": "2026-01-02T03:04:05.123456Z",
        });
        assert_eq!(got, expected);
        let legacy = String::from_utf8(event.to_legacy()).unwrap();
        assert!(
            legacy.contains(
                r#"AUDIT: id="id" stage="RequestReceived" ip="<unknown>" method="get" user="jane""#
            ),
            "{legacy}"
        );
        assert!(legacy.ends_with("response=\"200\"\n"));
    }

    #[test]
    fn texts_about_secrets_are_left_out_where_they_may_quote() {
        let refusal = |code| {
            let mut status = Status::success(Details::default());
            (status.code, status.message, status.reason) = (code, "quoted".into(), "Why".into());
            ResponseStatus::of(&status, true)
        };
        assert_eq!((refusal(422).message.as_str(), refusal(422).reason.as_str()), ("", "Why"));
        assert_eq!(refusal(404).message, "quoted");
    }
}
