//! Ports of one pod that get into each other's way.

use std::collections::HashMap;
use std::fmt::{self, Arguments};

use serde_json::Value;

use super::visit;
use crate::types::check::{items, text};

/// With how many earlier definitions of the same port one is compared: nobody reads more.
const COMPARED: usize = 64;

/// Where a definition stands, written out only when it is told.
struct Place<'a> {
    spec: Arguments<'a>,
    list: &'static str,
    container: usize,
    port: usize,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spec, list, container, port } = self;
        write!(f, "{spec}.{list}[{container}].ports[{port}]")
    }
}

/// Texts for ports that several containers have, or that say too little.
pub(super) fn clashes(at: Arguments<'_>, spec: &Value, warnings: &mut Vec<String>) {
    let mut ports = Vec::new();
    visit(spec, |list, n, container| {
        for (m, port) in items(&container["ports"]).iter().enumerate() {
            ports.push((Place { spec: at, list, container: n, port: m }, port));
        }
    });
    let mut of_number: HashMap<(i64, &str), Vec<(&Place<'_>, &Value)>> = HashMap::new();
    for (place, port) in &ports {
        if !text(port, "hostIP").is_empty() && host_port(port) == 0 {
            warnings.push(format!("{place}: hostIP set without hostPort: {}", shown(port)));
        }
        let number = port["containerPort"].as_i64().unwrap_or_default();
        let earlier = of_number.entry((number, text(port, "protocol"))).or_default();
        for (other_place, other) in &*earlier {
            if let Some(how) = clash(port, other) {
                warnings.push(format!("{place}: {how} port definition with {other_place}"));
            }
        }
        if earlier.len() < COMPARED {
            earlier.push((place, port));
        }
    }
    let mut names: HashMap<&str, &Place<'_>> = HashMap::new();
    for (place, port) in &ports {
        let name = text(port, "name");
        if name.is_empty() {
            continue;
        }
        match names.get(name) {
            Some(first) => warnings.push(format!(
                "{place}: duplicate port name {name:?} with {first}, services and probes that select ports by name will use {first}"
            )),
            None => drop(names.insert(name, place)),
        }
    }
}

fn host_port(port: &Value) -> i64 {
    port["hostPort"].as_i64().unwrap_or_default()
}

/// How two definitions of one port of a pod do not go together.
fn clash(port: &Value, other: &Value) -> Option<&'static str> {
    let (ip, other_ip) = (text(port, "hostIP"), text(other, "hostIP"));
    let (host, other_host) = (host_port(port), host_port(other));
    if ip == other_ip && host == other_host {
        Some("duplicate")
    } else if host == 0 || other_host == 0 {
        Some("overlapping")
    } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

/// A port as Go prints it.
fn shown(port: &Value) -> String {
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        text(port, "name"),
        host_port(port),
        port["containerPort"].as_i64().unwrap_or_default(),
        text(port, "protocol"),
        text(port, "hostIP"),
    )
}

#[test]
fn ports_clash() {
    use serde_json::json;
    let port = |name: &str| json!({"name": name, "containerPort": 80, "protocol": "TCP"});
    let spec = json!({"containers": [{"ports": [port("a")]}, {"ports": [port("a")]}]});
    let mut warnings = Vec::new();
    clashes(format_args!("spec"), &spec, &mut warnings);
    assert_eq!(
        warnings[0],
        "spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]"
    );
    assert!(warnings[1].contains("duplicate port name \"a\""));
}

#[test]
fn many_definitions_of_a_port_are_not_all_compared() {
    let ports = vec![serde_json::json!({"containerPort": 80}); 5_000];
    let mut warnings = Vec::new();
    clashes(
        format_args!("spec"),
        &serde_json::json!({"containers": [{"ports": ports}]}),
        &mut warnings,
    );
    assert_eq!(warnings.len(), COMPARED * (COMPARED - 1) / 2 + (5_000 - COMPARED) * COMPARED);
}
