//! Parameters of operations.

use serde_json::{Value, json};

use super::super::Dialect;

/// A parameter in the path or the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    kind: &'static str,
    is_path: bool,
}

const fn query(name: &'static str, kind: &'static str) -> Parameter {
    Parameter { name, kind, is_path: false }
}

const fn path(name: &'static str) -> Parameter {
    Parameter { name, kind: "string", is_path: true }
}

/// The parameters that stand in paths.
const PATH: [Parameter; 3] = [path("namespace"), path("name"), path("path")];

pub(super) const PRETTY: Parameter = query("pretty", "string");

/// Of a get of a custom object.
pub(super) const READ_CUSTOM: [Parameter; 1] = [query("resourceVersion", "string")];

pub(super) const LIST: [Parameter; 11] = [
    query("allowWatchBookmarks", "boolean"),
    query("continue", "string"),
    query("fieldSelector", "string"),
    query("labelSelector", "string"),
    query("limit", "integer"),
    query("resourceVersion", "string"),
    query("resourceVersionMatch", "string"),
    query("sendInitialEvents", "boolean"),
    query("shardSelector", "string"),
    query("timeoutSeconds", "integer"),
    query("watch", "boolean"),
];

pub(super) const WRITE: [Parameter; 3] = [
    query("dryRun", "string"),
    query("fieldManager", "string"),
    query("fieldValidation", "string"),
];

/// What a patch has beside [`WRITE`].
pub(super) const FORCE: Parameter = query("force", "boolean");

pub(super) const DELETE: [Parameter; 5] = [
    query("dryRun", "string"),
    query("gracePeriodSeconds", "integer"),
    query("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    query("orphanDependents", "boolean"),
    query("propagationPolicy", "string"),
];

/// What a deletion of a collection has beside [`DELETE`].
pub(super) fn of_deleted_collection() -> impl Iterator<Item = Parameter> {
    LIST.into_iter().filter(|one| !matches!(one.name, "allowWatchBookmarks" | "watch"))
}

const STREAMS: [Parameter; 5] = [
    query("container", "string"),
    query("stderr", "boolean"),
    query("stdin", "boolean"),
    query("stdout", "boolean"),
    query("tty", "boolean"),
];

const LOG: [Parameter; 9] = [
    query("container", "string"),
    query("follow", "boolean"),
    query("insecureSkipTLSVerifyBackend", "boolean"),
    query("limitBytes", "integer"),
    query("previous", "boolean"),
    query("sinceSeconds", "integer"),
    query("stream", "string"),
    query("tailLines", "integer"),
    query("timestamps", "boolean"),
];

/// The parameters of a subresource that is no object.
pub(super) fn of_subresource(name: &str) -> Vec<Parameter> {
    match name {
        "attach" => STREAMS.to_vec(),
        "exec" => [&[query("command", "string")], &STREAMS[..]].concat(),
        "portforward" => vec![query("ports", "integer")],
        "proxy" => vec![query("path", "string")],
        "log" => LOG.to_vec(),
        _ => Vec::new(),
    }
}

/// The parameters that stand in a path.
pub(super) fn in_path(path: &str) -> impl Iterator<Item = Parameter> + '_ {
    let is_there =
        |one: &Parameter| path.split('/').any(|part| part == format!("{{{}}}", one.name));
    PATH.into_iter().filter(is_there)
}

impl Parameter {
    pub(super) fn write(self, dialect: Dialect) -> Value {
        let place = if self.is_path { "path" } else { "query" };
        let mut written = json!({ "name": self.name, "in": place });
        let schema = json!({ "type": self.kind, "uniqueItems": true });
        match dialect {
            Dialect::V2 => {
                for (member, value) in schema.as_object().into_iter().flatten() {
                    written[member] = value.clone();
                }
            }
            Dialect::V3 => written["schema"] = schema,
        }
        if self.is_path {
            written["required"] = true.into();
        }
        written
    }
}
