//! What pods of one operating system may not have, and options for Windows.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::container::visit;
use crate::types::check::{At, Causes, flag, is_empty, text};

const NOT_ON_WINDOWS: &str = "cannot be set for a windows pod";

/// Fields of the pod's spec, and of its security context, that Windows does not know.
const POD_FIELDS: [&str; 4] = ["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"];
const POD_CONTEXT_FIELDS: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
/// Fields of a container's security context that Windows does not know.
const CONTEXT_FIELDS: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// The system that a pod is for, and what it does not fit.
pub(super) fn operating_system(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    host_process(causes, at, spec);
    let os = &spec["os"];
    if os.is_null() {
        return;
    }
    match text(os, "name") {
        "" => causes.required(&at.field("os").field("name"), ""),
        "linux" => linux(causes, at, spec),
        "windows" => windows(causes, at, spec),
        other => causes.not_supported(&at.field("os"), &other.into(), &["linux", "windows"]),
    }
}

fn linux(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let mut forbid = |at: &At<'_>, context: &Value| {
        if !context["windowsOptions"].is_null() {
            let detail = "windows options cannot be set for a linux pod";
            causes.forbidden(&at.field("windowsOptions"), detail);
        }
    };
    forbid(&at.field("securityContext"), &spec["securityContext"]);
    visit(spec, |list, n, container| {
        let list = at.field(list);
        let at = list.index(n);
        forbid(&at.field("securityContext"), &container["securityContext"]);
    });
}

fn windows(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let mut forbid = |at: &At<'_>, object: &Value, fields: &[&str]| {
        for field in fields {
            let value = &object[*field];
            let set = match *field {
                "hostPID" | "hostIPC" => *value == true,
                "sysctls" => !is_empty(value),
                _ => !value.is_null(),
            };
            if set {
                causes.forbidden(&at.field(field), NOT_ON_WINDOWS);
            }
        }
    };
    forbid(at, spec, &POD_FIELDS);
    forbid(&at.field("securityContext"), &spec["securityContext"], &POD_CONTEXT_FIELDS);
    visit(spec, |list, n, container| {
        let list = at.field(list);
        let at = list.index(n);
        forbid(&at.field("securityContext"), &container["securityContext"], &CONTEXT_FIELDS);
    });
}

/// Containers that are processes of the host: all of a pod, or none.
fn host_process(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let option =
        |object: &Value| object["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let of_pod = option(spec);
    let (mut n_all, mut n_processes) = (0, 0);
    visit(spec, |list, n, container| {
        n_all += 1;
        let own = option(container);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let list = at.field(list);
            let at = list.index(n);
            let at = at.field("securityContext");
            let at = at.field("windowsOptions");
            let why =
                format!("pod hostProcess value must be identical if both are specified, was {pod}");
            causes.invalid(&at.field("hostProcess"), &own.into(), &why);
        }
        if own.or(of_pod) == Some(true) {
            n_processes += 1;
        }
    });
    if n_processes == 0 {
        return;
    }
    if n_processes != n_all {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        causes.invalid(at, &"".into(), detail);
    }
    if !flag(spec, "hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        causes.invalid(&at.field("hostNetwork"), &false.into(), detail);
    }
}

/// `windowsOptions` of a security context.
pub(super) fn options(causes: &mut Causes, at: &At<'_>, options: &Value) {
    const SPEC_BYTES: usize = 64 * 1024;
    causes.subdomain(&at.field("gmsaCredentialSpecName"), &options["gmsaCredentialSpecName"]);
    let credentials = &options["gmsaCredentialSpec"];
    match credentials.as_str().map(str::len) {
        Some(0) => causes.invalid(
            &at.field("gmsaCredentialSpec"),
            credentials,
            "gmsaCredentialSpec cannot be an empty string",
        ),
        Some(n) if n > SPEC_BYTES => causes.invalid(
            &at.field("gmsaCredentialSpec"),
            credentials,
            "gmsaCredentialSpec size must be under 64 KiB",
        ),
        _ => (),
    }
    if let Some(name) = options["runAsUserName"].as_str() {
        for fault in user_name(name) {
            causes.invalid(&at.field("runAsUserName"), &name.into(), &fault);
        }
    }
}

/// Faults of `domain\user`.
fn user_name(name: &str) -> Vec<String> {
    const DOMAIN: usize = 256;
    const USER: usize = 104;
    static DOMAINS: LazyLock<Regex> = LazyLock::new(|| {
        let label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";
        let net_bios = r#"[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}"#;
        Regex::new(&format!(r"^(?:{net_bios}|{label}(?:\.{label})*)$")).expect("it is right")
    });
    let one = |fault: &str| vec![fault.to_owned()];
    if name.is_empty() {
        return one("runAsUserName cannot be an empty string");
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return one("runAsUserName cannot contain control characters");
    }
    let (domain, user) = match name.split('\\').collect::<Vec<_>>().as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return one("runAsUserName cannot contain more than one backslash"),
    };
    let mut faults = Vec::new();
    if domain.is_some_and(|d| d.len() >= DOMAIN) {
        faults.push(format!("runAsUserName's Domain length must be under {DOMAIN} characters"));
    }
    if domain.is_some_and(|d| !DOMAINS.is_match(d)) {
        let fault = "runAsUserName's Domain doesn't match the NetBios nor the DNS format";
        faults.push(fault.to_owned());
    }
    if user.is_empty() {
        faults.push("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > USER {
        faults
            .push(format!("runAsUserName's User length must not be longer than {USER} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        faults.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.chars().any(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        faults.push(
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"
                .to_owned(),
        );
    }
    faults
}

#[test]
fn user_names() {
    for good in ["user", "domain\\user", "a.example\\user name"] {
        assert_eq!(user_name(good), [""; 0], "{good}");
    }
    for bad in ["", "a\\b\\c", "a\tb", "d:\\user", "..", "a*b", "domain\\"] {
        assert_eq!(user_name(bad).len(), 1, "{bad:?}");
    }
}
