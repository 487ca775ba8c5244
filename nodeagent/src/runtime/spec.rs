//! What the pod side wants: sandboxes and containers as plain data.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ImageRef;

/// Thousandths of a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Millicores(pub u64);

/// An amount of memory or storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bytes(pub u64);

/// Which pod; the uid is what counts, the names are for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodIdentity {
    /// metadata.namespace
    pub namespace: String,
    /// metadata.name
    pub name: String,
    /// metadata.uid
    pub uid: String,
}

/// Quality of service class; decides the place in the cgroup tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Qos {
    /// Limits equal requests for every container.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None.
    #[default]
    BestEffort,
}

/// Requests and limits as the kernel is to know them; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Becomes CPU shares (v1) or weight (v2); none means the smallest share.
    pub cpu_request: Option<Millicores>,
    /// Becomes the CFS quota.
    pub cpu_limit: Option<Millicores>,
    /// Becomes the memory limit; swap is not allowed on top.
    pub memory_limit: Option<Bytes>,
    /// Most processes and threads.
    pub pids_limit: Option<u64>,
}

impl Resources {
    /// What is enough for both: the larger of each figure, where no limit is the largest.
    #[must_use]
    pub fn at_least(self, other: Self) -> Self {
        Self {
            cpu_request: self.cpu_request.max(other.cpu_request),
            cpu_limit: self.cpu_limit.zip(other.cpu_limit).map(|(a, b)| a.max(b)),
            memory_limit: self.memory_limit.zip(other.memory_limit).map(|(a, b)| a.max(b)),
            pids_limit: self.pids_limit.zip(other.pids_limit).map(|(a, b)| a.max(b)),
        }
    }

    /// Whether nothing of `other` needs more than this.
    pub fn covers(self, other: Self) -> bool {
        self.at_least(other) == self
    }
}

/// Resolver configuration of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` list.
    pub searches: Vec<String>,
    /// The `options` list, as `ndots:5`.
    pub options: Vec<String>,
}

impl Dns {
    /// Reads the text of a resolv.conf; lines that it does not know are left out.
    pub fn parse(text: &str) -> Self {
        let mut dns = Self::default();
        for line in text.lines() {
            let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
            match words.next() {
                Some("nameserver") => dns.servers.extend(words.next().map(String::from)),
                Some("search" | "domain") => dns.searches = words.map(String::from).collect(),
                Some("options") => dns.options.extend(words.map(String::from)),
                _ => (),
            }
        }
        dns
    }

    /// The text of a resolv.conf.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            text += &format!("nameserver {server}\n");
        }
        if !self.searches.is_empty() {
            text += &format!("search {}\n", self.searches.join(" "));
        }
        if !self.options.is_empty() {
            text += &format!("options {}\n", self.options.join(" "));
        }
        text
    }
}

/// An extra line of /etc/hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAlias {
    /// The address.
    pub ip: String,
    /// Its names.
    pub hostnames: Vec<String>,
}

/// Transport of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the node that leads into the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// Only on this address of the node; `None` means all.
    pub host_ip: Option<IpAddr>,
    /// On the node.
    pub host_port: u16,
    /// In the pod.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// All that the containers of a pod share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Which pod.
    pub pod: PodIdentity,
    /// Host name inside (at most 63 characters).
    pub hostname: String,
    /// Fully qualified name for /etc/hosts, where the pod has a subdomain.
    pub fqdn: Option<String>,
    /// Use the node's network (then also its host name).
    pub host_network: bool,
    /// See the node's processes.
    pub host_pid: bool,
    /// Use the node's System V IPC and /dev/shm.
    pub host_ipc: bool,
    /// One process namespace for all containers.
    pub share_process_namespace: bool,
    /// /etc/resolv.conf.
    pub dns: Dns,
    /// Extra lines of /etc/hosts.
    pub host_aliases: Vec<HostAlias>,
    /// Ports of the node; ignored with `host_network`.
    pub ports: Vec<HostPort>,
    /// Namespaced kernel parameters, as `net.ipv4.ip_unprivileged_port_start`.
    pub sysctls: BTreeMap<String, String>,
    /// Place in the cgroup tree.
    pub qos: Qos,
    /// Sums over the containers.
    pub resources: Resources,
}

/// How mounts made later travel between node and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the node into the container.
    HostToContainer,
    /// Both ways; only for privileged containers.
    Bidirectional,
}

/// A bind mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// File or folder on the node; it must exist.
    pub host_path: PathBuf,
    /// Where it appears.
    pub container_path: String,
    /// Refuse writes.
    pub read_only: bool,
    /// How later mounts travel.
    pub propagation: Propagation,
}

/// System call filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// No filter.
    #[default]
    Unconfined,
    /// The agent's own table.
    RuntimeDefault,
    /// A profile file on the node (JSON in the OCI format).
    Localhost(PathBuf),
    /// A profile that cannot be had, and why: the container is not started.
    Unusable(String),
}

/// The merged securityContext of pod and container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// runAsUser; `None` leaves it to the image.
    pub user: Option<u32>,
    /// runAsGroup.
    pub group: Option<u32>,
    /// Refuse to run as uid 0, and under a user name, which cannot be judged.
    pub non_root: bool,
    /// supplementalGroups and fsGroup.
    pub supplemental_groups: Vec<u32>,
    /// supplementalGroupsPolicy Strict: groups named in the image are not added.
    pub strict_groups: bool,
    /// All devices and capabilities, no filter.
    pub privileged: bool,
    /// readOnlyRootFilesystem.
    pub read_only_root: bool,
    /// allowPrivilegeEscalation is false.
    pub no_new_privileges: bool,
    /// capabilities.add, without `CAP_`; `ALL` is known.
    pub add_capabilities: Vec<String>,
    /// capabilities.drop, without `CAP_`; `ALL` is known.
    pub drop_capabilities: Vec<String>,
    /// System call filter.
    pub seccomp: Seccomp,
    /// procMount is Unmasked.
    pub unmasked_proc: bool,
}

/// A container to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Uid of the pod; its sandbox must exist.
    pub pod_uid: String,
    /// Name in the pod.
    pub name: String,
    /// Counts the restarts, from 0.
    pub attempt: u32,
    /// The image; it must be present.
    pub image: ImageRef,
    /// Replaces the image's entrypoint if not empty.
    pub command: Vec<String>,
    /// Replaces the image's cmd if not empty.
    pub args: Vec<String>,
    /// Replaces the image's working directory.
    pub working_dir: Option<String>,
    /// Added to the image's environment; a later one wins.
    pub env: Vec<(String, String)>,
    /// Volumes and files. /etc/hosts, /etc/hostname, /etc/resolv.conf and /dev/shm come from the sandbox unless named here.
    pub mounts: Vec<Mount>,
    /// Rights.
    pub security: Security,
    /// Limits.
    pub resources: Resources,
    /// oom_score_adj wanted; clamped to what the agent may set.
    pub oom_score_adj: Option<i32>,
    /// Where the log is written; folders are made.
    pub log_path: PathBuf,
    /// Give it a terminal.
    pub tty: bool,
    /// Keep standard input open for attach.
    pub stdin: bool,
    /// End standard input after the first attach.
    pub stdin_once: bool,
    /// Kept with the container and given back by the listing (at most 4096 bytes with key a label).
    pub labels: BTreeMap<String, String>,
}
