//! The runtime specification (what runc reads) of a container. Pure: all that it depends on is in [`Inputs`].

mod devices;
mod rights;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::image_config::Defaults;
use super::seccomp;
use super::users::User;
use crate::cgroups;
use crate::runtime::{ContainerSpec, Error, Mount, Propagation, Resources, Seccomp};

pub(super) use devices::host_devices;
pub(super) use rights::known_capabilities;

/// Search path where the image has none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Annotation that puts all containers of a pod into one shim.
const SHIM_GROUP: &str = "io.containerd.runc.v2.group";

/// What a specification is made of.
pub(super) struct Inputs<'a> {
    pub(super) spec: &'a ContainerSpec,
    pub(super) image: &'a Defaults,
    pub(super) user: &'a User,
    pub(super) sandbox: &'a Place,
    pub(super) node: &'a Node,
    /// The container's own cgroup.
    pub(super) cgroup: &'a str,
    /// The text of a profile file, where the container wants one.
    pub(super) seccomp_profile: Option<Value>,
    /// Devices of the node, for privileged containers.
    pub(super) devices: Vec<Value>,
}

/// What the node allows.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// A pure cgroup v2 node.
    pub(super) cgroup_v2: bool,
    /// Whether the kernel counts swap.
    pub(super) swap: bool,
    /// All capabilities that can be given, without `CAP_`.
    pub(super) capabilities: Vec<String>,
    /// The least oom_score_adj that the agent may set.
    pub(super) min_oom_score_adj: i32,
}

/// The pod around a container.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) pod_uid: String,
    pub(super) hostname: String,
    /// Namespaces and shared memory.
    pub(super) folder: PathBuf,
    /// Files that the pod may write.
    pub(super) files: PathBuf,
    pub(super) host_network: bool,
    pub(super) host_pid: bool,
    pub(super) host_ipc: bool,
    /// Process that holds the shared process namespace.
    pub(super) pause: Option<u32>,
}

/// Builds the specification.
///
/// # Errors
/// [`Error::ContainerConfig`] if there is nothing to run.
pub(super) fn build(inputs: &Inputs<'_>) -> Result<Value, Error> {
    let Inputs { spec, image, sandbox, node, .. } = inputs;
    let args = image.arguments(&spec.command, &spec.args);
    if args.is_empty() {
        return Err(Error::ContainerConfig("no command specified".to_owned()));
    }
    let privileged = spec.security.privileged;
    let capabilities = rights::capabilities(&spec.security, &node.capabilities);
    let prefixed: Vec<String> = capabilities.iter().map(|name| format!("CAP_{name}")).collect();
    let mut process = json!({
        "terminal": spec.tty,
        "user": {"uid": inputs.user.uid, "gid": inputs.user.gid, "additionalGids": inputs.user.additional},
        "args": args,
        "env": environment(spec, image, &sandbox.hostname),
        "cwd": working_dir(spec, image),
        "capabilities": {"bounding": prefixed, "effective": prefixed, "permitted": prefixed},
        "noNewPrivileges": spec.security.no_new_privileges,
    });
    if let Some(score) = spec.oom_score_adj {
        process["oomScoreAdj"] = score.clamp(node.min_oom_score_adj, 1000).into();
    }
    let mut linux = json!({
        "cgroupsPath": inputs.cgroup,
        "namespaces": namespaces(sandbox, node.cgroup_v2),
        "devices": if privileged { inputs.devices.clone() } else { Vec::new() },
        "resources": resources(&spec.resources, node.swap),
    });
    linux["resources"]["devices"] = devices::rules(privileged);
    if spec.mounts.iter().any(|mount| mount.propagation != Propagation::Private) {
        linux["rootfsPropagation"] = rootfs_propagation(&spec.mounts).into();
    }
    if !privileged && !spec.security.unmasked_proc {
        linux["maskedPaths"] = json!(rights::MASKED_PATHS);
        linux["readonlyPaths"] = json!(rights::READONLY_PATHS);
    }
    match &spec.security.seccomp {
        _ if privileged => (),
        Seccomp::Unconfined => (),
        Seccomp::RuntimeDefault => linux["seccomp"] = seccomp::runtime_default(&capabilities),
        // Neither comes here without a profile: the container is refused before.
        Seccomp::Localhost(_) | Seccomp::Unusable(_) => {
            linux["seccomp"] = inputs.seccomp_profile.clone().unwrap_or_default()
        }
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": "rootfs", "readonly": spec.security.read_only_root},
        "mounts": mounts(spec, sandbox),
        "annotations": {SHIM_GROUP: sandbox.pod_uid},
        "linux": linux,
    }))
}

/// The specification of the process that holds a shared process namespace; `root` has the agent's binary as `pause`.
pub(super) fn build_pause(root: &Path, sandbox: &Place, cgroup: &str, cgroup_v2: bool) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 65535, "gid": 65535},
            "args": ["/pause", crate::logger::PAUSE_SUBCOMMAND],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": {"path": root, "readonly": true},
        "mounts": default_mounts(false),
        "annotations": {SHIM_GROUP: sandbox.pod_uid},
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces(sandbox, cgroup_v2),
            "resources": {"devices": devices::rules(false)},
            "maskedPaths": rights::MASKED_PATHS,
            "readonlyPaths": rights::READONLY_PATHS,
        },
    })
}

/// Limits in the runtime specification's form, also for changes to a running container.
pub(super) fn resources(wanted: &Resources, swap: bool) -> Value {
    let mut resources = json!({
        "cpu": {
            "shares": cgroups::cpu_shares(wanted.cpu_request),
            "quota": cgroups::cpu_quota(wanted.cpu_limit),
            "period": cgroups::CPU_PERIOD_MICROS,
        },
    });
    if let Some(limit) = wanted.memory_limit {
        resources["memory"] = json!({ "limit": limit.0 });
        if swap {
            resources["memory"]["swap"] = limit.0.into(); // Memory and swap together: no swap on top.
        }
    }
    if let Some(pids) = wanted.pids_limit {
        resources["pids"] = json!({ "limit": pids });
    }
    resources
}

fn environment(spec: &ContainerSpec, image: &Defaults, hostname: &str) -> Vec<String> {
    let own = spec.env.iter().map(|(name, value)| format!("{name}={value}"));
    let term = spec.tty.then(|| "TERM=xterm".to_owned());
    let all = [DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")]
        .into_iter()
        .chain(term)
        .chain(image.env.iter().cloned())
        .chain(own);
    let mut env: Vec<String> = Vec::new();
    for entry in all {
        let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
        match env.iter_mut().find(|earlier| name(earlier) == name(&entry)) {
            Some(earlier) => *earlier = entry,
            None => env.push(entry),
        }
    }
    env
}

fn working_dir<'a>(spec: &'a ContainerSpec, image: &'a Defaults) -> &'a str {
    let image = Some(image.working_dir.as_str());
    spec.working_dir.as_deref().into_iter().chain(image).find(|dir| !dir.is_empty()).unwrap_or("/")
}

fn namespaces(sandbox: &Place, cgroup_v2: bool) -> Vec<Value> {
    let pinned = |kind: &str, name: &str| json!({"type": kind, "path": sandbox.folder.join(name)});
    let mut namespaces = vec![json!({"type": "mount"})];
    if !sandbox.host_network {
        namespaces.extend([pinned("network", "net"), pinned("uts", "uts")]);
    }
    if !sandbox.host_ipc {
        namespaces.push(pinned("ipc", "ipc"));
    }
    match (sandbox.host_pid, sandbox.pause) {
        (true, _) => (),
        (false, Some(pid)) => {
            namespaces.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}))
        }
        (false, None) => namespaces.push(json!({"type": "pid"})),
    }
    if cgroup_v2 {
        namespaces.push(json!({"type": "cgroup"}));
    }
    namespaces
}

fn rootfs_propagation(mounts: &[Mount]) -> &'static str {
    match mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional) {
        true => "shared",
        false => "rslave",
    }
}

fn default_mounts(writable: bool) -> Vec<Value> {
    let mode = if writable { "rw" } else { "ro" };
    vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", mode]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
               "options": ["nosuid", "noexec", "nodev", "relatime", mode]}),
    ]
}

/// The pod's files come before the volumes, which may hide them; outer volumes before inner ones.
fn mounts(spec: &ContainerSpec, sandbox: &Place) -> Vec<Value> {
    let mut all = default_mounts(spec.security.privileged);
    let named = |path: &str| {
        spec.mounts.iter().any(|mount| mount.container_path.trim_end_matches('/') == path)
    };
    let etc_mode = if spec.security.read_only_root { "ro" } else { "rw" };
    for (file, path) in [
        ("hosts", "/etc/hosts"),
        ("hostname", "/etc/hostname"),
        ("resolv.conf", "/etc/resolv.conf"),
    ] {
        if !named(path) {
            all.push(bind(&sandbox.files.join(file), path, &["rbind", "rprivate", etc_mode]));
        }
    }
    if !named("/dev/shm") {
        let source =
            if sandbox.host_ipc { PathBuf::from("/dev/shm") } else { sandbox.folder.join("shm") };
        all.push(bind(&source, "/dev/shm", &["rbind", "rprivate", "rw"]));
    }
    let mut volumes: Vec<&Mount> = spec.mounts.iter().collect();
    volumes.sort_by_key(|mount| Path::new(&mount.container_path).components().count());
    all.extend(volumes.into_iter().map(|mount| {
        let propagation = match mount.propagation {
            Propagation::Private => "rprivate",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional => "rshared",
        };
        bind(
            &mount.host_path,
            &mount.container_path,
            &["rbind", propagation, if mount.read_only { "ro" } else { "rw" }],
        )
    }));
    all
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

#[cfg(test)]
mod tests;
