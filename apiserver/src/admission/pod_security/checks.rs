//! Every check, at which level and in which versions it is made.

use serde_json::Value;

use super::policy::{Level, Standard, Version};
use super::{baseline, restricted};

/// A pod, or the template of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pod<'a> {
    pub(super) metadata: &'a Value,
    pub(super) spec: &'a Value,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    /// In a few words.
    pub(super) reason: &'static str,
    /// Which values of which containers.
    pub(super) detail: String,
}

impl Violation {
    pub(super) fn new(reason: &'static str, detail: String) -> Self {
        Self { reason, detail }
    }
}

/// Looks at a pod.
type Look = fn(Pod<'_>) -> Option<Violation>;

/// One of the Pod Security Standards' controls.
pub(super) struct Check {
    /// As upstream names it.
    pub(super) id: &'static str,
    level: Level,
    /// From which minor release on the pod is looked at in which way; the last that applies does.
    revisions: &'static [(u32, Look)],
    /// The baseline check that this one stands in for.
    replaces: &'static str,
}

const fn baseline(id: &'static str, revisions: &'static [(u32, Look)]) -> Check {
    Check { id, level: Level::Baseline, revisions, replaces: "" }
}

const fn restricted(
    id: &'static str,
    revisions: &'static [(u32, Look)],
    replaces: &'static str,
) -> Check {
    Check { id, level: Level::Restricted, revisions, replaces }
}

/// In the order in which violations are listed.
///
/// Source: upstream `pod-security-admission/policy/check_*.go`.
pub(super) const CHECKS: [Check; 19] = [
    baseline("appArmorProfile", &[(0, baseline::app_armor)]),
    baseline("capabilities_baseline", &[(0, baseline::capabilities)]),
    baseline("hostNamespaces", &[(0, baseline::host_namespaces)]),
    baseline("hostPathVolumes", &[(0, baseline::host_path_volumes)]),
    baseline("hostPorts", &[(0, baseline::host_ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, baseline::probe_hosts)]),
    baseline("privileged", &[(0, baseline::privileged)]),
    baseline("procMount", &[(0, baseline::proc_mount), (35, baseline::proc_mount_of_host_users)]),
    baseline("seLinuxOptions", &[(0, baseline::selinux_0), (31, baseline::selinux_31)]),
    baseline(
        "seccompProfile_baseline",
        &[(0, baseline::seccomp_annotations), (19, baseline::seccomp)],
    ),
    baseline(
        "sysctls",
        &[
            (0, baseline::sysctls_0),
            (27, baseline::sysctls_27),
            (29, baseline::sysctls_29),
            (32, baseline::sysctls_32),
        ],
    ),
    baseline("windowsHostProcess", &[(0, baseline::windows_host_process)]),
    restricted(
        "allowPrivilegeEscalation",
        &[(8, restricted::escalation), (25, restricted::escalation_but_on_windows)],
        "",
    ),
    restricted(
        "capabilities_restricted",
        &[(22, restricted::capabilities), (25, restricted::capabilities_but_on_windows)],
        "capabilities_baseline",
    ),
    restricted("procMount_restricted", &[(35, baseline::proc_mount)], "procMount"),
    restricted("restrictedVolumes", &[(0, restricted::volumes)], "hostPathVolumes"),
    restricted(
        "runAsNonRoot",
        &[(0, restricted::non_root), (35, restricted::non_root_of_host_users)],
        "",
    ),
    restricted("runAsUser", &[(23, restricted::user), (35, restricted::user_of_host_users)], ""),
    restricted(
        "seccompProfile_restricted",
        &[(19, restricted::seccomp), (25, restricted::seccomp_but_on_windows)],
        "seccompProfile_baseline",
    ),
];

impl Check {
    /// How the check looks at pods in a version; `None` if it came later.
    fn look(&self, version: Version) -> Option<Look> {
        let revision = self.revisions.iter().rev().find(|(since, _)| version.has(*since));
        revision.map(|(_, look)| *look)
    }
}

/// Everything in a pod that a standard forbids.
pub(super) fn violations(standard: Standard, pod: Pod<'_>) -> Vec<Violation> {
    let applied: Vec<(&Check, Look)> = CHECKS
        .iter()
        .filter(|check| check.level <= standard.level)
        .filter_map(|check| Some((check, check.look(standard.version)?)))
        .collect();
    let is_replaced = |check: &Check| applied.iter().any(|(other, _)| other.replaces == check.id);
    let effective = applied.iter().filter(|(check, _)| !is_replaced(check));
    effective.filter_map(|(_, look)| look(pod)).collect()
}

/// `host ports, privileged`.
pub(super) fn reasons(violations: &[Violation]) -> String {
    let reasons: Vec<&str> = violations.iter().map(|violation| violation.reason).collect();
    reasons.join(", ")
}

/// `hostPort (container "a" uses hostPort 1), privileged (…)`.
pub(super) fn details(violations: &[Violation]) -> String {
    let details = violations.iter().map(|Violation { reason, detail }| match detail.as_str() {
        "" => (*reason).to_owned(),
        detail => format!("{reason} ({detail})"),
    });
    details.collect::<Vec<_>>().join(", ")
}
