//! A client that opens streams and resets them at once (CVE-2023-44487) loses its connection, and nobody else
//! notices.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::time::{Duration, Instant};

use apiserver::testing::TestServer;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

/// Streams in one go: more than a client may reset, and few enough to come with one read of the server.
const BATCH: u32 = 250;
const BATCHES: u32 = 40;
const ENHANCE_YOUR_CALM: u32 = 0xb;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET path`, and the reset behind it. Source: RFC 9113, RFC 7541 (static table, literals without indexing).
fn opened_and_reset(stream: u32, path: &str) -> Vec<u8> {
    let text = |index: u8, value: &str| [&[index, value.len() as u8], value.as_bytes()].concat();
    let head = [vec![0x82, 0x87], text(0x04, path), text(0x01, "kubernetes")].concat();
    [frame(1, 0x5, stream, &head), frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
}

/// Error code of the GOAWAY frame that the server sends; `None` if it closes without one.
async fn goaway(mut stream: impl AsyncRead + Unpin) -> Option<u32> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.ok()?;
        if head[3] == 7 {
            return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
}

/// Opens and resets until the server has enough of it; answers why it ended.
async fn flood(server: &TestServer) -> Option<u32> {
    let stream = server.dial("flood", &[], "h2").await.unwrap();
    let (read, mut write) = tokio::io::split(stream);
    let answer = tokio::spawn(goaway(read));
    let start = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat();
    write.write_all(&start).await.unwrap();
    for batch in 0..BATCHES {
        let streams = (batch * BATCH..(batch + 1) * BATCH).map(|n| 2 * n + 1);
        let bytes: Vec<u8> =
            streams.flat_map(|stream| opened_and_reset(stream, "/api/v1/configmaps")).collect();
        if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
            break;
        }
    }
    tokio::time::timeout(Duration::from_secs(10), answer).await.expect("it is closed").unwrap()
}

/// Memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_resets_is_cut_off_while_others_are_served() {
    let server = TestServer::builder().with_socket().start().await.unwrap();
    let before = resident();
    let floods = async {
        let mut told = 0;
        for _ in 0..20 {
            let code = flood(&server).await;
            // The answer may be lost with the connection.
            assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "closed for {code:?}");
            told += usize::from(code.is_some());
        }
        assert_ne!(told, 0, "the server never says why");
    };
    let others = async {
        let maps: Api<ConfigMap> = Api::all(server.client());
        let mut slowest = Duration::ZERO;
        loop {
            let asked = Instant::now();
            maps.list(&ListParams::default()).await.unwrap();
            slowest = slowest.max(asked.elapsed());
            assert!(slowest < Duration::from_secs(2), "another client waited {slowest:?}");
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = floods => (),
        () = others => (),
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more than before");
}
