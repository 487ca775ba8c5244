//! Every check, at every level, in every version, in every list of containers.

use std::ops::Range;

use serde_json::{Value, json};

use super::checks::{CHECKS, Pod, details, violations};
use super::policy::{Level, Standard, Version};

const NEWEST: u32 = 37;
const ALWAYS: Range<u32> = 0..NEWEST + 1;

/// A way to break a pod that is fine otherwise.
struct Case {
    check: &'static str,
    /// Where in the pod, and what. Paths into `/spec/containers/0` are tried in every list of containers.
    set: (&'static str, Value),
    /// At which levels, in which minor versions, it is said how.
    found: Vec<(Level, Range<u32>, &'static str)>,
}

fn case(
    check: &'static str,
    path: &'static str,
    value: Value,
    found: &[(Level, Range<u32>, &'static str)],
) -> Case {
    Case { check, set: (path, value), found: found.to_vec() }
}

/// Forbidden at baseline, and so at restricted.
fn base(check: &'static str, path: &'static str, value: Value, words: &'static str) -> Case {
    in_versions(check, path, value, ALWAYS, words)
}

fn in_versions(
    check: &'static str,
    path: &'static str,
    value: Value,
    versions: Range<u32>,
    words: &'static str,
) -> Case {
    let both = [Level::Baseline, Level::Restricted].map(|level| (level, versions.clone(), words));
    case(check, path, value, &both)
}

/// Forbidden at restricted alone.
fn strict(
    check: &'static str,
    path: &'static str,
    value: Value,
    versions: Range<u32>,
    words: &'static str,
) -> Case {
    case(check, path, value, &[(Level::Restricted, versions, words)])
}

const CONTEXT: &str = "/spec/containers/0/securityContext";

/// Nothing in it is forbidden by any version of any check.
fn good() -> Value {
    let container = |name: &str| {
        json!({"name": name, "image": "x", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}})
    };
    json!({
        "metadata": {"name": "p", "annotations": {}},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [container("c")],
            "initContainers": [container("c")],
            "ephemeralContainers": [container("c")],
        },
    })
}

/// A pod with one value at a path, whose last step may be new.
fn with(path: &str, value: &Value) -> Value {
    let mut pod = good();
    let mut place = &mut pod;
    for step in path.split('/').skip(1).map(|step| step.replace("~1", "/")) {
        place = match step.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[step.as_str()],
        };
    }
    *place = value.clone();
    pod
}

fn cases() -> Vec<Case> {
    use Level::{Baseline, Restricted};
    let many = "/spec/containers/0/securityContext/windowsOptions/hostProcess";
    vec![
        base(
            "appArmorProfile",
            "/spec/securityContext/appArmorProfile/type",
            json!("Unconfined"),
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
        ),
        base(
            "appArmorProfile",
            "/spec/containers/0/securityContext/appArmorProfile/type",
            json!("Unconfined"),
            "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        base(
            "appArmorProfile",
            "/metadata/annotations/container.apparmor.security.beta.kubernetes.io~1c",
            json!("unconfined"),
            "forbidden AppArmor profile (annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/c=\"unconfined\"\")",
        ),
        case(
            "capabilities_baseline",
            "/spec/containers/0/securityContext/capabilities/add",
            json!(["SYS_TIME"]),
            &[
                (
                    Baseline,
                    ALWAYS,
                    "non-default capabilities (container \"c\" must not include \"SYS_TIME\" in securityContext.capabilities.add)",
                ),
                (
                    Restricted,
                    0..22,
                    "non-default capabilities (container \"c\" must not include \"SYS_TIME\" in securityContext.capabilities.add)",
                ),
                (
                    Restricted,
                    22..NEWEST + 1,
                    "unrestricted capabilities (container \"c\" must not include \"SYS_TIME\" in securityContext.capabilities.add)",
                ),
            ],
        ),
        base(
            "hostNamespaces",
            "/spec/hostNetwork",
            json!(true),
            "host namespaces (hostNetwork=true)",
        ),
        base("hostNamespaces", "/spec/hostPID", json!(true), "host namespaces (hostPID=true)"),
        base("hostNamespaces", "/spec/hostIPC", json!(true), "host namespaces (hostIPC=true)"),
        case(
            "hostPathVolumes",
            "/spec/volumes/0",
            json!({"name": "v", "hostPath": {"path": "/"}}),
            &[
                (Baseline, ALWAYS, "hostPath volumes (volume \"v\")"),
                (
                    Restricted,
                    ALWAYS,
                    "restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")",
                ),
            ],
        ),
        base(
            "hostPorts",
            "/spec/containers/0/ports",
            json!([{"hostPort": 80}, {"hostPort": 443}]),
            "hostPort (container \"c\" uses hostPorts 443, 80)",
        ),
        in_versions(
            "hostProbesAndHostLifecycle",
            "/spec/containers/0/livenessProbe/httpGet/host",
            json!("1.2.3.4"),
            34..NEWEST + 1,
            "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"1.2.3.4\")",
        ),
        in_versions(
            "hostProbesAndHostLifecycle",
            "/spec/containers/0/lifecycle/preStop/tcpSocket/host",
            json!("a"),
            34..NEWEST + 1,
            "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"a\")",
        ),
        base(
            "privileged",
            "/spec/containers/0/securityContext/privileged",
            json!(true),
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        base(
            "procMount",
            "/spec/containers/0/securityContext/procMount",
            json!("Unmasked"),
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        base(
            "seLinuxOptions",
            "/spec/securityContext/seLinuxOptions",
            json!({"type": "spc_t"}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\")",
        ),
        in_versions(
            "seLinuxOptions",
            "/spec/securityContext/seLinuxOptions",
            json!({"type": "container_engine_t"}),
            0..31,
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"container_engine_t\")",
        ),
        base(
            "seLinuxOptions",
            "/spec/containers/0/securityContext/seLinuxOptions",
            json!({"user": "u", "role": "r"}),
            "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: user may not be set; role may not be set)",
        ),
        in_versions(
            "seccompProfile_baseline",
            "/metadata/annotations/seccomp.security.alpha.kubernetes.io~1pod",
            json!("unconfined"),
            0..19,
            "seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")",
        ),
        in_versions(
            "seccompProfile_baseline",
            "/metadata/annotations/container.seccomp.security.alpha.kubernetes.io~1c",
            json!("unconfined"),
            0..19,
            "seccompProfile (forbidden annotation container.seccomp.security.alpha.kubernetes.io/c=\"unconfined\")",
        ),
        in_versions(
            "seccompProfile_baseline",
            "/spec/containers/0/securityContext/seccompProfile/type",
            json!("Unconfined"),
            19..NEWEST + 1,
            "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        base(
            "sysctls",
            "/spec/securityContext/sysctls",
            json!([{"name": "kernel.msgmax"}]),
            "forbidden sysctls (kernel.msgmax)",
        ),
        in_versions(
            "sysctls",
            "/spec/securityContext/sysctls",
            json!([{"name": "net.ipv4.ip_local_reserved_ports"}]),
            0..27,
            "forbidden sysctls (net.ipv4.ip_local_reserved_ports)",
        ),
        in_versions(
            "sysctls",
            "/spec/securityContext/sysctls",
            json!([{"name": "net.ipv4.tcp_fin_timeout"}]),
            0..29,
            "forbidden sysctls (net.ipv4.tcp_fin_timeout)",
        ),
        in_versions(
            "sysctls",
            "/spec/securityContext/sysctls",
            json!([{"name": "net.ipv4.tcp_rmem"}]),
            0..32,
            "forbidden sysctls (net.ipv4.tcp_rmem)",
        ),
        base(
            "windowsHostProcess",
            "/spec/securityContext/windowsOptions/hostProcess",
            json!(true),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        base(
            "windowsHostProcess",
            many,
            json!(true),
            "hostProcess (container \"c\" must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        strict(
            "allowPrivilegeEscalation",
            "/spec/containers/0/securityContext/allowPrivilegeEscalation",
            json!(true),
            8..NEWEST + 1,
            "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)",
        ),
        strict(
            "allowPrivilegeEscalation",
            "/spec/containers/0/securityContext/allowPrivilegeEscalation",
            json!(null),
            8..NEWEST + 1,
            "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)",
        ),
        strict(
            "capabilities_restricted",
            "/spec/containers/0/securityContext/capabilities",
            json!({"add": ["CHOWN"]}),
            22..NEWEST + 1,
            "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]; container \"c\" must not include \"CHOWN\" in securityContext.capabilities.add)",
        ),
        strict(
            "restrictedVolumes",
            "/spec/volumes/0",
            json!({"name": "v", "nfs": {"server": "s"}}),
            ALWAYS,
            "restricted volume types (volume \"v\" uses restricted volume type \"nfs\")",
        ),
        strict(
            "runAsNonRoot",
            "/spec/securityContext/runAsNonRoot",
            json!(false),
            ALWAYS,
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
        ),
        strict(
            "runAsNonRoot",
            "/spec/securityContext/runAsNonRoot",
            json!(null),
            ALWAYS,
            "runAsNonRoot != true (pod or containers \"c\", \"c\", \"c\" must set securityContext.runAsNonRoot=true)",
        ),
        strict(
            "runAsNonRoot",
            "/spec/containers/0/securityContext/runAsNonRoot",
            json!(false),
            ALWAYS,
            "runAsNonRoot != true (container \"c\" must not set securityContext.runAsNonRoot=false)",
        ),
        strict(
            "runAsUser",
            "/spec/securityContext/runAsUser",
            json!(0),
            23..NEWEST + 1,
            "runAsUser=0 (pod must not set runAsUser=0)",
        ),
        strict(
            "runAsUser",
            "/spec/containers/0/securityContext/runAsUser",
            json!(0),
            23..NEWEST + 1,
            "runAsUser=0 (container \"c\" must not set runAsUser=0)",
        ),
        strict(
            "seccompProfile_restricted",
            "/spec/securityContext/seccompProfile",
            json!(null),
            19..NEWEST + 1,
            "seccompProfile (pod or containers \"c\", \"c\", \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        ),
    ]
}

fn found(level: Level, version: Version, pod: &Value) -> String {
    let pod = Pod { metadata: &pod["metadata"], spec: &pod["spec"] };
    details(&violations(Standard { level, version }, pod))
}

const LEVELS: [Level; 3] = [Level::Privileged, Level::Baseline, Level::Restricted];

#[test]
fn a_good_pod_is_good_everywhere() {
    for level in LEVELS {
        for minor in ALWAYS {
            assert_eq!(found(level, Version::Minor(minor), &good()), "", "{level}:v1.{minor}");
        }
    }
}

#[test]
fn every_check_finds_what_it_should_and_nothing_else() {
    for Case { check, set: (path, value), found: expected } in cases() {
        for list in ["containers", "initContainers", "ephemeralContainers"] {
            let path = path.replace("/containers/", &format!("/{list}/"));
            let pod = with(&path, &value);
            for level in LEVELS {
                for minor in ALWAYS {
                    let mut words = expected
                        .iter()
                        .filter(|(l, range, _)| *l == level && range.contains(&minor));
                    let words = words.next().map_or("", |(.., words)| words);
                    let version = Version::Minor(minor);
                    assert_eq!(
                        found(level, version, &pod),
                        words,
                        "{check} {path} {level}:{version}"
                    );
                }
                let newest = found(level, Version::Minor(NEWEST), &pod);
                assert_eq!(found(level, Version::Latest, &pod), newest, "{check} {path} {level}");
            }
        }
    }
}

#[test]
fn no_check_is_without_a_case() {
    // This one only matters for pods with users of their own, which have a test below.
    let untested = |id: &&str| *id != "procMount_restricted";
    let cases = cases();
    for id in CHECKS.iter().map(|check| check.id).filter(untested) {
        assert!(cases.iter().any(|case| case.check == id), "{id}");
    }
    assert_eq!(CHECKS.len(), 19);
}

#[test]
fn pods_with_users_of_their_own_may_be_root_among_them() {
    let own_users = |path: &str, value: Value| {
        let mut pod = with(path, &value);
        pod["spec"]["hostUsers"] = false.into();
        pod
    };
    let of = |level, minor, pod: &Value| found(level, Version::Minor(minor), pod);
    for (path, value) in [
        ("/spec/securityContext/runAsNonRoot", json!(false)),
        ("/spec/securityContext/runAsUser", json!(0)),
    ] {
        let pod = own_users(path, value);
        assert_ne!(of(Level::Restricted, 34, &pod), "", "{path}");
        assert_eq!(of(Level::Restricted, 35, &pod), "", "{path}");
    }
    let unmasked = own_users(&format!("{CONTEXT}/procMount"), json!("Unmasked"));
    assert_ne!(of(Level::Baseline, 34, &unmasked), "");
    assert_eq!(of(Level::Baseline, 35, &unmasked), "");
    let words =
        "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")";
    assert_eq!(of(Level::Restricted, 35, &unmasked), words, "and only once");
}

#[test]
fn windows_has_no_such_fields() {
    let mut pod = good();
    pod["spec"]["os"] = json!({"name": "windows"});
    pod["spec"]["securityContext"] = json!({"runAsNonRoot": true});
    pod["spec"]["containers"][0]["securityContext"] = json!(null);
    let of = |minor| found(Level::Restricted, Version::Minor(minor), &pod);
    assert_eq!(of(25), "");
    for reason in ["allowPrivilegeEscalation", "unrestricted capabilities", "seccompProfile"] {
        assert!(of(24).contains(reason), "{reason}: {}", of(24));
    }
}

#[test]
fn violations_are_listed_in_one_order() {
    let mut pod = good();
    pod["spec"]["hostPID"] = true.into();
    pod["spec"]["containers"][0]["securityContext"] = json!({"privileged": true, "runAsUser": 0});
    assert_eq!(
        found(Level::Restricted, Version::Latest, &pod),
        "host namespaces (hostPID=true), \
         privileged (container \"c\" must not set securityContext.privileged=true), \
         allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsUser=0 (container \"c\" must not set runAsUser=0)"
    );
}
