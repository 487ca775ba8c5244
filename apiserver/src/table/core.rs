//! Rows of the core group's types, pods aside.

use std::collections::BTreeSet;

use serde_json::Value;

use super::row::{NONE, Row, UNSET, first, or_none, shown, sorted};

/// Name, and when it was made as a plain time.
pub(super) fn created_at(row: Row<'_>) -> Vec<Value> {
    let created = row.get("/metadata/creationTimestamp").cloned().unwrap_or_default();
    vec![row.name().into(), created]
}

/// Name and age.
pub(super) fn name_and_age(row: Row<'_>) -> Vec<Value> {
    vec![row.name().into(), row.age().into()]
}

pub(super) fn component_status(row: Row<'_>) -> Vec<Value> {
    let health = row.items("/conditions").find(|c| c.text("/type") == "Healthy");
    let (status, message, error) = match health {
        Some(c) if c.text("/status") == "True" => ("Healthy", c.text("/message"), c.text("/error")),
        Some(c) => ("Unhealthy", c.text("/message"), c.text("/error")),
        None => ("Unknown", "", ""),
    };
    vec![row.name().into(), status.into(), message.into(), error.into()]
}

pub(super) fn config_map(row: Row<'_>) -> Vec<Value> {
    let n_entries = row.count("/data") + row.count("/binaryData");
    vec![row.name().into(), n_entries.into(), row.age().into()]
}

pub(super) fn secret(row: Row<'_>) -> Vec<Value> {
    vec![row.name().into(), row.text("/type").into(), row.count("/data").into(), row.age().into()]
}

pub(super) fn namespace(row: Row<'_>) -> Vec<Value> {
    vec![row.name().into(), row.text("/status/phase").into(), row.age().into()]
}

pub(super) fn endpoints(row: Row<'_>) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in row.items("/subsets") {
        let addresses: Vec<&str> = subset.items("/addresses").map(|a| a.text("/ip")).collect();
        if subset.count("/ports") == 0 {
            all.extend(addresses.iter().map(|&ip| ip.to_owned()));
        }
        for port in subset.items("/ports") {
            let number = port.number("/port");
            all.extend(addresses.iter().map(|ip| host_and_port(ip, number)));
        }
    }
    vec![row.name().into(), first(&all, 3, NONE).into(), row.age().into()]
}

fn host_and_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(super) fn event(row: Row<'_>) -> Vec<Value> {
    let since_first = |pointers: &[&str]| {
        let found = pointers.iter().find(|pointer| row.get(pointer).is_some());
        found.map_or_else(|| "<unknown>".to_owned(), |pointer| row.since(pointer))
    };
    let last = since_first(&[
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/deprecatedLastTimestamp",
        "/firstTimestamp",
        "/deprecatedFirstTimestamp",
        "/eventTime",
    ]);
    let first = since_first(&["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]);
    let count = match row.get("/series") {
        Some(_) => row.number("/series/count"),
        None => {
            let counts = ["/count", "/deprecatedCount"].map(|pointer| row.number(pointer));
            counts.into_iter().find(|count| *count != 0).unwrap_or(1)
        }
    };
    let about = if row.get("/regarding").is_some() { "/regarding" } else { "/involvedObject" };
    let about = row.at(about);
    let object = match (about.text("/kind").to_lowercase(), about.text("/name")) {
        (kind, "") => kind,
        (kind, name) => format!("{kind}/{name}"),
    };
    let message = row.text_or("/message", row.text("/note")).trim();
    vec![
        last.into(),
        row.text("/type").into(),
        row.text("/reason").into(),
        object.into(),
        about.text("/fieldPath").into(),
        event_source(row).into(),
        message.into(),
        first.into(),
        count.into(),
        row.name().into(),
    ]
}

fn event_source(row: Row<'_>) -> String {
    let source =
        if row.get("/deprecatedSource").is_some() { "/deprecatedSource" } else { "/source" };
    let source = row.at(source);
    let (component, host) = match source.text("/component") {
        "" => (
            row.text_or("/reportingController", row.text("/reportingComponent")),
            row.text("/reportingInstance"),
        ),
        component => (component, source.text("/host")),
    };
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}

pub(super) fn node(row: Row<'_>) -> Vec<Value> {
    let mut status = match row.condition("Ready") {
        Some(ready) if ready.text("/status") == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if row.flag("/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| {
        let found = row.items("/status/addresses").find(|a| a.text("/type") == kind);
        found.map_or(NONE, |address| address.text("/address"))
    };
    let info = row.at("/status/nodeInfo");
    let kernel = match (info.text("/kernelVersion"), info.text("/architecture")) {
        ("", _) => "<unknown>".to_owned(),
        (kernel, "") => kernel.to_owned(),
        (kernel, architecture) => format!("{kernel} ({architecture})"),
    };
    vec![
        row.name().into(),
        status.into(),
        roles(row).into(),
        row.age().into(),
        info.text("/kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        info.text_or("/osImage", "<unknown>").into(),
        kernel.into(),
        info.text_or("/containerRuntimeVersion", "<unknown>").into(),
    ]
}

fn roles(row: Row<'_>) -> String {
    let labels = row.get("/metadata/labels").and_then(Value::as_object);
    let role = |(key, value): (&String, &Value)| {
        let role = match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role.to_owned(),
            None if key == "kubernetes.io/role" => value.as_str()?.to_owned(),
            None => return None,
        };
        (!role.is_empty()).then_some(role)
    };
    let roles: BTreeSet<String> = labels.into_iter().flatten().filter_map(role).collect();
    or_none(roles.into_iter().collect::<Vec<_>>().join(","))
}

pub(super) fn service(row: Row<'_>) -> Vec<Value> {
    let ports = row.items("/spec/ports").map(|port| {
        let (number, protocol) = (port.number("/port"), port.text("/protocol"));
        match port.shown("/nodePort").filter(|p| p != "0") {
            Some(node_port) => format!("{number}:{node_port}/{protocol}"),
            None => format!("{number}/{protocol}"),
        }
    });
    vec![
        row.name().into(),
        row.text("/spec/type").into(),
        row.text_or("/spec/clusterIPs/0", row.text_or("/spec/clusterIP", NONE)).into(),
        external_ip(row).into(),
        or_none(ports.collect::<Vec<_>>().join(",")).into(),
        row.age().into(),
        row.labels("/spec/selector").into(),
    ]
}

fn external_ip(row: Row<'_>) -> String {
    let external = row.texts("/spec/externalIPs");
    match row.text("/spec/type") {
        "ExternalName" => row.text("/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let mut all = ingress_addresses(row.at("/status/loadBalancer"));
            all.extend(external.iter().map(|&ip| ip.to_owned()));
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ => or_none(external.join(",")),
    }
}

/// Addresses and names of a load balancer, in order and each once.
pub(super) fn ingress_addresses(balancer: Row<'_>) -> Vec<String> {
    let address = |entry: Row<'_>| entry.text_or("/ip", entry.text("/hostname")).to_owned();
    let all: BTreeSet<String> =
        balancer.items("/ingress").map(address).filter(|text| !text.is_empty()).collect();
    all.into_iter().collect()
}

/// Access modes in their short form, in a fixed order and each once.
fn access_modes(row: Row<'_>, pointer: &str) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let modes = row.texts(pointer);
    let short = SHORT.iter().filter(|(long, _)| modes.contains(long)).map(|(_, short)| *short);
    short.collect::<Vec<_>>().join(",")
}

fn volume_phase<'a>(row: Row<'a>) -> &'a str {
    if row.deleted() { "Terminating" } else { row.text("/status/phase") }
}

fn storage_class<'a>(row: Row<'a>) -> &'a str {
    let annotation = row.text("/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
    if annotation.is_empty() { row.text("/spec/storageClassName") } else { annotation }
}

pub(super) fn persistent_volume_claim(row: Row<'_>) -> Vec<Value> {
    let volume = row.text("/spec/volumeName");
    let (capacity, modes) = if volume.is_empty() {
        (String::new(), String::new())
    } else {
        (
            row.shown("/status/capacity/storage").unwrap_or_else(|| "0".to_owned()),
            access_modes(row, "/status/accessModes"),
        )
    };
    vec![
        row.name().into(),
        volume_phase(row).into(),
        volume.into(),
        capacity.into(),
        modes.into(),
        storage_class(row).into(),
        row.shown("/spec/volumeAttributesClassName").unwrap_or_else(|| UNSET.to_owned()).into(),
        row.age().into(),
        row.text_or("/spec/volumeMode", UNSET).into(),
    ]
}

pub(super) fn persistent_volume(row: Row<'_>) -> Vec<Value> {
    let claim = match row.get("/spec/claimRef") {
        Some(_) => {
            format!("{}/{}", row.text("/spec/claimRef/namespace"), row.text("/spec/claimRef/name"))
        }
        None => String::new(),
    };
    vec![
        row.name().into(),
        row.shown("/spec/capacity/storage").unwrap_or_default().into(),
        access_modes(row, "/spec/accessModes").into(),
        row.text("/spec/persistentVolumeReclaimPolicy").into(),
        volume_phase(row).into(),
        claim.into(),
        storage_class(row).into(),
        row.shown("/spec/volumeAttributesClassName").unwrap_or_else(|| UNSET.to_owned()).into(),
        row.text("/status/reason").into(),
        row.age().into(),
        row.text_or("/spec/volumeMode", UNSET).into(),
    ]
}

pub(super) fn pod_template(row: Row<'_>) -> Vec<Value> {
    let [names, images] = row.containers("/template/spec");
    vec![row.name().into(), names, images, row.labels("/template/metadata/labels").into()]
}

pub(super) fn resource_quota(row: Row<'_>) -> Vec<Value> {
    let hard = row.get("/status/hard").and_then(Value::as_object);
    let used = row.get("/status/used").and_then(Value::as_object);
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let names = hard.map(|hard| sorted(hard.keys().collect())).unwrap_or_default();
    for name in names {
        let quantity = |map: Option<&serde_json::Map<String, Value>>| {
            map.and_then(|map| map.get(name)).map_or_else(|| "0".to_owned(), shown)
        };
        let text = format!("{name}: {}/{}", quantity(used), quantity(hard));
        if name.starts_with("limits") { limits.push(text) } else { requests.push(text) }
    }
    vec![row.name().into(), requests.join(", ").into(), limits.join(", ").into(), row.age().into()]
}
