//! What containers may do.

use std::time::Duration;

use kit::testing::eventually;
use nodeagent::runtime::{ContainerSpec, Error, Runtime, SandboxSpec, Seccomp, Security};

use crate::world::{World, sandbox_spec};

/// Runs a script under a security context and answers its output.
async fn run(world: &World, pod: &str, security: Security, script: &str) -> String {
    world.sandbox(pod).await;
    let container =
        ContainerSpec { security, ..world.container(pod, &format!("({script}) 2>&1; echo done")) };
    let id = world.run_spec(&container).await;
    world.runtime().wait_container(&id).await.unwrap();
    let text = eventually(Duration::from_secs(20), async || {
        let text = world.log(pod, 1).await;
        if text.ends_with("stdout F done\n") { Ok(text) } else { Err(text) }
    })
    .await;
    text.replace("stdout F ", "").replace("done\n", "")
}

#[tokio::test(flavor = "multi_thread")]
async fn security_contexts_hold() {
    let world = World::start().await;
    let caps = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'";

    let text = run(&world, "default", Security::default(), caps).await;
    assert!(text.contains("CapEff:00000000a80425fb") && text.contains("Seccomp:0"), "{text}");

    let tight = Security {
        user: Some(33),
        no_new_privileges: true,
        read_only_root: true,
        drop_capabilities: vec!["ALL".into()],
        seccomp: Seccomp::RuntimeDefault,
        supplemental_groups: vec![2000],
        ..Security::default()
    };
    let script = format!("{caps}; id; touch /x; mount -t tmpfs x /tmp; cat /proc/kcore | wc -c");
    let text = run(&world, "tight", tight, &script).await;
    for line in [
        "CapEff:0000000000000000",
        "CapBnd:0000000000000000",
        "NoNewPrivs:1",
        "Seccomp:2",
        "uid=33(web) gid=34(web)",
        "2000",
        "50(logs)",
        "Read-only file system",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }

    let privileged = Security { privileged: true, ..Security::default() };
    let text = run(&world, "privileged", privileged, "mount -t tmpfs x /proc/asound 2>/dev/null || mount -t tmpfs x /bin/../etc && echo mounted; ls /dev | wc -l").await;
    assert!(text.contains("mounted"), "{text}");

    let non_root = ContainerSpec {
        security: Security { non_root: true, ..Security::default() },
        ..world.container("default", "true")
    };
    let error = world.runtime().create_container(&non_root).await.unwrap_err();
    assert!(
        matches!(&error, Error::ContainerConfig(text) if text == "container has runAsNonRoot and image will run as root"),
        "{error}"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_shared_as_asked() {
    let world = World::start().await;
    let spec = SandboxSpec { share_process_namespace: true, ..sandbox_spec("shared") };
    world.runtime().create_sandbox(&spec).await.unwrap();
    let first = world.run("shared", "exec sleep 1001").await;
    let second = world.run("shared", "exec sleep 1002").await;
    let text = String::from_utf8(world.exec(&second, "ps").await.stdout).unwrap();
    assert!(text.contains("sleep 1001") && text.contains("improv-pause"), "{text}");
    assert_eq!(world.runtime().containers().await.unwrap().len(), 2);
    world.runtime().remove_container(&first).await.unwrap();
    assert!(world.is_running(&second).await);

    let host =
        SandboxSpec { host_network: true, host_pid: true, host_ipc: true, ..sandbox_spec("host") };
    let sandbox = world.runtime().create_sandbox(&host).await.unwrap();
    assert!(sandbox.ips.is_empty());
    let id = world.run("host", "exec sleep 1003").await;
    let names = ["net", "uts", "ipc", "pid"];
    let script =
        names.map(|name| format!("ls -l /proc/self/ns/{name} | tr -d ' ' | tail -c 12")).join("; ");
    let inside = String::from_utf8(world.exec(&id, &script).await.stdout).unwrap();
    for name in names {
        let own =
            std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
        let number = own.trim_matches(|c: char| !c.is_ascii_digit()).to_owned();
        assert!(inside.contains(&number), "{name} {own} is not in {inside}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sysctls_stay_in_the_pod() {
    let world = World::start().await;
    let sysctls = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "77".to_owned())].into();
    world.runtime().create_sandbox(&SandboxSpec { sysctls, ..sandbox_spec("p") }).await.unwrap();
    let id = world.run("p", "exec sleep 1000").await;
    let output = world.exec(&id, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start").await;
    assert_eq!(output.stdout, b"77\n");
    assert_ne!(std::fs::read("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap(), b"77\n");
    let bad = SandboxSpec {
        sysctls: [("net.no.such".to_owned(), "1".to_owned())].into(),
        ..sandbox_spec("q")
    };
    let error = world.runtime().create_sandbox(&bad).await.unwrap_err().to_string();
    assert!(error.contains("cannot set sysctl net.no.such"), "{error}");
    world.end().await;
}
