//! Logs, exec and port-forward through the API server to the agent's server.

use kube::api::{AttachParams, LogParams};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::World;

async fn one_pod() -> World {
    let world = World::new().await;
    world.node().await;
    world.create("p", json!({"containers": [{"name": "a", "image": "img:1"}]})).await;
    world.expect("p", "Running: a running x0 ready").await;
    world
}

#[tokio::test]
async fn logs_are_read() {
    let world = one_pod().await;
    let text = world.pods().logs("p", &LogParams::default()).await.unwrap();
    assert_eq!(text, "hollow container a has started\n");
    let previous = LogParams { previous: true, ..LogParams::default() };
    let error = world.pods().logs("p", &previous).await.unwrap_err().to_string();
    assert!(
        error.contains("previous terminated container \"a\" in pod \"p\" not found"),
        "{error}"
    );
}

#[tokio::test]
async fn exec_carries_input_output_and_the_exit_code() {
    let world = one_pod().await;
    let params = AttachParams::default().stdin(true).stderr(false);
    let mut process = world.pods().exec("p", ["echo", "hello"], &params).await.unwrap();
    let mut stdin = process.stdin().unwrap();
    stdin.write_all(b"there\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut stdout = process.stdout().unwrap();
    let mut got = vec![0; 12];
    stdout.read_exact(&mut got).await.unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), "hello\nthere\n");

    let params = AttachParams::default().stderr(false);
    let mut process = world.pods().exec("p", ["sh", "-c", "exit 3"], &params).await.unwrap();
    let status = process.take_status().unwrap().await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    let causes = status.details.unwrap().causes.unwrap();
    assert_eq!(causes[0].message.as_deref(), Some("3"));
}

#[tokio::test]
async fn ports_are_forwarded() {
    let world = one_pod().await;
    let mut forward = world.pods().portforward("p", &[8080]).await.unwrap();
    let mut stream = forward.take_stream(8080).unwrap();
    stream.write_all(b"ping\n").await.unwrap();
    let mut got = vec![0; 22];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), "hollow port 8080\nping\n");
}
