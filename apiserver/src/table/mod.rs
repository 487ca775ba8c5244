//! Objects as rows of a table: what `kubectl get` shows.
//!
//! Types that Kubernetes knows have their columns in `data/columns.json` and a small function for
//! their cells, whether hosted or brought by a CustomResourceDefinition; all others show their
//! `additionalPrinterColumns`.

mod age;
mod core;
mod jsonpath;
mod others;
mod pods;
mod row;
mod workloads;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Number, Value, json};

use self::jsonpath::Path;
use self::row::Row;
use crate::registry::{Column, Resource};

/// What each row carries beside its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// The object's metadata.
    Metadata,
    /// The object.
    Object,
}

/// Metadata of the list that a table shows.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    /// Of the list, or of the single object.
    pub resource_version: String,
    /// Token of the next page.
    pub continue_token: Option<String>,
    /// Objects on further pages, if known.
    pub remaining: Option<usize>,
}

impl ListMeta {
    /// Of a list that is complete.
    pub fn at(resource_version: &str) -> Self {
        Self { resource_version: resource_version.to_owned(), ..Self::default() }
    }

    fn to_json(&self) -> Value {
        let mut metadata = json!({});
        if !self.resource_version.is_empty() {
            metadata["resourceVersion"] = self.resource_version.clone().into();
        }
        if let Some(token) = &self.continue_token {
            metadata["continue"] = token.clone().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

/// A `meta.k8s.io` Table as JSON text: one row for each object (given as the store's text).
///
/// `version` is `v1` or `v1beta1`; with `columns` false the definitions are `null`, as on all watch
/// events but the first.
pub fn render(
    resource: &Resource,
    objects: &[Bytes],
    include: Include,
    version: &str,
    meta: &ListMeta,
    columns: bool,
) -> Bytes {
    let format = Format::new(&resource.group, &resource.version, &resource.name, &resource.columns);
    let now = Timestamp::now();
    let rows: Vec<Value> = objects
        .iter()
        .map(|text| {
            // What is stored was parsed before; nothing else comes here.
            let parse = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap_or_default();
            let shown = || parse(&resource.view(text.clone()));
            // As upstream, which makes rows of its own form of a type that has several.
            let is_converted = resource.conversion.is_some();
            let object = if is_converted { parse(text) } else { shown() };
            let mut row = format.row(object, include, version, now);
            match include {
                Include::Metadata => resource.hide(&mut row["object"]["metadata"]),
                Include::Object if is_converted => row["object"] = shown(),
                Include::None | Include::Object => (),
            }
            row
        })
        .collect();
    table(rows, if columns { format.columns } else { Value::Null }, version, meta)
}

/// The Table of a Scale.
pub fn render_scale(scale: Value, include: Include, version: &str) -> Bytes {
    let column = |name, kind| column(name, kind, "", "", 0);
    let columns = json!([
        column("Name", "string"),
        column("Desired", "integer"),
        column("Available", "integer"),
        column("Age", "string"),
    ]);
    let meta = ListMeta::at(scale["metadata"]["resourceVersion"].as_str().unwrap_or_default());
    let cells = Cells::Known { cells: workloads::scale, is_pod: false };
    let format = Format { columns: Value::Null, cells };
    let row = format.row(scale, include, version, Timestamp::now());
    table(vec![row], columns, version, &meta)
}

fn table(rows: Vec<Value>, columns: Value, version: &str, meta: &ListMeta) -> Bytes {
    let table = json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": meta.to_json(),
        "columnDefinitions": columns,
        "rows": rows,
    });
    table.to_string().into()
}

/// How the objects of one resource become rows.
struct Format {
    columns: Value,
    cells: Cells,
}

enum Cells {
    Known { cells: CellsOf, is_pod: bool },
    Printed(Vec<Printed>),
}

struct Printed {
    kind: String,
    path: Option<Path>,
}

impl Format {
    /// The format of a resource; `columns` are those of a custom type.
    fn new(group: &str, version: &str, name: &str, columns: &[Column]) -> Self {
        let key = [group, version, name].into_iter().filter(|part| !part.is_empty());
        let key = key.collect::<Vec<_>>().join("/");
        if let (Some(cells), Some(columns)) = (known(group, name), COLUMNS.get(&key)) {
            let is_pod = key == "v1/pods";
            return Self { columns: columns.clone(), cells: Cells::Known { cells, is_pod } };
        }
        let mut shown = vec![column("Name", "string", "name", "", 0)];
        let mut printed = Vec::new();
        if columns.is_empty() {
            shown.push(column("Age", "date", "", "", 0));
            let path = Path::parse(".metadata.creationTimestamp");
            printed.push(Printed { kind: "date".to_owned(), path });
        }
        for c in columns {
            shown.push(column(&c.name, &c.kind, &c.format, &c.description, c.priority.into()));
            printed.push(Printed { kind: c.kind.clone(), path: Path::parse(&c.json_path) });
        }
        Self { columns: shown.into(), cells: Cells::Printed(printed) }
    }

    fn row(&self, object: Value, include: Include, version: &str, now: Timestamp) -> Value {
        let row = Row { object: &object, now };
        let mut result = json!({ "cells": self.cells(row) });
        if let Cells::Known { is_pod: true, .. } = &self.cells
            && let Some(conditions) = pods::row_conditions(row)
        {
            result["conditions"] = conditions;
        }
        match include {
            Include::None => result["object"] = Value::Null,
            Include::Metadata => result["object"] = partial_metadata(object, version),
            Include::Object => result["object"] = object,
        }
        result
    }

    fn cells(&self, row: Row<'_>) -> Vec<Value> {
        match &self.cells {
            Cells::Known { cells, .. } => cells(row),
            Cells::Printed(columns) => {
                let cells = columns.iter().map(|column| printed(column, row));
                std::iter::once(Value::from(row.name())).chain(cells).collect()
            }
        }
    }
}

fn partial_metadata(mut object: Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get_mut("metadata").map(Value::take).unwrap_or_default(),
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
        "integer" => found.as_number().map_or(Value::Null, |n| integer(n).into()),
        // Go has all of them as floats, of which whole ones are written without a point.
        "number" => found.as_f64().map_or(Value::Null, |float| {
            let number = Number::from_f64(float);
            match number.as_ref().and_then(schema::print::whole) {
                Some(whole) => whole.into(),
                None => number.into(),
            }
        }),
        "boolean" if found.is_boolean() => found.clone(),
        _ => Value::Null,
    }
}

/// A number without its fraction; one that does not fit is the least that does, as on Go's processors.
fn integer(number: &Number) -> i64 {
    let float = number.as_f64().unwrap_or_default().trunc();
    #[expect(clippy::cast_possible_truncation, reason = "it is whole, and the range is checked")]
    let cut = if float.abs() < 9.3e18 { float as i64 } else { i64::MIN };
    number.as_i64().unwrap_or(cut)
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
