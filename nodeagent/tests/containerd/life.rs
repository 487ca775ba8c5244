//! Sandboxes and containers from beginning to end.

use std::time::{Duration, Instant};

use futures::StreamExt;
use kit::testing::eventually;
use nodeagent::runtime::{
    Bytes, ContainerSpec, ContainerState, Error, HostAlias, Mount, Qos, Resources, Runtime,
    RuntimeEvent, SandboxSpec,
};

use crate::world::{World, sandbox_spec, uid};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_logs_execs_and_goes() {
    let world = World::start().await;
    let sandbox = world.sandbox("web").await;
    assert_eq!(sandbox.ips.len(), 1);
    let id = world.run("web", "echo out; echo err >&2; hostname; exec sleep 1000").await;
    assert_eq!(
        world
            .log("web", 3)
            .await
            .lines()
            .filter(|line| *line == "stdout F out"
                || *line == "stderr F err"
                || *line == "stdout F web")
            .count(),
        3
    );
    let output = world.exec(&id, "id; cat /etc/hosts; exit 3").await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.code, 3);
    assert!(text.starts_with("uid=0(root) gid=0(root) groups=0(root),10(wheel)\n"), "{text}");
    assert!(text.contains(&format!("{}\tweb\n", sandbox.ips[0])), "{text}");
    assert!(world.is_running(&id).await);
    world.runtime().kill_container(&id, libc::SIGKILL).await.unwrap();
    let exit = world.runtime().wait_container(&id).await.unwrap();
    assert_eq!((exit.code, exit.oom_killed), (137, false));
    let status = world.runtime().container(&id).await.unwrap().unwrap();
    assert!(
        matches!(status.state, ContainerState::Exited { started_at: Some(_), .. }),
        "{status:?}"
    );
    world.runtime().remove_sandbox(&uid("web")).await.unwrap();
    assert!(world.runtime().containers().await.unwrap().is_empty());
    assert!(world.runtime().sandboxes().await.unwrap().is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_cannot_be_made_leave_nothing() {
    let world = World::start().await;
    world.sandbox("p").await;
    let missing =
        ContainerSpec { command: vec!["/no/such/program".into()], ..world.container("p", "") };
    let error = world.runtime().create_container(&missing).await.unwrap_err();
    assert!(matches!(error, Error::CreateContainer { .. }), "{error:?}");
    assert!(error.to_string().contains("no such file or directory"), "{error}");
    let absent =
        ContainerSpec { image: "test.local/other:1".parse().unwrap(), ..world.container("p", "") };
    let error = world.runtime().create_container(&absent).await.unwrap_err();
    assert!(matches!(error, Error::ImageNotPresent(_)), "{error:?}");
    let homeless = ContainerSpec { pod_uid: "nobody".into(), ..world.container("p", "") };
    assert!(world.runtime().create_container(&homeless).await.unwrap_err().is_not_found());
    assert_eq!(world.runtime().containers().await.unwrap(), []);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exits_are_told_with_their_code() {
    let world = World::start().await;
    world.sandbox("p").await;
    let mut events = world.runtime().events();
    assert_eq!(events.next().await, Some(RuntimeEvent::Relist));
    let id = world.run("p", "exit 7").await;
    let exit = world.runtime().wait_container(&id).await.unwrap();
    assert_eq!((exit.code, exit.oom_killed, exit.message.as_str()), (7, false, ""));
    assert_eq!(
        events.next().await,
        Some(RuntimeEvent::Exited { id: id.clone(), pod_uid: uid("p") })
    );
    let again = world.runtime().wait_container(&id).await.unwrap();
    assert_eq!(again, exit);
    world.runtime().remove_container(&id).await.unwrap();
    world.runtime().remove_container(&id).await.unwrap();
    assert!(world.runtime().wait_container(&id).await.unwrap_err().is_not_found());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_limits_kill_and_say_so() {
    let world = World::start().await;
    let resources = Resources { memory_limit: Some(Bytes(16 << 20)), ..Resources::default() };
    let spec = SandboxSpec { qos: Qos::Burstable, resources, ..sandbox_spec("p") };
    world.runtime().create_sandbox(&spec).await.unwrap();
    // tail keeps all of its input, which has no line end.
    let container = ContainerSpec { resources, ..world.container("p", "exec tail /dev/zero") };
    let id = world.run_spec(&container).await;
    let exit = world.runtime().wait_container(&id).await.unwrap();
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_reach_the_cgroups_and_can_change() {
    let world = World::start().await;
    let spec = SandboxSpec { qos: Qos::Burstable, ..sandbox_spec("p") };
    world.runtime().create_sandbox(&spec).await.unwrap();
    let id = world.run("p", "exec sleep 1000").await;
    let resources = Resources {
        memory_limit: Some(Bytes(64 << 20)),
        pids_limit: Some(50),
        ..Resources::default()
    };
    let labels = [("improv.dev/x".to_owned(), "{\"a\":1}".to_owned())].into();
    world.runtime().update_container(&id, &resources, &labels).await.unwrap();
    world.runtime().update_sandbox(&uid("p"), &resources).await.unwrap();
    let known = world.runtime().container(&id).await.unwrap().unwrap().labels;
    assert_eq!(known, labels);
    let pod = format!("{}/burstable/pod{}", world.options.cgroup_base, uid("p"));
    let limit = |group: &str| {
        let root = std::path::Path::new("/sys/fs/cgroup");
        let v1 =
            root.join("memory").join(group.trim_start_matches('/')).join("memory.limit_in_bytes");
        let v2 = root.join(group.trim_start_matches('/')).join("memory.max");
        std::fs::read_to_string(v1).or_else(|_| std::fs::read_to_string(v2)).unwrap()
    };
    assert_eq!(limit(&pod).trim(), "67108864");
    assert_eq!(limit(&format!("{pod}/{id}")).trim(), "67108864");
    // Until it becomes the container's program, runc has some threads there.
    let stats = eventually(Duration::from_secs(10), async || {
        let stats = world.runtime().container_stats(&id).await.unwrap();
        if stats.processes == 1 { Ok(stats) } else { Err(format!("{stats:?}")) }
    })
    .await;
    assert!(stats.memory_usage.0 > 0, "{stats:?}");
    let pod = world.runtime().sandbox_stats(&uid("p")).await.unwrap();
    assert!(pod.network_sent.is_some() && pod.memory_usage >= stats.memory_usage, "{pod:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_files_and_environment_are_there() {
    let world = World::start().await;
    let alias = HostAlias { ip: "192.0.2.7".into(), hostnames: vec!["far.away".into()] };
    world
        .runtime()
        .create_sandbox(&SandboxSpec { host_aliases: vec![alias], ..sandbox_spec("p") })
        .await
        .unwrap();
    let data = world.folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("greeting"), "hello").unwrap();
    let volume = |path: &str, read_only| Mount {
        host_path: data.clone(),
        container_path: path.into(),
        read_only,
        ..Mount::default()
    };
    let container = ContainerSpec {
        env: vec![("NAME".into(), "value with spaces".into())],
        working_dir: Some("/rw".into()),
        mounts: vec![volume("/ro", true), volume("/rw", false)],
        ..world.container("p", "pwd; echo $NAME $HOSTNAME; cat greeting; touch /ro/x || echo refused; touch /rw/made; grep -c far.away /etc/hosts")
    };
    world.run_spec(&container).await;
    let log = world.log("p", 5).await;
    for line in ["/rw", "value with spaces p", "refused", "1"] {
        assert!(
            log.contains(&format!("stdout F {line}\n"))
                || log.contains(&format!("stdout F hello{line}\n")),
            "{line} is not in\n{log}"
        );
    }
    assert!(data.join("made").exists());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_writes_into_files_of_the_node_is_bounded() {
    let world = World::start().await;
    world.sandbox("p").await;
    let files = world.runtime().sandbox_files(&uid("p")).unwrap();
    std::fs::write(files.join("termination"), "").unwrap();
    let message = Mount {
        host_path: files.join("termination"),
        container_path: "/dev/termination-log".into(),
        ..Mount::default()
    };
    // Four mebibytes each, of which all together get one.
    let fill = ["/dev/termination-log", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
        .map(|path| format!("head -c 4194304 /dev/zero >>{path} || echo full; "));
    let script =
        format!("(echo why >/dev/termination-log; {}echo done) 2>/dev/null", fill.concat());
    let container = ContainerSpec { mounts: vec![message], ..world.container("p", &script) };
    world.run_spec(&container).await;
    let log = world.log("p", 5).await;
    assert_eq!(log.matches("stdout F full\n").count(), 4, "{log}");
    let sizes = std::fs::read_dir(&files).unwrap().map(|f| f.unwrap().metadata().unwrap().len());
    let total: u64 = sizes.sum();
    assert!((1 << 19..=(1 << 20) + 8192).contains(&total), "{total}");
    assert!(std::fs::read(files.join("termination")).unwrap().starts_with(b"why\n"));
    world.runtime().remove_sandbox(&uid("p")).await.unwrap();
    assert!(!files.exists() && world.runtime().sandbox_files(&uid("p")).is_none());
    world.end().await;
}

/// Prints the figures; the bound is wide, since other work may have the machine.
#[tokio::test(flavor = "multi_thread")]
async fn pods_start_fast() {
    let world = World::start().await;
    let mut times = Vec::new();
    for n in 0..15 {
        let pod = format!("p{n}");
        let start = Instant::now();
        world.sandbox(&pod).await;
        let id = world.run(&pod, "exec sleep 1000").await;
        times.push(start.elapsed());
        assert!(world.is_running(&id).await);
    }
    times.sort();
    println!(
        "image present to running: median {:?}, fastest {:?}, slowest {:?}",
        times[7], times[0], times[14]
    );
    assert!(times[7] < Duration::from_secs(1), "{times:?}");
    world.end().await;
}
