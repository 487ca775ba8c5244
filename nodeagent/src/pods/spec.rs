//! From a pod's specification to what the runtime is asked for. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, ResourceRequirements, SeccompProfile,
};

use super::allotment::overlay;
use super::dns::{Resolver, pod_dns, pod_hostname};
use super::env::expand;
use super::observed::Wanted;
use super::quantity::{container_resources, pod_resources, thousandths};
use super::status::qos_class;
use crate::runtime::{
    ContainerSpec, HostAlias, HostPort, ImageRef, Mount, PodIdentity, Protocol, Qos, SandboxSpec,
    Seccomp, Security,
};

/// Label with the image as the pod names it, to notice a change of it.
pub const LABEL_IMAGE: &str = "improv.dev/image";
/// Label with the number of ends in a row before this attempt.
pub const LABEL_CRASHES: &str = "improv.dev/crashes";
/// Label with `name@digest` of the image.
pub const LABEL_IMAGE_ID: &str = "improv.dev/image-id";

/// Label with the requests and limits of CPU and memory, to notice a change of them.
pub const LABEL_RESOURCES: &str = "improv.dev/resources";

/// What the containers of a pod share.
pub fn sandbox_spec(wanted: &Wanted, resolver: &Resolver) -> SandboxSpec {
    let pod = &wanted.pod;
    let spec = pod.spec.clone().unwrap_or_default();
    let (hostname, fqdn) = pod_hostname(pod, &resolver.cluster_domain);
    let security = spec.security_context.clone().unwrap_or_default();
    let aliases = spec.host_aliases.into_iter().flatten();
    SandboxSpec {
        pod: identity(wanted),
        hostname,
        fqdn,
        host_network: wanted.host_network,
        host_pid: spec.host_pid.unwrap_or(false),
        host_ipc: spec.host_ipc.unwrap_or(false),
        share_process_namespace: spec.share_process_namespace.unwrap_or(false),
        dns: pod_dns(wanted, resolver),
        host_aliases: aliases
            .map(|a| HostAlias { ip: a.ip, hostnames: a.hostnames.unwrap_or_default() })
            .collect(),
        ports: if wanted.host_network { Vec::new() } else { host_ports(wanted) },
        sysctls: security.sysctls.into_iter().flatten().map(|s| (s.name, s.value)).collect(),
        qos: match qos_class(pod) {
            "Guaranteed" => Qos::Guaranteed,
            "Burstable" => Qos::Burstable,
            _ => Qos::BestEffort,
        },
        resources: pod_resources(pod),
    }
}

/// The pod, as the runtime names it.
pub fn identity(wanted: &Wanted) -> PodIdentity {
    PodIdentity {
        namespace: wanted.namespace.clone(),
        name: wanted.name.clone(),
        uid: wanted.uid.clone(),
    }
}

/// The label with a container's resources.
pub fn resources_label(resources: &ResourceRequirements) -> (String, String) {
    let own = overlay(&ResourceRequirements::default(), resources);
    (LABEL_RESOURCES.to_owned(), serde_json::json!(own).to_string())
}

fn host_ports(wanted: &Wanted) -> Vec<HostPort> {
    let ports = wanted.containers.iter().flat_map(|c| c.spec.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host_port = u16::try_from(port.host_port?).ok().filter(|p| *p != 0)?;
            Some(HostPort {
                host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
                host_port,
                container_port: u16::try_from(port.container_port).ok()?,
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
            })
        })
        .collect()
}

/// What a start has found out beforehand.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// The image, present.
    pub image: ImageRef,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// Volumes, the termination message and the like.
    pub mounts: Vec<Mount>,
    /// Number of the attempt.
    pub attempt: u32,
    /// Where the log goes.
    pub log_path: PathBuf,
    /// Own labels.
    pub labels: BTreeMap<String, String>,
    /// Memory of the node, for the OOM score.
    pub memory_capacity: u64,
    /// Folder of seccomp profiles.
    pub seccomp_root: PathBuf,
}

/// One container for the runtime.
pub fn container_spec(wanted: &Wanted, container: &Container, prepared: Prepared) -> ContainerSpec {
    let vars: BTreeMap<String, String> = prepared.env.iter().cloned().collect();
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| expand(text, &vars)).collect()
    };
    ContainerSpec {
        pod_uid: wanted.uid.clone(),
        name: container.name.clone(),
        attempt: prepared.attempt,
        image: prepared.image,
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().filter(|d| !d.is_empty()),
        security: security(&wanted.pod, container, &prepared.seccomp_root),
        resources: container_resources(container),
        oom_score_adj: Some(oom_score(&wanted.pod, container, prepared.memory_capacity)),
        tty: container.tty.unwrap_or(false),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        env: prepared.env,
        mounts: prepared.mounts,
        log_path: prepared.log_path,
        labels: prepared.labels,
    }
}

fn security(pod: &Pod, container: &Container, seccomp_root: &std::path::Path) -> Security {
    let none = PodSecurityContext::default();
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).unwrap_or(&none);
    let own = container.security_context.clone().unwrap_or_default();
    let id = |n: i64| u32::try_from(n).ok();
    let capabilities = own.capabilities.unwrap_or_default();
    let plain = |names: Option<Vec<String>>| -> Vec<String> {
        let strip = |n: String| n.strip_prefix("CAP_").map(str::to_owned).unwrap_or(n);
        names.into_iter().flatten().map(strip).collect()
    };
    let mut groups: Vec<u32> = of_pod.fs_group.into_iter().filter_map(id).collect();
    groups.extend(of_pod.supplemental_groups.iter().flatten().copied().filter_map(id));
    let profile = own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref());
    Security {
        user: own.run_as_user.or(of_pod.run_as_user).and_then(id),
        group: own.run_as_group.or(of_pod.run_as_group).and_then(id),
        non_root: own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false),
        supplemental_groups: groups,
        strict_groups: of_pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        privileged: own.privileged.unwrap_or(false),
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        add_capabilities: plain(capabilities.add),
        drop_capabilities: plain(capabilities.drop),
        seccomp: seccomp(profile, seccomp_root),
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    }
}

/// What nobody understands is no reason to run without a filter (CVE-2023-2431).
fn seccomp(profile: Option<&SeccompProfile>, root: &std::path::Path) -> Seccomp {
    let Some(profile) = profile else { return Seccomp::Unconfined };
    match (profile.type_.as_str(), profile.localhost_profile.as_deref().unwrap_or_default()) {
        ("Unconfined", _) => Seccomp::Unconfined,
        ("RuntimeDefault", _) => Seccomp::RuntimeDefault,
        ("Localhost", file) if is_below(file) => Seccomp::Localhost(root.join(file)),
        ("Localhost", file) => Seccomp::Unusable(format!(
            "localhostProfile {file:?} is no file below the profiles' folder"
        )),
        (other, _) => Seccomp::Unusable(format!("type {other:?} is unknown")),
    }
}

/// Whether a path names something below a folder.
fn is_below(path: &str) -> bool {
    let mut parts = std::path::Path::new(path).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// How soon the kernel kills a container when memory runs out: later for those that asked for more.
///
/// Source: kubernetes.io, "Node-pressure Eviction", "Node out of memory behavior".
fn oom_score(pod: &Pod, container: &Container, capacity: u64) -> i32 {
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            let asked = requests.and_then(|r| r.get("memory")).and_then(|q| thousandths(&q.0));
            let share = asked.unwrap_or(0) / i128::from(capacity.max(1));
            i32::try_from(1000 - share).unwrap_or(2).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_filter_is_lost_on_the_way() {
        let of = |kind: &str, file: Option<&str>| {
            let profile = SeccompProfile {
                type_: kind.to_owned(),
                localhost_profile: file.map(str::to_owned),
            };
            seccomp(Some(&profile), "/profiles".as_ref())
        };
        assert_eq!(seccomp(None, "/profiles".as_ref()), Seccomp::Unconfined);
        assert_eq!(of("Unconfined", None), Seccomp::Unconfined);
        assert_eq!(of("RuntimeDefault", None), Seccomp::RuntimeDefault);
        assert_eq!(
            of("Localhost", Some("a/b.json")),
            Seccomp::Localhost("/profiles/a/b.json".into())
        );
        for (kind, file) in [
            ("Localhost", None),
            ("Localhost", Some("")),
            ("Localhost", Some("../b.json")),
            ("Localhost", Some("/etc/b.json")),
            ("Default", None),
            ("", None),
        ] {
            assert!(matches!(of(kind, file), Seccomp::Unusable(_)), "{kind} {file:?}");
        }
    }
}
