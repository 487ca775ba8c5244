//! A player's Helm chart, from one mould for all, so that who knows one knows all.

use std::{collections::BTreeMap, fmt::Write, path::PathBuf};

use crate::{Error, Player};

/// Where a player's pod serves health and metrics.
const HEALTH_PORT: u16 = 8081;
/// Pods in the node's network share its ports, so theirs is another.
const NODE_HEALTH_PORT: u16 = 10256;

const MOULD: [(&str, &str); 5] = [
    ("Chart.yaml", include_str!("mould/Chart.yaml")),
    ("values.yaml", include_str!("mould/values.yaml")),
    ("templates/serviceaccount.yaml", include_str!("mould/templates/serviceaccount.yaml")),
    ("templates/rbac.yaml", include_str!("mould/templates/rbac.yaml")),
    ("templates/workload.yaml", include_str!("mould/templates/workload.yaml")),
];

const ROLE: &str = include_str!("mould/role.yaml");
const DNS_SERVICE: &str = include_str!("mould/dns-service.yaml");

/// How a player's pods are spread over the cluster, and what they may do there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// One that leads, wherever there is room; others may stand by.
    Deployment,
    /// One on every node, in the node's own network, with these capabilities.
    EveryNode(&'static [&'static str]),
    /// Several that answer on a port of their own, behind Service kube-dns.
    Dns,
}

/// What a chart is made of.
#[derive(Debug, Clone, Copy)]
pub struct Chart {
    /// The player: its name, its version, and the rights that its service account gets.
    pub player: &'static Player,
    /// What it does, for `helm search` and `helm show`.
    pub description: &'static str,
    /// How its pods are spread.
    pub workload: Workload,
}

impl Chart {
    /// The chart's files: path below its folder → content. `crds` is what it brings, by file name.
    ///
    /// # Errors
    /// [`Error::Yaml`] if the rights cannot be written as YAML.
    pub fn files(&self, crds: &[(String, String)]) -> Result<BTreeMap<PathBuf, String>, Error> {
        let mut files = BTreeMap::new();
        for (path, text) in MOULD {
            files.insert(path.into(), self.cast(text)?);
        }
        if self.workload == Workload::Dns {
            files.insert("templates/service.yaml".into(), self.cast(DNS_SERVICE)?);
        }
        for (name, yaml) in crds {
            files.insert(PathBuf::from("crds").join(name), yaml.clone());
        }
        Ok(files)
    }

    /// Fills the mould's `@PLACES@`.
    fn cast(&self, mould: &str) -> Result<String, Error> {
        let rules = to_yaml(&self.player.all_rules())?;
        let shape = shape(self.workload);
        let places = [
            ("@DESCRIPTION@", self.description.to_owned()),
            ("@VERSION@", self.player.version.to_owned()),
            ("@KIND@", shape.kind.to_owned()),
            ("@RULES@", rules),
            ("@ROLES@", self.roles()?),
            ("@REPLICAS@", shape.replicas.to_owned()),
            ("@POD@", shape.pod),
            ("@ARGS@", shape.args),
            ("@PORTS@", shape.ports),
            ("@HEALTH_PORT@", shape.health_port.to_string()),
            ("@SECURITY@", shape.security),
            ("@NAME@", self.player.name.to_owned()), // Last: the others may name the player, too.
        ];
        Ok(places.iter().fold(mould.to_owned(), |text, (place, value)| text.replace(place, value)))
    }

    /// Role and binding for each namespace in which the player has rights of its own.
    fn roles(&self) -> Result<String, Error> {
        let roles = (self.player.namespaced_rules)().into_iter().map(|(namespace, rules)| {
            Ok(ROLE.replace("@NAMESPACE@", namespace).replace("@ROLE_RULES@", &to_yaml(&rules)?))
        });
        roles.collect()
    }
}

/// `value` as YAML text.
///
/// # Errors
/// [`Error::Yaml`] if it has no YAML form.
pub fn to_yaml(value: &impl serde::Serialize) -> Result<String, Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Yaml { source };
    let value = serde_json::to_value(value).map_err(|error| failed(error.into()))?;
    serde_saphyr::to_string(&value).map_err(|error| failed(error.into()))
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
