//! Specifications are compared with the crate's types, so that a misspelt field fails.

use super::*;
use crate::runtime::{Bytes, Millicores, Security};

fn place() -> Place {
    Place {
        pod_uid: "u".into(),
        hostname: "web-0".into(),
        folder: "/run/p".into(),
        files: "/run/p/files".into(),
        ..Place::default()
    }
}

fn built(spec: &ContainerSpec, sandbox: &Place) -> Value {
    let image = Defaults {
        cmd: vec!["sh".into()],
        env: vec!["PATH=/bin".into(), "A=image".into()],
        ..Defaults::default()
    };
    let node = Node {
        swap: true,
        capabilities: vec!["CHOWN".into(), "SYS_ADMIN".into()],
        ..Node::default()
    };
    let inputs = Inputs {
        spec,
        image: &image,
        user: &User { uid: 7, gid: 8, additional: vec![8, 9] },
        sandbox,
        node: &node,
        cgroup: "/kubepods/podu/c",
        seccomp_profile: None,
        devices: vec![json!({"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232})],
    };
    build(&inputs).unwrap()
}

#[track_caller]
fn typed(value: &Value) -> oci_spec::runtime::Spec {
    let spec: oci_spec::runtime::Spec = serde_json::from_value(value.clone()).unwrap();
    spec
}

fn mount<'a>(spec: &'a Value, destination: &str) -> Option<&'a Value> {
    spec["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == destination)
}

#[test]
fn a_plain_container_joins_its_pod() {
    let spec = built(&ContainerSpec::default(), &place());
    let process = typed(&spec).process().clone().unwrap();
    assert_eq!(process.args().clone().unwrap(), ["sh"]);
    assert_eq!(process.env().clone().unwrap(), ["PATH=/bin", "HOSTNAME=web-0", "A=image"]);
    assert_eq!(process.user().additional_gids().clone().unwrap(), [8, 9]);
    let kinds: Vec<_> = spec["linux"]["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ns| format!("{}{}", ns["type"], ns["path"]))
        .collect();
    let expected = [
        "\"mount\"null",
        "\"network\"\"/run/p/net\"",
        "\"uts\"\"/run/p/uts\"",
        "\"ipc\"\"/run/p/ipc\"",
        "\"pid\"null",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(mount(&spec, "/etc/hosts").unwrap()["source"], "/run/p/files/hosts");
    assert!(spec["linux"]["maskedPaths"].as_array().is_some_and(|paths| !paths.is_empty()));
    assert_eq!(spec["annotations"]["io.containerd.runc.v2.group"], "u");
}

#[test]
fn host_namespaces_are_left_out() {
    let sandbox = Place { host_network: true, host_pid: true, host_ipc: true, ..place() };
    let spec = built(&ContainerSpec::default(), &sandbox);
    assert_eq!(spec["linux"]["namespaces"], json!([{"type": "mount"}]));
    assert_eq!(mount(&spec, "/dev/shm").unwrap()["source"], "/dev/shm");
}

#[test]
fn a_shared_process_namespace_is_that_of_pause() {
    let spec = built(&ContainerSpec::default(), &Place { pause: Some(42), ..place() });
    assert!(spec["linux"]["namespaces"].to_string().contains("/proc/42/ns/pid"));
}

#[test]
fn the_pod_overrides_the_environment() {
    let env =
        [("A", "pod"), ("B", "1"), ("B", "2")].map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
    let spec = built(&ContainerSpec { env, tty: true, ..ContainerSpec::default() }, &place());
    assert_eq!(
        spec["process"]["env"],
        json!(["PATH=/bin", "HOSTNAME=web-0", "TERM=xterm", "A=pod", "B=2"])
    );
}

#[test]
fn limits_reach_the_kernel_units() {
    let resources = Resources {
        cpu_request: Some(Millicores(500)),
        cpu_limit: Some(Millicores(1500)),
        memory_limit: Some(Bytes(1 << 20)),
        pids_limit: Some(64),
    };
    let spec = built(
        &ContainerSpec { resources, oom_score_adj: Some(-900), ..ContainerSpec::default() },
        &place(),
    );
    let limits = &spec["linux"]["resources"];
    assert_eq!(limits["cpu"], json!({"shares": 512, "quota": 150_000, "period": 100_000}));
    assert_eq!(limits["memory"], json!({"limit": 1 << 20, "swap": 1 << 20}));
    assert_eq!(limits["pids"], json!({"limit": 64}));
    assert_eq!(spec["process"]["oomScoreAdj"], 0); // Clamped to what the agent may set.
    typed(&spec);
}

#[test]
fn privileged_containers_see_the_node() {
    let security =
        Security { privileged: true, seccomp: Seccomp::RuntimeDefault, ..Security::default() };
    let spec = built(&ContainerSpec { security, ..ContainerSpec::default() }, &place());
    assert_eq!(spec["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
    assert_eq!(spec["linux"]["devices"][0]["path"], "/dev/kvm");
    assert_eq!(spec["process"]["capabilities"]["bounding"], json!(["CAP_CHOWN", "CAP_SYS_ADMIN"]));
    assert!(spec["linux"]["seccomp"].is_null() && spec["linux"]["maskedPaths"].is_null());
    typed(&spec);
}

#[test]
fn volumes_hide_the_pods_files_and_come_outside_in() {
    let volume = |path: &str| Mount {
        host_path: "/v".into(),
        container_path: path.into(),
        read_only: true,
        ..Mount::default()
    };
    let mounts = vec![volume("/data/inner"), volume("/data"), volume("/etc/hosts")];
    let spec = built(&ContainerSpec { mounts, ..ContainerSpec::default() }, &place());
    let at = |path: &str| {
        spec["mounts"].as_array().unwrap().iter().position(|m| m["destination"] == path).unwrap()
    };
    assert!(at("/data") < at("/data/inner"));
    assert_eq!(mount(&spec, "/etc/hosts").unwrap()["source"], "/v");
    assert_eq!(mount(&spec, "/data").unwrap()["options"], json!(["rbind", "rprivate", "ro"]));
}

#[test]
fn nothing_to_run_is_an_error() {
    let (node, user, sandbox) = (Node::default(), User::default(), place());
    let inputs = Inputs {
        spec: &ContainerSpec::default(),
        image: &Defaults::default(),
        user: &user,
        sandbox: &sandbox,
        node: &node,
        cgroup: "/c",
        seccomp_profile: None,
        devices: Vec::new(),
    };
    assert_eq!(build(&inputs).unwrap_err().to_string(), "no command specified");
}
