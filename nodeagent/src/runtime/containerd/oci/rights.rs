//! Capabilities and hidden paths. Pure but for [`known_capabilities`].

use std::fs;

use crate::runtime::Security;

/// What a container gets without asking.
///
/// Source: the default set of containerd and Docker.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// All capabilities, by number.
///
/// Source: the kernel's `include/uapi/linux/capability.h`.
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Files that a container does not see.
///
/// Source: the defaults of containerd.
pub(super) const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// Files that a container cannot change.
///
/// Source: the defaults of containerd.
pub(super) const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The capabilities of a container, without `CAP_`, in the order of `known`'s or the defaults.
pub(super) fn capabilities(security: &Security, known: &[String]) -> Vec<String> {
    if security.privileged {
        return known.to_vec();
    }
    let plain = |name: &String| name.trim_start_matches("CAP_").to_ascii_uppercase();
    let add: Vec<String> = security.add_capabilities.iter().map(plain).collect();
    let drop: Vec<String> = security.drop_capabilities.iter().map(plain).collect();
    let mut set: Vec<String> =
        match (add.iter().any(|name| name == "ALL"), drop.iter().any(|name| name == "ALL")) {
            (true, _) => known.to_vec(),
            (false, true) => Vec::new(),
            (false, false) => DEFAULT_CAPABILITIES.map(String::from).to_vec(),
        };
    // Dropped ones go first, so that "drop ALL, add one" leaves that one.
    set.retain(|name| !drop.contains(name));
    for name in add.into_iter().filter(|name| name != "ALL") {
        if !set.contains(&name) {
            set.push(name);
        }
    }
    set
}

/// The capabilities that this process can hand on; all that are known if the kernel does not say.
pub(crate) fn known_capabilities() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bits =
        bounding.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(u64::MAX);
    ALL.iter()
        .enumerate()
        .filter(|(bit, _)| bits >> bit & 1 == 1)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(add: &[&str], drop: &[&str], expected: &str) {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let security = Security {
            add_capabilities: owned(add),
            drop_capabilities: owned(drop),
            ..Security::default()
        };
        let known: Vec<String> = owned(&["CHOWN", "SYS_ADMIN", "KILL"]);
        assert_eq!(capabilities(&security, &known).join(" "), expected);
    }

    #[test]
    fn adds_and_drops_compose() {
        let defaults = DEFAULT_CAPABILITIES.join(" ");
        check(&[], &[], &defaults);
        check(&["NET_ADMIN", "CAP_SYS_TIME"], &[], &format!("{defaults} NET_ADMIN SYS_TIME"));
        check(&[], &["ALL"], "");
        check(&["NET_BIND_SERVICE"], &["ALL"], "NET_BIND_SERVICE");
        check(&["ALL"], &["SYS_ADMIN"], "CHOWN KILL");
        check(&[], &["KILL"], &defaults.replace(" KILL", ""));
    }
}
