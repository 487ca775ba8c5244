//! The Node object and its Lease: registration, heartbeats, conditions, what the node can give.

pub mod machine;
pub mod pressure;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::wait;
use kube::{Api, Client};
use tokio::time::Instant;

use crate::config::Config;
use crate::pods::quantity::thousandths;
use crate::runtime::Runtime;
use machine::Machine;
use pressure::Pressure;

/// How often the Lease is renewed.
///
/// Source: kubernetes.io, "Nodes", "Heartbeats".
const RENEW: Duration = Duration::from_secs(10);
/// `leaseDurationSeconds` of the node's Lease.
const LEASE_SECONDS: i32 = 40;
/// An unchanged status is sent again after this time.
const STATUS_EVERY: Duration = Duration::from_secs(300);
/// First wait after a failed registration; it doubles up to [`RENEW`].
const RETRY: Duration = Duration::from_millis(100);
/// Most images that the status lists.
const IMAGES_MAX: usize = 50;
/// Namespace of the nodes' Leases.
const LEASES: &str = "kube-node-lease";
/// What pods may use here that older node agents cannot do.
///
/// Source: KEP-5328.
const FEATURES: [&str; 1] = ["InPlacePodVerticalScalingInitContainers"];
/// The Kubernetes version whose behaviour the agent has.
pub const VERSION: &str = concat!("v1.36.2+improv.", env!("CARGO_PKG_VERSION"));

/// What never changes while the agent runs.
pub struct Identity {
    /// The settings.
    pub config: Config,
    /// Addresses, the first one counts.
    pub ips: Vec<String>,
    /// The machine.
    pub machine: Machine,
    /// The port of the agent's server.
    pub port: Option<u16>,
}

impl Identity {
    /// What the node has.
    pub fn capacity(&self) -> BTreeMap<String, String> {
        let m = &self.machine;
        let mut capacity: BTreeMap<String, String> = [
            ("cpu", m.cpus.to_string()),
            ("memory", format!("{}Ki", m.memory / 1024)),
            ("ephemeral-storage", format!("{}Ki", m.disk / 1024)),
            ("hugepages-1Gi", "0".to_owned()),
            ("hugepages-2Mi", "0".to_owned()),
            ("pods", self.config.max_pods.to_string()),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into();
        capacity.extend(self.config.capacity.clone());
        capacity
    }

    /// What pods may use: the capacity without what is reserved.
    pub fn allocatable(&self) -> BTreeMap<String, String> {
        let mut left = self.capacity();
        for (name, reserved) in &self.config.reserved {
            let Some(total) = left.get(name).and_then(|q| thousandths(q)) else { continue };
            let rest = (total - thousandths(reserved).unwrap_or(0)).max(0);
            let text =
                if rest % 1000 == 0 { (rest / 1000).to_string() } else { format!("{rest}m") };
            left.insert(name.clone(), text);
        }
        left
    }
}

fn labels(config: &Config) -> BTreeMap<String, String> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    labels.extend(config.labels.clone());
    labels
}

fn node(config: &Config) -> Node {
    let cidr = config.pod_cidr.clone();
    let taints = config.taints.clone();
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidrs: cidr.clone().map(|c| vec![c]),
            pod_cidr: cidr,
            taints: (!taints.is_empty()).then_some(taints),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

/// Waits until the registered node has addresses for its pods: those of the settings, or those that the cluster
/// gives.
///
/// # Errors
/// The watch fails.
pub async fn pod_cidr(client: &Client, name: &str) -> Result<String, wait::Error> {
    let given = |node: Option<&Node>| node.is_some_and(|node| range(node).is_some());
    let node = wait::await_condition(Api::<Node>::all(client.clone()), name, given).await?;
    Ok(node.as_ref().and_then(range).unwrap_or_default())
}

fn range(node: &Node) -> Option<String> {
    node.spec.as_ref()?.pod_cidr.clone()
}

/// What the runtime said last, and the machine.
#[derive(Clone, Debug, Default, PartialEq)]
struct Health {
    version: String,
    error: Option<String>,
    images: Vec<ContainerImage>,
    pressures: BTreeSet<Pressure>,
}

/// Keeps Node and Lease alive; never returns.
pub async fn run(client: Client, identity: Arc<Identity>, runtime: Arc<dyn Runtime>) {
    let nodes = Api::<Node>::all(client.clone());
    let leases = Api::<Lease>::namespaced(client.clone(), LEASES);
    let mut wait = RETRY;
    let mut known = loop {
        match register(&client, &identity.config).await {
            Ok(node) => break node,
            Err(error) => {
                tracing::warn!(error = %error, "node not registered");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RENEW);
            }
        }
    };
    tracing::info!(node = identity.config.node_name, "node registered");
    let mut sent: Option<(NodeStatus, Instant)> = None;
    let mut recent = pressure::Recent::default();
    loop {
        let mut health = look(runtime.as_ref()).await;
        health.pressures = recent.tell(felt(&identity.config), Timestamp::now());
        let old = sent.as_ref().map(|(s, _)| s).or(known.status.as_ref());
        let next = status(&identity, &health, old, Timestamp::now());
        let stale = sent.as_ref().is_none_or(|(old, at)| {
            at.elapsed() >= STATUS_EVERY || without_times(old) != without_times(&next)
        });
        if stale {
            let patch = Patch::Strategic(serde_json::json!({"status": next}));
            let name = &identity.config.node_name;
            match nodes.patch_status(name, &PatchParams::default(), &patch).await {
                Ok(_) => sent = Some((next, Instant::now())),
                Err(kube::Error::Api(s)) if s.code == 404 => {
                    // Somebody deleted the Node; it is here all the same.
                    sent = None;
                    if let Ok(node) = register(&client, &identity.config).await {
                        known = node;
                        continue;
                    }
                }
                Err(error) => tracing::warn!(error = %error, "node status not sent"),
            }
        }
        let renewed = renew(&leases, &identity, &known).await;
        if let Err(error) = &renewed {
            tracing::warn!(error = %error, "lease not renewed");
        }
        let soon = renewed.is_err() || sent.is_none() || health.error.is_some();
        tokio::time::sleep(if soon { RENEW / 10 } else { RENEW }).await;
    }
}

/// Makes the Node, or brings the labels of the one that is there up to date.
///
/// # Errors
/// The API server refuses.
pub async fn register(client: &Client, config: &Config) -> kube::Result<Node> {
    let nodes = Api::<Node>::all(client.clone());
    match nodes.create(&PostParams::default(), &node(config)).await {
        Err(kube::Error::Api(s)) if s.code == 409 => (),
        other => return other,
    }
    let patch = serde_json::json!({"metadata": {"labels": labels(config)}});
    nodes.patch(&config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await
}

fn felt(config: &Config) -> BTreeSet<Pressure> {
    config.eviction_hard.felt(&pressure::levels(&config.root_dir, &config.image_dir))
}

async fn look(runtime: &dyn Runtime) -> Health {
    match runtime.version().await {
        Ok(version) => {
            let images = runtime.images().await.unwrap_or_default();
            let mut images: Vec<_> = images
                .into_iter()
                .map(|i| ContainerImage {
                    names: Some(i.repo_digests.into_iter().chain(i.names).collect()),
                    size_bytes: i64::try_from(i.size.0).ok(),
                })
                .collect();
            images.sort_by_key(|i| std::cmp::Reverse(i.size_bytes));
            images.truncate(IMAGES_MAX);
            Health {
                version: format!("{}://{}", version.name, version.version),
                images,
                ..Health::default()
            }
        }
        Err(error) => Health { error: Some(error.to_string()), ..Health::default() },
    }
}

fn status(
    identity: &Identity,
    health: &Health,
    old: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let quantities = |map: BTreeMap<String, String>| -> BTreeMap<String, Quantity> {
        map.into_iter().map(|(k, v)| (k, Quantity(v))).collect()
    };
    let before = old.and_then(|old| old.conditions.as_deref()).unwrap_or_default();
    NodeStatus {
        addresses: Some(addresses(identity)),
        declared_features: Some(FEATURES.map(str::to_owned).to_vec()),
        capacity: Some(quantities(identity.capacity())),
        allocatable: Some(quantities(identity.allocatable())),
        conditions: Some(conditions(health, before, now)),
        daemon_endpoints: identity.port.map(|port| NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(port) }),
        }),
        images: Some(health.images.clone()),
        node_info: Some(info(identity, health)),
        ..NodeStatus::default()
    }
}

fn addresses(identity: &Identity) -> Vec<NodeAddress> {
    let address = |type_: &str, address: &String| NodeAddress {
        type_: type_.to_owned(),
        address: address.clone(),
    };
    let ips = identity.ips.iter().map(|ip| address("InternalIP", ip));
    ips.chain([address("Hostname", &identity.config.node_name)]).collect()
}

fn conditions(health: &Health, before: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        let before = before.iter().find(|c| c.type_ == type_);
        let since =
            before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(since.unwrap_or(Time(now))),
        }
    };
    let pressure = |of: Pressure| {
        let (type_, [there, absent]) = of.words();
        match health.pressures.contains(&of) {
            true => condition(type_, "True", there.0, there.1),
            false => condition(type_, "False", absent.0, absent.1),
        }
    };
    let ready = match &health.error {
        None => condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        Some(why) => {
            let message = format!("container runtime is down: {why}");
            condition("Ready", "False", "KubeletNotReady", &message)
        }
    };
    vec![pressure(Pressure::Memory), pressure(Pressure::Disk), pressure(Pressure::Pid), ready]
}

fn info(identity: &Identity, health: &Health) -> NodeSystemInfo {
    let machine = &identity.machine;
    NodeSystemInfo {
        architecture: labels(&identity.config)
            .get("kubernetes.io/arch")
            .cloned()
            .unwrap_or_default(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: health.version.clone(),
        kernel_version: machine.kernel.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: VERSION.to_owned(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: machine.os_image.clone(),
        system_uuid: machine.system_uuid.clone(),
        ..NodeSystemInfo::default()
    }
}

fn without_times(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
        condition.last_transition_time = None;
    }
    status
}

async fn renew(leases: &Api<Lease>, identity: &Identity, node: &Node) -> kube::Result<()> {
    let name = &identity.config.node_name;
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    let patch = Patch::Merge(serde_json::json!({"spec": spec}));
    match leases.patch(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(s)) if s.code == 404 => (),
        other => return other.map(drop),
    }
    let owner = node.metadata.uid.clone().map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid,
        ..OwnerReference::default()
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASES.to_owned()),
            owner_references: owner.map(|o| vec![o]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
    };
    leases.create(&PostParams::default(), &lease).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let mut config = Config::new("node-1");
        config.reserved = [("cpu".to_owned(), "500m".to_owned())].into();
        let machine = Machine { cpus: 4, memory: 8 << 30, disk: 100 << 30, ..Machine::default() };
        Identity { config, ips: vec!["10.0.0.1".into()], machine, port: Some(10250) }
    }

    #[test]
    fn what_is_reserved_is_not_allocatable() {
        let node = identity();
        assert_eq!(node.capacity()["cpu"], "4");
        assert_eq!(node.allocatable()["cpu"], "3500m");
        assert_eq!(node.allocatable()["memory"], "8388608Ki");
        assert_eq!(node.allocatable()["pods"], "110");
    }

    #[test]
    fn readiness_follows_the_runtime() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let ready = |s: &NodeStatus| {
            let c = s.conditions.clone().unwrap().pop().unwrap();
            (c.status, c.reason.unwrap(), c.last_transition_time.unwrap().0)
        };
        let well = Health { version: "hollow://1".into(), ..Health::default() };
        let ill = Health { error: Some("no socket".into()), ..Health::default() };
        let first = status(&identity(), &well, None, at(1));
        assert_eq!(ready(&first), ("True".into(), "KubeletReady".into(), at(1)));
        let second = status(&identity(), &well, Some(&first), at(2));
        assert_eq!(ready(&second).2, at(1));
        assert_eq!(without_times(&first), without_times(&second));
        let third = status(&identity(), &ill, Some(&second), at(3));
        assert_eq!(ready(&third), ("False".into(), "KubeletNotReady".into(), at(3)));
    }

    #[test]
    fn conditions_tell_of_pressure() {
        let health = Health { pressures: [Pressure::Disk].into(), ..Health::default() };
        let status = status(&identity(), &health, None, Timestamp::from_second(1).unwrap());
        let told =
            |c: &NodeCondition| format!("{} {} {}", c.type_, c.status, c.reason.as_ref().unwrap());
        let told: Vec<String> = status.conditions.unwrap()[..3].iter().map(told).collect();
        let expected = [
            "MemoryPressure False KubeletHasSufficientMemory",
            "DiskPressure True KubeletHasDiskPressure",
            "PIDPressure False KubeletHasSufficientPID",
        ];
        assert_eq!(told, expected);
    }
}
