//! The system call filter of RuntimeDefault, from a table that is data. Pure.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Value, json};

/// EPERM: what a refused system call answers.
const REFUSED: u32 = 1;

#[derive(Deserialize)]
struct Table {
    always: Vec<String>,
    architecture: BTreeMap<String, Vec<String>>,
    capability: BTreeMap<String, Vec<String>>,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(flatten)]
    rule: Value,
    unless: Option<String>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../data/seccomp.json")).unwrap_or_else(|error| {
        unreachable!("data/seccomp.json is checked by a test: {error}");
    })
});

/// The filter for a container with these capabilities (without `CAP_`), in the runtime specification's form.
///
/// Two architectures only, the node's and its 32-bit one: each costs some milliseconds at every start.
pub(super) fn runtime_default(capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    let mut names: Vec<&String> = TABLE.always.iter().collect();
    names.extend(TABLE.architecture.get(std::env::consts::ARCH).into_iter().flatten());
    for (capability, more) in &TABLE.capability {
        if has(capability) {
            names.extend(more.iter().filter(|name| !TABLE.always.contains(name)));
        }
    }
    names.sort();
    names.dedup();
    let mut rules = vec![json!({"names": names, "action": "SCMP_ACT_ALLOW"})];
    let applies = |condition: &&Condition| !condition.unless.as_deref().is_some_and(has);
    rules.extend(TABLE.conditions.iter().filter(applies).map(|condition| condition.rule.clone()));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": REFUSED,
        "architectures": architectures(std::env::consts::ARCH),
        "syscalls": rules,
    })
}

fn architectures(native: &str) -> Vec<&'static str> {
    match native {
        "x86_64" => vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "aarch64" => vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "riscv64" => vec!["SCMP_ARCH_RISCV64"],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(profile: &Value, name: &str) -> bool {
        profile["syscalls"][0]["names"].as_array().unwrap().iter().any(|entry| entry == name)
    }

    #[test]
    fn capabilities_open_their_calls() {
        let plain = runtime_default(&["CHOWN".into()]);
        assert!(
            allowed(&plain, "openat")
                && !allowed(&plain, "mount")
                && !allowed(&plain, "io_uring_setup")
        );
        let admin = runtime_default(&["SYS_ADMIN".into()]);
        assert!(allowed(&admin, "mount") && allowed(&admin, "clone3"));
    }

    #[test]
    fn clone_is_watched_without_sys_admin() {
        let rules = |capabilities: &[String]| runtime_default(capabilities)["syscalls"].to_string();
        assert!(rules(&[]).contains("SCMP_CMP_MASKED_EQ"));
        assert!(!rules(&["SYS_ADMIN".into()]).contains("SCMP_CMP_MASKED_EQ"));
        assert!(!rules(&[]).contains("unless"));
    }

    #[test]
    fn the_specification_knows_the_form() {
        let profile = runtime_default(&[]);
        let typed: oci_spec::runtime::LinuxSeccomp = serde_json::from_value(profile).unwrap();
        assert_eq!(typed.syscalls().as_ref().map(Vec::len), Some(9));
    }
}
