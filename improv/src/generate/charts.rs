//! One Helm chart a player, all from one mould, so that who knows one knows all; and the umbrella chart.

use std::fmt::Write;
use std::path::Path;

use super::{Files, to_yaml};
use crate::players::{self, Entry, Workload};

/// Where a player's pod serves health and metrics.
const HEALTH_PORT: u16 = 8081;
/// Pods in the node's network share its ports, so theirs is another.
const NODE_HEALTH_PORT: u16 = 10256;

const MOULD: [(&str, &str); 5] = [
    ("Chart.yaml", include_str!("chart/Chart.yaml")),
    ("values.yaml", include_str!("chart/values.yaml")),
    ("templates/serviceaccount.yaml", include_str!("chart/templates/serviceaccount.yaml")),
    ("templates/rbac.yaml", include_str!("chart/templates/rbac.yaml")),
    ("templates/workload.yaml", include_str!("chart/templates/workload.yaml")),
];

const DNS_SERVICE: &str = include_str!("chart/dns-service.yaml");

/// The files of all charts. `crds` is every CRD by file name; a chart brings those that its player needs.
pub(super) fn files(crds: &[(String, String)]) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for entry in players::ALL {
        let folder = Path::new("charts").join(entry.player.name);
        for (path, text) in MOULD {
            files.insert(folder.join(path), cast(entry, text)?);
        }
        if entry.workload == Workload::Dns {
            files.insert(folder.join("templates/service.yaml"), cast(entry, DNS_SERVICE)?);
        }
        for name in entry.player.crds {
            let crd = crds.iter().find(|(file, _)| file == name);
            let (_, yaml) = crd.ok_or_else(|| {
                anyhow::anyhow!("{} needs crds/{name}, which is not generated", entry.player.name)
            })?;
            files.insert(folder.join("crds").join(name), yaml.clone());
        }
    }
    files.insert("charts/improv/Chart.yaml".into(), umbrella()?);
    files.insert("charts/improv/values.yaml".into(), umbrella_values()?);
    Ok(files)
}

/// Fills the mould's `@PLACES@`.
fn cast(entry: &Entry, mould: &str) -> anyhow::Result<String> {
    let rules = to_yaml(&entry.player.all_rules())?;
    let shape = shape(entry.workload);
    let places = [
        ("@NAME@", entry.player.name.to_owned()),
        ("@DESCRIPTION@", entry.description.to_owned()),
        ("@VERSION@", entry.player.version.to_owned()),
        ("@KIND@", shape.kind.to_owned()),
        ("@RULES@", rules),
        ("@REPLICAS@", shape.replicas.to_owned()),
        ("@POD@", shape.pod),
        ("@ARGS@", shape.args),
        ("@PORTS@", shape.ports),
        ("@HEALTH_PORT@", shape.health_port.to_string()),
        ("@SECURITY@", shape.security),
    ];
    Ok(places.iter().fold(mould.to_owned(), |text, (place, value)| text.replace(place, value)))
}

/// Lines that differ by workload, indented for their place.
struct Shape {
    kind: &'static str,
    replicas: &'static str,
    pod: String,
    args: String,
    ports: String,
    health_port: u16,
    security: String,
}

fn shape(workload: Workload) -> Shape {
    let plain = Shape {
        kind: "Deployment",
        replicas: "  replicas: {{ .Values.replicas }}\n",
        pod: String::new(),
        args: String::new(),
        ports: String::new(),
        health_port: HEALTH_PORT,
        security: security(65_532, &[]),
    };
    match workload {
        Workload::Deployment => plain,
        Workload::EveryNode(capabilities) => Shape {
            kind: "DaemonSet",
            replicas: "",
            pod: "      hostNetwork: true\n      priorityClassName: system-node-critical\n".into(),
            args: "        - --node-name=$(NODE_NAME)\n".into(),
            health_port: NODE_HEALTH_PORT,
            security: security(0, capabilities),
            ports: node_name(),
        },
        Workload::Dns => Shape {
            args: "        - --listen=0.0.0.0:5353\n".into(),
            ports: "        - name: dns\n          containerPort: 5353\n          protocol: UDP\n        - name: dns-tcp\n          containerPort: 5353\n          protocol: TCP\n".into(),
            ..plain
        },
    }
}

fn node_name() -> String {
    "        env:\n        - name: NODE_NAME\n          valueFrom:\n            fieldRef:\n              fieldPath: spec.nodeName\n".into()
}

/// A container's security context, at its place in the mould.
fn security(user: u32, capabilities: &[&str]) -> String {
    let mut text = format!(
        "          runAsUser: {user}\n          runAsNonRoot: {}\n          allowPrivilegeEscalation: false\n          \
         readOnlyRootFilesystem: true\n          capabilities:\n            drop: [\"ALL\"]\n",
        user != 0
    );
    if !capabilities.is_empty() {
        let list: Vec<String> = capabilities.iter().map(|name| format!("\"{name}\"")).collect();
        let _ = writeln!(text, "            add: [{}]", list.join(", ")); // Writing to a string cannot fail.
    }
    text
}

/// A chart that installs all players; each can be left out by `<chart>.enabled=false`.
fn umbrella() -> anyhow::Result<String> {
    let version = env!("CARGO_PKG_VERSION");
    let dependencies: Vec<serde_json::Value> = players::ALL
        .iter()
        .map(|entry| {
            serde_json::json!({
                "name": entry.player.name,
                "version": entry.player.version,
                "repository": format!("file://../{}", entry.player.name),
                "condition": format!("{}.enabled", entry.player.name),
            })
        })
        .collect();
    to_yaml(&serde_json::json!({
        "apiVersion": "v2",
        "name": "improv",
        "description": "All players of Improv. Run `helm dependency build charts/improv` before the first install",
        "type": "application",
        "version": version,
        "appVersion": version,
        "dependencies": dependencies,
    }))
}

fn umbrella_values() -> anyhow::Result<String> {
    let enabled =
        |entry: &Entry| (entry.player.name.to_owned(), serde_json::json!({"enabled": true}));
    let values: serde_json::Map<_, _> = players::ALL.iter().map(enabled).collect();
    Ok(format!(
        "# Which players to install; all other values go to the player's own chart.\n{}",
        to_yaml(&values)?
    ))
}
