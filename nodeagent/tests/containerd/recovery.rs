//! What goes on while the agent or containerd does not, and how they find it again.

use std::time::Duration;

use futures::StreamExt;
use nodeagent::runtime::{ContainerState, Runtime, RuntimeEvent};

use crate::world::{World, ended, output, uid, until};

const COUNTING: &str = "n=0; while true; do n=$((n+1)); echo $n; sleep 0.02; done";

fn assert_counted(log: &str) {
    let numbers: Vec<u32> =
        log.lines().map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
    let expected: Vec<u32> = (1..=u32::try_from(numbers.len()).unwrap()).collect();
    assert_eq!(numbers, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_adopts_what_runs() {
    let mut world = World::start().await;
    let sandbox = world.sandbox("p").await;
    let id = world.run("p", COUNTING).await;
    let short = world.run("p", "sleep 0.3; exit 9").await;
    let before = world.runtime().container(&id).await.unwrap();
    drop(world.runtime.take());
    ended("sleep 0.3; exit 9").await;
    world.restart_client().await;
    assert_eq!(world.runtime().container(&id).await.unwrap(), before);
    assert_eq!(world.runtime().sandbox(&uid("p")).await.unwrap(), Some(sandbox.clone()));
    assert_eq!(world.sandbox("p").await, sandbox);
    assert_eq!(world.runtime().wait_container(&short).await.unwrap().code, 9);
    assert_eq!(world.exec(&id, "exit 4").await.code, 4);
    let n = std::fs::read_to_string(world.log_path("p")).unwrap().lines().count();
    assert_counted(&world.log("p", n + 5).await);
    let other = world.sandbox("q").await;
    assert_ne!(other.ips, sandbox.ips);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_may_be_killed() {
    let world = World::start().await;
    world.sandbox("p").await;
    let id = world.run("p", COUNTING).await;
    let short = world.run("p", "sleep 0.3; exit 9").await;
    let mut events = world.runtime().events();
    assert_eq!(events.next().await, Some(RuntimeEvent::Relist));
    let first = world.child.as_ref().unwrap().pid().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let exit = world.runtime().wait_container(&short).await.unwrap();
    assert_eq!(exit.code, 9);
    until("containerd runs again", || {
        world.child.as_ref().unwrap().pid().filter(|pid| *pid != first)
    })
    .await;
    let mut seen = Vec::new();
    while !(seen.contains(&RuntimeEvent::Relist) && seen.len() > 1) {
        seen.push(
            tokio::time::timeout(Duration::from_secs(20), events.next()).await.unwrap().unwrap(),
        );
    }
    assert!(seen.contains(&RuntimeEvent::Exited { id: short, pod_uid: uid("p") }), "{seen:?}");
    assert!(world.is_running(&id).await);
    assert_eq!(world.exec(&id, "exit 4").await.code, 4);
    let n = std::fs::read_to_string(world.log_path("p")).unwrap().lines().count();
    assert_counted(&world.log("p", n + 5).await);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_shim_is_an_exit() {
    let world = World::start().await;
    world.sandbox("p").await;
    let id = world.run("p", "exec sleep 1000").await;
    let folder = world.folder.path().display().to_string();
    let shims = output("ps", &["-eo", "pid,args"]);
    let shim = shims
        .lines()
        .find(|line| line.contains("containerd-shim") && line.contains(&folder))
        .unwrap();
    let pid = shim.split_whitespace().next().unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let exit = world.runtime().wait_container(&id).await.unwrap();
    assert_eq!(exit.code, 137);
    let status = world.runtime().container(&id).await.unwrap().unwrap();
    assert!(matches!(status.state, ContainerState::Exited { .. }), "{status:?}");
    // The pod goes on with a new container.
    let next = world.run("p", "exec sleep 1000").await;
    assert!(world.is_running(&next).await);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_made_sandboxes_are_made_again() {
    let world = World::start().await;
    let folder = world.options.state_dir.join("sandboxes").join(uid("p"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("net"), "").unwrap(); // A pin after a reboot.
    assert!(!world.runtime().sandbox(&uid("p")).await.unwrap().unwrap().ready);
    assert!(world.sandbox("p").await.ready);
    world.run("p", "exec sleep 1000").await;
    world.end().await;
}
