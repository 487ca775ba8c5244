//! Checks of the level `baseline`: what is known to break out of a pod.

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{Pod, Violation};
use super::look::{Bad, containers, context, has_own_users, named, plural, quoted, setters};
use crate::admission::pods;
use crate::types::check::{flag, items, members, text};

/// Capabilities that every container may have.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Profiles that an administrator or the runtime wrote.
pub(super) const PROFILES: [&str; 2] = ["RuntimeDefault", "Localhost"];

pub(super) fn app_armor(pod: Pod<'_>) -> Option<Violation> {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let bad = Bad::types(pod.spec, "appArmorProfile", &PROFILES);
    let allowed =
        |value: &str| matches!(value, "" | "runtime/default") || value.starts_with("localhost/");
    let annotations = members(&pod.metadata["annotations"]);
    let mut annotations: Vec<String> = annotations
        .filter(|(key, value)| {
            key.starts_with(PREFIX) && !allowed(value.as_str().unwrap_or_default())
        })
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    annotations.sort();
    let mut setters = bad.setters();
    if !annotations.is_empty() {
        setters.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    let values: Vec<&str> =
        bad.values.iter().copied().chain(annotations.iter().map(String::as_str)).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    (!setters.is_empty()).then(|| {
        let detail = format!(
            "{} must not set AppArmor profile type to {}",
            setters.join(" and "),
            quoted(values)
        );
        Violation::new(reason, detail)
    })
}

pub(super) fn capabilities(pod: Pod<'_>) -> Option<Violation> {
    added_capabilities(pod.spec, &CAPABILITIES)
        .map(|detail| Violation::new("non-default capabilities", detail))
}

/// What containers add beyond the allowed capabilities.
pub(super) fn added_capabilities(spec: &Value, allowed: &[&str]) -> Option<String> {
    let added = |container: &'_ Value| -> Vec<String> {
        let all =
            items(&context(container)["capabilities"]["add"]).iter().filter_map(Value::as_str);
        all.filter(|name| !allowed.contains(name)).map(str::to_owned).collect()
    };
    let bad = containers(spec, |container| !added(container).is_empty());
    let names: BTreeSet<String> = pods::containers(spec).flat_map(|(_, c)| added(c)).collect();
    (!bad.is_empty()).then(|| {
        let names = quoted(names.iter().map(String::as_str));
        format!("{} must not include {names} in securityContext.capabilities.add", named(&bad))
    })
}

pub(super) fn host_namespaces(pod: Pod<'_>) -> Option<Violation> {
    let shared =
        ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|name| flag(pod.spec, name));
    let shared: Vec<String> = shared.map(|name| format!("{name}=true")).collect();
    (!shared.is_empty()).then(|| Violation::new("host namespaces", shared.join(", ")))
}

pub(super) fn host_path_volumes(pod: Pod<'_>) -> Option<Violation> {
    let volumes = items(&pod.spec["volumes"]).iter().filter(|volume| !volume["hostPath"].is_null());
    let names: Vec<&str> = volumes.map(|volume| text(volume, "name")).collect();
    (!names.is_empty()).then(|| {
        let word = plural("volume", "volumes", names.len());
        Violation::new("hostPath volumes", format!("{word} {}", quoted(names)))
    })
}

pub(super) fn host_ports(pod: Pod<'_>) -> Option<Violation> {
    fn ports(container: &Value) -> impl Iterator<Item = i64> {
        let ports = items(&container["ports"]).iter();
        ports.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0)
    }
    let bad = containers(pod.spec, |container| ports(container).next().is_some());
    // As texts, since they are sorted as such.
    let all = pods::containers(pod.spec).flat_map(|(_, c)| ports(c)).map(|port| port.to_string());
    let all: BTreeSet<String> = all.collect();
    (!bad.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {}",
            named(&bad),
            plural("uses", "use", bad.len()),
            plural("hostPort", "hostPorts", all.len()),
            all.into_iter().collect::<Vec<_>>().join(", ")
        );
        Violation::new("hostPort", detail)
    })
}

pub(super) fn probe_hosts(pod: Pod<'_>) -> Option<Violation> {
    fn hosts(container: &Value) -> impl Iterator<Item = &str> {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|p| &container[p]);
        let hooks = ["postStart", "preStop"].map(|hook| &container["lifecycle"][hook]);
        let actions = probes.into_iter().chain(hooks);
        let hosts =
            actions.flat_map(|action| ["httpGet", "tcpSocket"].map(|a| text(&action[a], "host")));
        hosts.filter(|host| !host.is_empty())
    }
    let bad: BTreeSet<&str> =
        containers(pod.spec, |container| hosts(container).next().is_some()).into_iter().collect();
    let all: BTreeSet<&str> = pods::containers(pod.spec).flat_map(|(_, c)| hosts(c)).collect();
    (!bad.is_empty()).then(|| {
        let bad: Vec<&str> = bad.into_iter().collect();
        let detail = format!(
            "{} {} {} {}",
            named(&bad),
            plural("uses", "use", bad.len()),
            plural("probe or lifecycle host", "probe or lifecycle hosts", all.len()),
            quoted(all)
        );
        Violation::new("probe or lifecycle host", detail)
    })
}

pub(super) fn privileged(pod: Pod<'_>) -> Option<Violation> {
    let bad = containers(pod.spec, |container| flag(context(container), "privileged"));
    (!bad.is_empty()).then(|| {
        let detail = format!("{} must not set securityContext.privileged=true", named(&bad));
        Violation::new("privileged", detail)
    })
}

pub(super) fn proc_mount(pod: Pod<'_>) -> Option<Violation> {
    fn bad_mount(container: &Value) -> Option<&str> {
        context(container)["procMount"].as_str().filter(|mount| *mount != "Default")
    }
    let bad = containers(pod.spec, |container| bad_mount(container).is_some());
    let mounts: BTreeSet<&str> =
        pods::containers(pod.spec).filter_map(|(_, c)| bad_mount(c)).collect();
    (!bad.is_empty()).then(|| {
        let detail =
            format!("{} must not set securityContext.procMount to {}", named(&bad), quoted(mounts));
        Violation::new("procMount", detail)
    })
}

/// What `/proc` shows is the pod's own, where its users are.
///
/// Source: KEP-127.
pub(super) fn proc_mount_of_host_users(pod: Pod<'_>) -> Option<Violation> {
    if has_own_users(pod.spec) { None } else { proc_mount(pod) }
}

pub(super) fn selinux_0(pod: Pod<'_>) -> Option<Violation> {
    selinux(pod.spec, &["", "container_t", "container_init_t", "container_kvm_t"])
}

pub(super) fn selinux_31(pod: Pod<'_>) -> Option<Violation> {
    let types = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    selinux(pod.spec, &types)
}

fn selinux(spec: &Value, types: &[&str]) -> Option<Violation> {
    let options = |owner: &'_ Value| context(owner)["seLinuxOptions"].clone();
    let is_set = |owner: &Value, field: &str| !text(&options(owner), field).is_empty();
    let bad_type = |owner: &Value| {
        let kind = text(&options(owner), "type").to_owned();
        (!types.contains(&&*kind)).then_some(kind)
    };
    let is_bad =
        |owner: &Value| bad_type(owner).is_some() || is_set(owner, "user") || is_set(owner, "role");
    let setters = setters(is_bad(spec), &containers(spec, is_bad));
    if setters.is_empty() {
        return None;
    }
    let owners = || pods::containers(spec).map(|(_, container)| container).chain([spec]);
    let bad_types: BTreeSet<String> = owners().filter_map(bad_type).collect();
    let mut data = Vec::new();
    if !bad_types.is_empty() {
        let word = plural("type", "types", bad_types.len());
        data.push(format!("{word} {}", quoted(bad_types.iter().map(String::as_str))));
    }
    for field in ["user", "role"] {
        if owners().any(|owner| is_set(owner, field)) {
            data.push(format!("{field} may not be set"));
        }
    }
    let detail = format!(
        "{} set forbidden securityContext.seLinuxOptions: {}",
        setters.join(" and "),
        data.join("; ")
    );
    Some(Violation::new("seLinuxOptions", detail))
}

/// Before 1.19, profiles were annotations.
pub(super) fn seccomp_annotations(pod: Pod<'_>) -> Option<Violation> {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    let allowed = |value: &str| {
        matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/")
    };
    let of_containers = pods::containers(pod.spec).map(|(_, container)| {
        format!("container.seccomp.security.alpha.kubernetes.io/{}", text(container, "name"))
    });
    let bad = of_containers.chain([POD.to_owned()]).filter_map(|key| {
        let value = &pod.metadata["annotations"][&key];
        value.as_str().filter(|value| !allowed(value))?;
        Some(format!("{key}={value}"))
    });
    let bad: Vec<String> = bad.collect::<BTreeSet<_>>().into_iter().collect();
    (!bad.is_empty()).then(|| {
        let word = plural("annotation", "annotations", bad.len());
        Violation::new("seccompProfile", format!("forbidden {word} {}", bad.join(", ")))
    })
}

pub(super) fn seccomp(pod: Pod<'_>) -> Option<Violation> {
    let bad = Bad::types(pod.spec, "seccompProfile", &PROFILES);
    seccomp_setters(&bad).map(|detail| Violation::new("seccompProfile", detail))
}

/// Who sets a bad profile, in words.
pub(super) fn seccomp_setters(bad: &Bad<'_>) -> Option<String> {
    let setters = bad.setters();
    (!setters.is_empty()).then(|| {
        let values = quoted(bad.values.iter().copied());
        let setters = setters.join(" and ");
        format!("{setters} must not set securityContext.seccompProfile.type to {values}")
    })
}

/// Kernel parameters that are the pod's own, with the minor release since which they are allowed.
const SYSCTLS: [(u32, &str); 12] = [
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

fn sysctls(pod: Pod<'_>, version: u32) -> Option<Violation> {
    let allowed =
        |name: &&str| SYSCTLS.iter().any(|(since, known)| known == name && *since <= version);
    let set = items(&context(pod.spec)["sysctls"]).iter().map(|sysctl| text(sysctl, "name"));
    let bad: Vec<&str> = set.filter(|name| !allowed(name)).collect();
    (!bad.is_empty()).then(|| Violation::new("forbidden sysctls", bad.join(", ")))
}

pub(super) fn sysctls_0(pod: Pod<'_>) -> Option<Violation> {
    sysctls(pod, 0)
}

pub(super) fn sysctls_27(pod: Pod<'_>) -> Option<Violation> {
    sysctls(pod, 27)
}

pub(super) fn sysctls_29(pod: Pod<'_>) -> Option<Violation> {
    sysctls(pod, 29)
}

pub(super) fn sysctls_32(pod: Pod<'_>) -> Option<Violation> {
    sysctls(pod, 32)
}

pub(super) fn windows_host_process(pod: Pod<'_>) -> Option<Violation> {
    let is_bad = |owner: &Value| flag(&context(owner)["windowsOptions"], "hostProcess");
    let setters = setters(is_bad(pod.spec), &containers(pod.spec, is_bad));
    (!setters.is_empty()).then(|| {
        let setters = setters.join(" and ");
        let detail =
            format!("{setters} must not set securityContext.windowsOptions.hostProcess=true");
        Violation::new("hostProcess", detail)
    })
}
