//! Sandboxes and containers from beginning to end.

use nodeagent::runtime::{ContainerState, ExecSpec, Runtime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{World, uid};

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
async fn exec_streams_both_ways() {
    let world = World::start().await;
    world.sandbox("p").await;
    let id = world.run("p", "exec sleep 1000").await;
    let command = ["cat"].map(String::from).to_vec();
    let spec = ExecSpec { command, stdin: true, stdout: true, stderr: true, ..ExecSpec::default() };
    let io = world.runtime().exec(&id, &spec).await.unwrap();
    let (mut stdin, mut stdout) = (io.stdin.unwrap(), io.stdout.unwrap());
    let sent = vec![b'x'; 300_000];
    let writing = tokio::spawn({
        let sent = sent.clone();
        async move {
            stdin.write_all(&sent).await.unwrap();
            stdin.shutdown().await.unwrap();
        }
    });
    let mut got = Vec::new();
    stdout.read_to_end(&mut got).await.unwrap();
    writing.await.unwrap();
    assert_eq!(got.len(), sent.len());
    assert_eq!(io.exit.await.unwrap(), 0);
    world.end().await;
}
