//! Rows of all other groups.

use serde_json::Value;

use super::age;
use super::core::ingress_addresses;
use super::row::{NONE, Row, UNSET, first, or_none};

pub(super) fn endpoint_slice(row: Row<'_>) -> Vec<Value> {
    let port = |port: Row<'_>| {
        port.shown("/port").or_else(|| port.shown("/name")).unwrap_or_else(|| "*".to_owned())
    };
    let ports: Vec<String> = row.items("/ports").map(port).collect();
    let addresses: Vec<&str> =
        row.items("/endpoints").flat_map(|e| e.texts("/addresses")).collect();
    vec![
        row.name().into(),
        row.text("/addressType").into(),
        first(&ports, 3, UNSET).into(),
        first(&addresses, 3, UNSET).into(),
        row.age().into(),
    ]
}

pub(super) fn ingress(row: Row<'_>) -> Vec<Value> {
    let ports = if row.count("/spec/tls") > 0 { "80, 443" } else { "80" };
    vec![
        row.name().into(),
        row.text_or("/spec/ingressClassName", NONE).into(),
        ingress_hosts(row).into(),
        ingress_addresses(row.at("/status/loadBalancer")).join(",").into(),
        ports.into(),
        row.age().into(),
    ]
}

/// The first hosts; of the rules after them there are more, with a host or without.
fn ingress_hosts(row: Row<'_>) -> String {
    const MOST: usize = 3;
    let hosts: Vec<&str> = row.items("/spec/rules").map(|rule| rule.text("/host")).collect();
    let named = hosts.iter().enumerate().filter(|(_, host)| !host.is_empty());
    let last = named.clone().nth(MOST - 1).map(|(at, _)| at + 1);
    let shown: Vec<&str> = named.map(|(_, host)| *host).take(MOST).collect();
    match last {
        _ if shown.is_empty() => "*".to_owned(),
        Some(last) if last < hosts.len() => {
            format!("{} + {} more...", shown.join(","), hosts.len() - MOST)
        }
        _ => shown.join(","),
    }
}

pub(super) fn ingress_class(row: Row<'_>) -> Vec<Value> {
    let parameters = row.at("/spec/parameters");
    let parameters = match (parameters.text("/kind"), parameters.text("/apiGroup")) {
        ("", _) => NONE.to_owned(),
        (kind, "") => format!("{kind}/{}", parameters.text("/name")),
        (kind, group) => format!("{kind}.{group}/{}", parameters.text("/name")),
    };
    vec![
        marked_default(row, "/metadata/annotations/ingressclass.kubernetes.io~1is-default-class"),
        row.text("/spec/controller").into(),
        parameters.into(),
        row.age().into(),
    ]
}

/// The name of a class, with a word if an annotation makes it the default.
fn marked_default(row: Row<'_>, annotation: &str) -> Value {
    match row.text(annotation) {
        "true" => format!("{} (default)", row.name()).into(),
        _ => row.name().into(),
    }
}

pub(super) fn ip_address(row: Row<'_>) -> Vec<Value> {
    let parent = row.at("/spec/parentRef");
    let (group, resource) = (parent.text("/group"), parent.text("/resource"));
    let resource = if group.is_empty() { resource.into() } else { format!("{resource}.{group}") };
    let parts = [&resource, parent.text("/namespace"), parent.text("/name")];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    vec![row.name().into(), or_none(parts.join("/")).into(), row.age().into()]
}

pub(super) fn service_cidr(row: Row<'_>) -> Vec<Value> {
    vec![row.name().into(), row.texts("/spec/cidrs").join(",").into(), row.age().into()]
}

pub(super) fn network_policy(row: Row<'_>) -> Vec<Value> {
    vec![row.name().into(), row.selector("/spec/podSelector").into(), row.age().into()]
}

pub(super) fn binding(row: Row<'_>) -> Vec<Value> {
    let role = format!("{}/{}", row.text("/roleRef/kind"), row.text("/roleRef/name"));
    let names = |kind: &str| {
        let subjects = row.items("/subjects").filter(|s| s.text("/kind") == kind);
        let name = |subject: Row<'_>| match (kind, subject.text("/namespace")) {
            ("ServiceAccount", namespace) => format!("{namespace}/{}", subject.text("/name")),
            _ => subject.text("/name").to_owned(),
        };
        subjects.map(name).collect::<Vec<_>>().join(", ")
    };
    vec![
        row.name().into(),
        role.into(),
        row.age().into(),
        names("User").into(),
        names("Group").into(),
        names("ServiceAccount").into(),
    ]
}

pub(super) fn certificate_signing_request(row: Row<'_>) -> Vec<Value> {
    let has = |kind: &str| row.condition(kind).is_some();
    let mut condition = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        condition.push_str(",Failed");
    }
    if !row.text("/status/certificate").is_empty() {
        condition.push_str(",Issued");
    }
    let duration = row.get("/spec/expirationSeconds").and_then(Value::as_i64);
    vec![
        row.name().into(),
        row.age().into(),
        row.text("/spec/signerName").into(),
        row.text("/spec/username").into(),
        duration.map_or_else(|| NONE.to_owned(), age::human).into(),
        condition.into(),
    ]
}

pub(super) fn api_service(row: Row<'_>) -> Vec<Value> {
    let service = match row.get("/spec/service") {
        Some(_) => {
            format!("{}/{}", row.text("/spec/service/namespace"), row.text("/spec/service/name"))
        }
        None => "Local".to_owned(),
    };
    let available = match row.condition("Available") {
        None => "Unknown".to_owned(),
        Some(condition) if condition.text("/status") == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", c.text("/status"), c.text("/reason")),
    };
    vec![row.name().into(), service.into(), available.into(), row.age().into()]
}

pub(super) fn lease(row: Row<'_>) -> Vec<Value> {
    vec![row.name().into(), row.text("/spec/holderIdentity").into(), row.age().into()]
}

pub(super) fn priority_class(row: Row<'_>) -> Vec<Value> {
    vec![
        row.name().into(),
        row.number("/value").into(),
        row.flag("/globalDefault").into(),
        row.age().into(),
        row.text("/preemptionPolicy").into(),
    ]
}

pub(super) fn runtime_class(row: Row<'_>) -> Vec<Value> {
    vec![row.name().into(), row.text("/handler").into(), row.age().into()]
}

pub(super) fn storage_class(row: Row<'_>) -> Vec<Value> {
    vec![
        marked_default(row, "/metadata/annotations/storageclass.kubernetes.io~1is-default-class"),
        row.text("/provisioner").into(),
        row.text_or("/reclaimPolicy", "Delete").into(),
        row.text_or("/volumeBindingMode", "Immediate").into(),
        row.flag("/allowVolumeExpansion").into(),
        row.age().into(),
    ]
}

pub(super) fn csi_driver(row: Row<'_>) -> Vec<Value> {
    let flag =
        |pointer: &str, missing: bool| row.get(pointer).and_then(Value::as_bool).unwrap_or(missing);
    let audiences = row.items("/spec/tokenRequests").map(|r| r.text("/audience"));
    let tokens = audiences.collect::<Vec<_>>().join(",");
    let tokens = if tokens.is_empty() { UNSET.to_owned() } else { tokens };
    let modes = row.texts("/spec/volumeLifecycleModes").join(",");
    vec![
        row.name().into(),
        flag("/spec/attachRequired", true).into(),
        flag("/spec/podInfoOnMount", false).into(),
        flag("/spec/storageCapacity", false).into(),
        tokens.into(),
        flag("/spec/requiresRepublish", false).into(),
        or_none(modes).into(),
        row.age().into(),
    ]
}

pub(super) fn csi_node(row: Row<'_>) -> Vec<Value> {
    vec![row.name().into(), row.count("/spec/drivers").into(), row.age().into()]
}

pub(super) fn volume_attachment(row: Row<'_>) -> Vec<Value> {
    vec![
        row.name().into(),
        row.text("/spec/attacher").into(),
        row.text("/spec/source/persistentVolumeName").into(),
        row.text("/spec/nodeName").into(),
        row.flag("/status/attached").into(),
        row.age().into(),
    ]
}

pub(super) fn volume_attributes_class(row: Row<'_>) -> Vec<Value> {
    let annotation = row.text("/metadata/annotations/storageclass.kubernetes.io~1is-default-class");
    let name =
        if annotation == "true" { format!("{} (default)", row.name()) } else { row.name().into() };
    vec![name.into(), row.text("/driverName").into(), row.age().into()]
}

/// A webhook configuration.
pub(super) fn webhooks(row: Row<'_>) -> Vec<Value> {
    vec![row.name().into(), row.count("/webhooks").into(), row.age().into()]
}

/// A mutating or validating admission policy.
pub(super) fn policy(row: Row<'_>) -> Vec<Value> {
    let n_rules = row.count("/spec/validations") + row.count("/spec/mutations");
    let parameters = match row.text("/spec/paramKind/kind") {
        "" => UNSET.to_owned(),
        kind => format!("{}/{kind}", row.text("/spec/paramKind/apiVersion")),
    };
    vec![row.name().into(), n_rules.into(), parameters.into(), row.age().into()]
}

/// The binding of such a policy.
pub(super) fn policy_binding(row: Row<'_>) -> Vec<Value> {
    let reference = row.at("/spec/paramRef");
    let parameters = match (reference.text("/name"), reference.text("/namespace")) {
        ("", _) if reference.get("/selector").is_some() => go_selector(reference.at("/selector")),
        ("", _) => UNSET.to_owned(),
        // Of any namespace, or of none: the row cannot tell.
        (name, "") => format!("*/{name}"),
        (name, namespace) => format!("{namespace}/{name}"),
    };
    let policy = row.text("/spec/policyName");
    vec![row.name().into(), policy.into(), parameters.into(), row.age().into()]
}

/// A label selector as Go writes the struct.
fn go_selector(selector: Row<'_>) -> String {
    let labels = selector.get("/matchLabels").and_then(Value::as_object);
    let mut labels: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or_default()))
        .collect();
    labels.sort();
    let expressions = selector.items("/matchExpressions").map(|expression| {
        let (key, operator) = (expression.text("/key"), expression.text("/operator"));
        let values = expression.texts("/values").join(" ");
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},")
    });
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{}}},MatchExpressions:[]LabelSelectorRequirement{{{}}},}}",
        labels.concat(),
        expressions.collect::<String>()
    )
}

pub(super) fn flow_schema(row: Row<'_>) -> Vec<Value> {
    let missing = row.condition("Dangling").map_or("?", |condition| condition.text("/status"));
    vec![
        row.name().into(),
        row.text("/spec/priorityLevelConfiguration/name").into(),
        row.number("/spec/matchingPrecedence").into(),
        row.text_or("/spec/distinguisherMethod/type", NONE).into(),
        row.age().into(),
        missing.into(),
    ]
}

pub(super) fn priority_level(row: Row<'_>) -> Vec<Value> {
    let limited = row.at("/spec/limited");
    let cell = |pointer: &str| match limited.get(pointer) {
        Some(value) => value.clone(),
        None => NONE.into(),
    };
    vec![
        row.name().into(),
        row.text("/spec/type").into(),
        cell("/nominalConcurrencyShares"),
        cell("/limitResponse/queuing/queues"),
        cell("/limitResponse/queuing/handSize"),
        cell("/limitResponse/queuing/queueLengthLimit"),
        row.age().into(),
    ]
}

pub(super) fn resource_claim(row: Row<'_>) -> Vec<Value> {
    let mut state = Vec::new();
    if row.deleted() {
        state.push("deleted");
    }
    if row.get("/status/allocation").is_some() {
        state.push("allocated");
    }
    if row.count("/status/reservedFor") > 0 {
        state.push("reserved");
    }
    let state = if state.is_empty() { "pending".to_owned() } else { state.join(",") };
    vec![row.name().into(), state.into(), row.age().into()]
}

pub(super) fn resource_slice(row: Row<'_>) -> Vec<Value> {
    vec![
        row.name().into(),
        row.text("/spec/nodeName").into(),
        row.text("/spec/driver").into(),
        row.text("/spec/pool/name").into(),
        row.age().into(),
    ]
}
