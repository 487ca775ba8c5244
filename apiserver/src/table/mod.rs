//! Objects as rows of a table: what `kubectl get` shows.
//!
//! A [`Format`] belongs to one served resource. Types that Kubernetes knows have their columns in
//! `data/columns.json` and a small function for their cells, whether hosted or brought by a
//! CustomResourceDefinition; all others show their `additionalPrinterColumns`.

mod age;
mod core;
mod jsonpath;
mod others;
mod pods;
mod row;
mod workloads;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::{Value, json};

pub use self::jsonpath::Path;
use self::row::Row;
use crate::registry::Resource;
use crate::status::ApiError;

/// Which form of the object comes with each row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// None.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter `includeObject`; absent and empty mean metadata.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] for an unknown value.
    pub fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        match text {
            None | Some("" | "Metadata") => Ok(Self::Metadata),
            Some("Object") => Ok(Self::Object),
            Some("None") => Ok(Self::None),
            Some(other) => Err(ApiError::BadRequest(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: \
                 must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// How the objects of one resource become rows.
#[derive(Clone, Debug)]
pub struct Format {
    columns: Value,
    cells: Cells,
}

#[derive(Clone, Debug)]
enum Cells {
    Known(fn(Row<'_>) -> Vec<Value>, Option<fn(Row<'_>) -> Option<Value>>),
    Printed(Vec<Printed>),
}

#[derive(Clone, Debug)]
struct Printed {
    kind: String,
    path: Option<Path>,
}

/// What a caller asks of a table.
#[derive(Clone, Debug)]
pub struct Options {
    /// Version of the `meta.k8s.io` group that the answer has: `v1` or `v1beta1`.
    pub version: String,
    /// What comes with each row.
    pub include: IncludeObject,
    /// False for all but the first event of a watch.
    pub headers: bool,
    /// The time that ages are counted to.
    pub now: Timestamp,
}

impl Format {
    /// The format of a served resource.
    pub fn of(resource: &Resource) -> Self {
        let key = format!("{}/{}", resource.api_version(), resource.name);
        if let (Some(cells), Some(columns)) =
            (known(&resource.group, &resource.name), COLUMNS.get(&key))
        {
            let conditions: Option<fn(Row<'_>) -> Option<Value>> =
                (key == "v1/pods").then_some(pods::row_conditions);
            return Self { columns: columns.clone(), cells: Cells::Known(cells, conditions) };
        }
        let mut columns = vec![column("Name", "string", "name", "", 0)];
        let mut printed = Vec::new();
        if resource.columns.is_empty() {
            columns.push(column("Age", "date", "", "", 0));
            let path = Path::parse(".metadata.creationTimestamp");
            printed.push(Printed { kind: "date".to_owned(), path });
        }
        for c in &resource.columns {
            columns.push(column(&c.name, &c.kind, &c.format, &c.description, c.priority.into()));
            printed.push(Printed { kind: c.kind.clone(), path: Path::parse(&c.json_path) });
        }
        Self { columns: columns.into(), cells: Cells::Printed(printed) }
    }

    /// A whole table. `metadata` is the list's (or, for one object, has its resourceVersion).
    pub fn table(&self, metadata: Value, objects: &[Value], options: &Options) -> Value {
        let rows: Vec<Value> = objects.iter().map(|object| self.row(object, options)).collect();
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{}", options.version),
            "metadata": metadata,
            "columnDefinitions": if options.headers { self.columns.clone() } else { Value::Null },
            "rows": rows,
        })
    }

    /// The table of one object, as GET and watch events carry it.
    pub fn single(&self, object: &Value, options: &Options) -> Value {
        let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
        let metadata = json!({ "resourceVersion": version });
        self.table(metadata, std::slice::from_ref(object), options)
    }

    fn row(&self, object: &Value, options: &Options) -> Value {
        let row = Row { object, now: options.now };
        let mut result = json!({ "cells": self.cells(row) });
        if let Cells::Known(_, Some(conditions)) = &self.cells
            && let Some(conditions) = conditions(row)
        {
            result["conditions"] = conditions;
        }
        result["object"] = match options.include {
            IncludeObject::None => Value::Null,
            IncludeObject::Metadata => partial_metadata(object, &options.version),
            IncludeObject::Object => object.clone(),
        };
        result
    }

    fn cells(&self, row: Row<'_>) -> Vec<Value> {
        match &self.cells {
            Cells::Known(cells, _) => cells(row),
            Cells::Printed(columns) => {
                let cells = columns.iter().map(|column| printed(column, row));
                std::iter::once(Value::from(row.name())).chain(cells).collect()
            }
        }
    }
}

/// An object reduced to `PartialObjectMetadata`.
pub fn partial_metadata(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

/// A list reduced to `PartialObjectMetadataList`.
pub fn partial_metadata_list(metadata: Value, objects: &[Value], version: &str) -> Value {
    let items: Vec<Value> = objects.iter().map(|o| partial_metadata(o, version)).collect();
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": metadata,
        "items": items,
    })
}

/// One cell of a custom type: the value in the column's type, `null` if it is absent or of another.
fn printed(column: &Printed, row: Row<'_>) -> Value {
    let Some(found) = column.path.as_ref().and_then(|path| path.first(row.object)) else {
        return Value::Null;
    };
    match column.kind.as_str() {
        "string" => row::shown(found).into(),
        "date" => match found {
            Value::String(_) => age::since(Some(found), row.now).into(),
            _ => Value::Null,
        },
        "integer" => match found {
            Value::Number(n) if n.is_f64() => n.as_f64().map(f64::trunc).map_or(Value::Null, |n| {
                #[expect(clippy::cast_possible_truncation, reason = "it was truncated above")]
                Value::from(n as i64)
            }),
            Value::Number(_) => found.clone(),
            _ => Value::Null,
        },
        "number" if found.is_number() => found.clone(),
        "boolean" if found.is_boolean() => found.clone(),
        _ => Value::Null,
    }
}

fn column(name: &str, kind: &str, format: &str, description: &str, priority: i64) -> Value {
    json!({
        "name": name,
        "type": kind,
        "format": format,
        "description": description,
        "priority": priority,
    })
}

/// Columns of the known types by `group/version/resource`, as they are sent.
static COLUMNS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let recorded: BTreeMap<String, Vec<(String, String, String, i64)>> =
        serde_json::from_str(include_str!("../../data/columns.json")).unwrap_or_else(|error| {
            // The file is part of the program; a test reads it.
            panic!("data/columns.json is not readable: {error}")
        });
    let render = |columns: Vec<(String, String, String, i64)>| {
        let sent = columns
            .iter()
            .map(|(name, kind, format, priority)| column(name, kind, format, "", *priority));
        sent.collect()
    };
    recorded.into_iter().map(|(key, columns)| (key, render(columns))).collect()
});

type CellsOf = fn(Row<'_>) -> Vec<Value>;

/// The function that makes the cells of a type that Kubernetes knows.
fn known(group: &str, resource: &str) -> Option<CellsOf> {
    Some(match (group, resource) {
        ("", "componentstatuses") => core::component_status,
        ("", "configmaps") => core::config_map,
        ("", "endpoints") => core::endpoints,
        ("" | "events.k8s.io", "events") => core::event,
        ("", "limitranges") => core::created_at,
        ("", "namespaces") => core::namespace,
        ("", "nodes") => core::node,
        ("", "persistentvolumeclaims") => core::persistent_volume_claim,
        ("", "persistentvolumes") => core::persistent_volume,
        ("", "pods") => pods::pod,
        ("", "podtemplates") => core::pod_template,
        ("", "replicationcontrollers") => workloads::replication_controller,
        ("", "resourcequotas") => core::resource_quota,
        ("", "secrets") => core::secret,
        ("", "serviceaccounts") => core::name_and_age,
        ("", "services") => core::service,
        ("apps", "controllerrevisions") => workloads::controller_revision,
        ("apps", "daemonsets") => workloads::daemon_set,
        ("apps", "deployments") => workloads::deployment,
        ("apps", "replicasets") => workloads::replica_set,
        ("apps", "statefulsets") => workloads::stateful_set,
        ("autoscaling", "horizontalpodautoscalers") => workloads::autoscaler,
        ("batch", "cronjobs") => workloads::cron_job,
        ("batch", "jobs") => workloads::job,
        ("policy", "poddisruptionbudgets") => workloads::pod_disruption_budget,
        _ => return known_elsewhere(group, resource),
    })
}

fn known_elsewhere(group: &str, resource: &str) -> Option<CellsOf> {
    Some(match (group.trim_end_matches(".k8s.io"), resource) {
        ("admissionregistration", "mutatingadmissionpolicies" | "validatingadmissionpolicies") => {
            others::policy
        }
        (
            "admissionregistration",
            "mutatingadmissionpolicybindings" | "validatingadmissionpolicybindings",
        ) => others::policy_binding,
        (
            "admissionregistration",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => others::webhooks,
        ("apiextensions", "customresourcedefinitions") => core::created_at,
        ("apiregistration", "apiservices") => others::api_service,
        ("certificates", "certificatesigningrequests") => others::certificate_signing_request,
        ("coordination", "leases") => others::lease,
        ("discovery", "endpointslices") => others::endpoint_slice,
        ("flowcontrol.apiserver", "flowschemas") => others::flow_schema,
        ("flowcontrol.apiserver", "prioritylevelconfigurations") => others::priority_level,
        ("networking", "ingressclasses") => others::ingress_class,
        ("networking", "ingresses") => others::ingress,
        ("networking", "ipaddresses") => others::ip_address,
        ("networking", "networkpolicies") => others::network_policy,
        ("networking", "servicecidrs") => others::service_cidr,
        ("node", "runtimeclasses") => others::runtime_class,
        ("rbac.authorization", "clusterrolebindings" | "rolebindings") => others::binding,
        ("rbac.authorization", "clusterroles" | "roles") => core::created_at,
        ("resource", "deviceclasses" | "resourceclaimtemplates") => core::name_and_age,
        ("resource", "resourceclaims") => others::resource_claim,
        ("resource", "resourceslices") => others::resource_slice,
        ("scheduling", "priorityclasses") => others::priority_class,
        ("storage", "csidrivers") => others::csi_driver,
        ("storage", "csinodes") => others::csi_node,
        ("storage", "csistoragecapacities") => core::created_at,
        ("storage", "storageclasses") => others::storage_class,
        ("storage", "volumeattachments") => others::volume_attachment,
        ("storage", "volumeattributesclasses") => others::volume_attributes_class,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
