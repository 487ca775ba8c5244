//! Printer columns and selectable fields that a JSONPath can say.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::facts;

/// Resource, column and the path that fills it. Other columns (`READY 1/1`) are code of the
/// API server.
const PATHS: &[(&str, &str, &str)] = &[
    ("controllerrevisions", "Revision", ".revision"),
    ("cronjobs", "Last Schedule", ".status.lastScheduleTime"),
    ("cronjobs", "Schedule", ".spec.schedule"),
    ("cronjobs", "Suspend", ".spec.suspend"),
    ("cronjobs", "Timezone", ".spec.timeZone"),
    ("csidrivers", "AttachRequired", ".spec.attachRequired"),
    ("csidrivers", "PodInfoOnMount", ".spec.podInfoOnMount"),
    ("csidrivers", "RequiresRepublish", ".spec.requiresRepublish"),
    ("csidrivers", "StorageCapacity", ".spec.storageCapacity"),
    ("csistoragecapacities", "Created At", ".metadata.creationTimestamp"),
    ("daemonsets", "Available", ".status.numberAvailable"),
    ("daemonsets", "Current", ".status.currentNumberScheduled"),
    ("daemonsets", "Desired", ".status.desiredNumberScheduled"),
    ("daemonsets", "Ready", ".status.numberReady"),
    ("daemonsets", "Up-to-date", ".status.updatedNumberScheduled"),
    ("deployments", "Available", ".status.availableReplicas"),
    ("deployments", "Up-to-date", ".status.updatedReplicas"),
    ("endpointslices", "AddressType", ".addressType"),
    ("horizontalpodautoscalers", "MaxPods", ".spec.maxReplicas"),
    ("horizontalpodautoscalers", "MinPods", ".spec.minReplicas"),
    ("horizontalpodautoscalers", "Replicas", ".status.currentReplicas"),
    ("ingressclasses", "Controller", ".spec.controller"),
    ("ingresses", "Class", ".spec.ingressClassName"),
    ("poddisruptionbudgets", "Allowed Disruptions", ".status.disruptionsAllowed"),
    ("poddisruptionbudgets", "Max Unavailable", ".spec.maxUnavailable"),
    ("poddisruptionbudgets", "Min Available", ".spec.minAvailable"),
    ("priorityclasses", "Global-Default", ".globalDefault"),
    ("priorityclasses", "PreemptionPolicy", ".preemptionPolicy"),
    ("priorityclasses", "Value", ".value"),
    ("replicasets", "Current", ".status.replicas"),
    ("replicasets", "Desired", ".spec.replicas"),
    ("replicasets", "Ready", ".status.readyReplicas"),
    ("resourceslices", "Driver", ".spec.driver"),
    ("resourceslices", "Node", ".spec.nodeName"),
    ("resourceslices", "Pool", ".spec.pool.name"),
    ("runtimeclasses", "Handler", ".handler"),
    ("storageclasses", "AllowVolumeExpansion", ".allowVolumeExpansion"),
    ("storageclasses", "Provisioner", ".provisioner"),
    ("storageclasses", "ReclaimPolicy", ".reclaimPolicy"),
    ("storageclasses", "VolumeBindingMode", ".volumeBindingMode"),
    ("volumeattachments", "Attached", ".status.attached"),
    ("volumeattachments", "Attacher", ".spec.attacher"),
    ("volumeattachments", "Node", ".spec.nodeName"),
    ("volumeattachments", "PV", ".spec.source.persistentVolumeName"),
    ("volumeattributesclasses", "DriverName", ".driverName"),
];

#[derive(Deserialize)]
struct Tables {
    columns: BTreeMap<String, Vec<(String, String, String, i32)>>,
}

/// `additionalPrinterColumns` of a resource; the name comes first in every table anyway.
pub(super) fn columns(group: &str, version: &str, plural: &str) -> Vec<Value> {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    let tables = TABLES.get_or_init(|| {
        serde_json::from_str(facts::TABLES).unwrap_or(Tables { columns: BTreeMap::new() })
    });
    let Some(recorded) = tables.columns.get(&format!("{group}/{version}/{plural}")) else {
        return Vec::new();
    };
    recorded
        .iter()
        .filter_map(|(name, r#type, _, priority)| {
            let path = match name.as_str() {
                "Age" => ".metadata.creationTimestamp",
                _ => PATHS.iter().find(|(p, n, _)| *p == plural && n == name)?.2,
            };
            // Upstream prints ages as text; for a CRD the type says so.
            let is_time = path.ends_with("Timestamp") || path.ends_with("Time");
            let mut column = Map::new();
            column.insert("name".into(), name.as_str().into());
            column.insert("type".into(), if is_time { "date" } else { r#type }.into());
            column.insert("jsonPath".into(), path.into());
            if *priority != 0 {
                column.insert("priority".into(), (*priority).into());
            }
            Some(column.into())
        })
        .collect()
}

/// Fields beyond name and namespace that upstream's field selectors know.
pub(super) fn selectable(plural: &str) -> &'static [&'static str] {
    match plural {
        "resourceslices" => &[".spec.driver", ".spec.nodeName"],
        _ => &[],
    }
}
