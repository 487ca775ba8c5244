//! Exec, attach, logs.

use std::time::Duration;

use nodeagent::runtime::{BoxRead, ContainerSpec, Error, ExecIo, ExecSpec, Runtime, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{World, output, until};

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

/// Whether a process of the machine has exactly this command line.
fn is_running(command: &str) -> bool {
    output("ps", &["-eo", "args"]).lines().any(|line| line == command)
}

/// Reads until the text appears.
async fn read_until(reader: &mut BoxRead, text: &str) -> String {
    let mut got = String::new();
    let work = async {
        let mut buffer = [0; 1024];
        while !got.contains(text) {
            let n = reader.read(&mut buffer).await.unwrap();
            assert!(n > 0, "the stream ended after {got:?}");
            got += &String::from_utf8_lossy(&buffer[..n]);
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), work).await;
    assert!(in_time.is_ok(), "{text:?} does not come, only {got:?}");
    got
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_have_a_size_and_a_keyboard() {
    let world = World::start().await;
    world.sandbox("p").await;
    let id = world.run("p", "exec sleep 1000").await;
    let size = Some(TerminalSize { width: 91, height: 17 });
    let spec = ExecSpec {
        command: words("sh"),
        tty: true,
        stdin: true,
        stdout: true,
        size,
        ..ExecSpec::default()
    };
    let ExecIo { stdin, stdout, stderr, resize, exit } =
        world.runtime().exec(&id, &spec).await.unwrap();
    let (mut stdin, mut stdout, resize) = (stdin.unwrap(), stdout.unwrap(), resize.unwrap());
    assert!(stderr.is_none());
    stdin.write_all(b"stty size; echo $TERM\n").await.unwrap();
    let text = read_until(&mut stdout, "xterm\r\n").await;
    assert!(text.contains("17 91"), "{text:?}");
    resize.send(TerminalSize { width: 40, height: 10 }).await.unwrap();
    // The terminal answers with what it is told, too; the sum is the shell's.
    let resized = b"until stty size | grep -q '^10 40$'; do sleep 0.02; done; echo re$((1))sized\n";
    stdin.write_all(resized).await.unwrap();
    read_until(&mut stdout, "re1sized").await;
    stdin.write_all(b"sleep 1234; echo $((40 + 2))\n").await.unwrap();
    until("the shell sleeps", || is_running("sleep 1234").then_some(())).await;
    stdin.write_all(&[3]).await.unwrap(); // Ctrl-C ends the sleep, and the line with it.
    stdin.write_all(b"exit 5\n").await.unwrap();
    assert_eq!(exit.await.unwrap(), 5);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn execs_that_fail_say_why() {
    let world = World::start().await;
    world.sandbox("p").await;
    let id = world.run("p", "exec sleep 1000").await;
    let run = |command: &str, limit| {
        let (runtime, id, command) = (world.runtime(), id.clone(), words(command));
        async move { runtime.exec_sync(&id, &command, Some(Duration::from_millis(limit))).await }
    };
    assert!(matches!(run("nowhere", 20_000).await, Err(Error::Exec { code: 127, .. })));
    assert!(matches!(run("/etc/passwd", 20_000).await, Err(Error::Exec { code: 126, .. })));
    assert!(matches!(run("sleep 500", 300).await, Err(Error::ExecTimeout(_))));
    until("the timed out process is gone", || (!is_running("sleep 500")).then_some(())).await;
    let output = run("yes", 300).await;
    assert!(matches!(output, Err(Error::ExecTimeout(_))), "{output:?}");
    let output = run("dd if=/dev/zero bs=1024 count=100", 20_000).await.unwrap();
    assert_eq!((output.code, output.stdout.len()), (0, 16 << 10));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_meets_the_first_process() {
    let world = World::start().await;
    world.sandbox("p").await;
    let script =
        "while read line; do echo got $line; echo err $line >&2; done; echo end; exec sleep 1000";
    let id = world
        .run_spec(&ContainerSpec { stdin: true, stdin_once: true, ..world.container("p", script) })
        .await;
    let io = world.runtime().attach(&id).await.unwrap();
    let (mut stdin, mut stdout, mut stderr) =
        (io.stdin.unwrap(), io.stdout.unwrap(), io.stderr.unwrap());
    stdin.write_all(b"one\n").await.unwrap();
    read_until(&mut stdout, "got one\n").await;
    read_until(&mut stderr, "err one\n").await;
    stdin.shutdown().await.unwrap();
    read_until(&mut stdout, "end\n").await;
    let log = world.log("p", 3).await;
    assert!(log.contains("stdout F got one\n") && log.contains("stderr F err one\n"), "{log}");
    world.runtime().kill_container(&id, libc::SIGKILL).await.unwrap();
    assert_eq!(io.exit.await.unwrap(), 137);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_works_on_terminals_and_twice() {
    let world = World::start().await;
    world.sandbox("p").await;
    let container = ContainerSpec {
        stdin: true,
        tty: true,
        command: words("/bin/sh"),
        ..world.container("p", "")
    };
    let id = world.run_spec(&container).await;
    for n in [41, 51] {
        let io = world.runtime().attach(&id).await.unwrap();
        let (mut stdin, mut stdout) = (io.stdin.unwrap(), io.stdout.unwrap());
        assert!(io.stderr.is_none() && io.resize.is_some());
        stdin.write_all(format!("echo $(({n} + 1))\n").as_bytes()).await.unwrap();
        read_until(&mut stdout, &format!("{}\r\n", n + 1)).await;
        stdin.shutdown().await.unwrap();
    }
    let log = world.log("p", 4).await;
    assert!(log.contains("stdout F 42\n") && log.contains("stdout F 52\n"), "{log}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_rotate_and_lose_nothing() {
    let mut world = World::start().await;
    world.options.log_max_size = 100_000;
    world.options.log_max_files = 3;
    world.restart_client().await;
    world.sandbox("p").await;
    let id = world.run("p", "seq 1 5000").await;
    world.runtime().wait_container(&id).await.unwrap();
    let path = world.log_path("p");
    let part =
        |n: u32| std::fs::read_to_string(format!("{}.{n}", path.display())).unwrap_or_default();
    let all = until("all lines are written", || {
        let text = part(2) + &part(1) + &std::fs::read_to_string(&path).unwrap();
        (text.lines().last()?.ends_with(" F 5000")).then_some(text)
    })
    .await;
    let numbers: Vec<u32> =
        all.lines().map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
    let expected: Vec<u32> = (numbers[0]..=5000).collect();
    assert_eq!(numbers, expected);
    assert!(!part(1).is_empty() && !part(2).is_empty() && part(3).is_empty());
    assert!(part(1).len() <= 100_000 + 70_000);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_line_without_an_end_is_logged_when_the_container_ends() {
    let world = World::start().await;
    world.sandbox("p").await;
    let id = world.run("p", "printf 'one\\ntwo'").await;
    world.runtime().wait_container(&id).await.unwrap();
    let log = std::fs::read_to_string(world.log_path("p")).unwrap();
    let records: Vec<&str> = log.lines().filter_map(|line| Some(line.split_once(' ')?.1)).collect();
    assert_eq!(records, ["stdout F one", "stdout P two"]);
    world.end().await;
}
