//! The server as a process, on a machine where things go wrong at random: it or its etcd is killed, disks are slow or
//! break, connections are cut. No acknowledged write is lost, compare-and-set stays linearizable, and watches stay
//! ordered, unique and complete.
//!
//! `FAULT_SEED` repeats a run's choices (the seed is printed), `FAULT_SECONDS` makes it longer.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod history;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kit::testing::eventually;
use kube::api::{Api, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt as _};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use store::testing::{BadDisk, Etcd, Relay};

use history::{Call, History, check};
use server::{PATIENCE, ServerProcess};

const WORKERS: usize = 4;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn version(map: &ConfigMap) -> u64 {
    map.resource_version().unwrap().parse().unwrap()
}

fn value(map: &ConfigMap) -> String {
    map.data.as_ref().unwrap()["value"].clone()
}

async fn work(name: usize, client: Client, history: Arc<History>, until: Instant, mut rng: StdRng) {
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let mut n = 0;
    while Instant::now() < until {
        let from = Instant::now();
        let Ok(mut map) = maps.get("register").await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let read = version(&map);
        history.calls.lock().push(Call {
            from,
            to: Instant::now(),
            expected: None,
            version: read,
            value: value(&map),
        });
        if rng.random_bool(0.3) {
            continue;
        }
        n += 1;
        map.data.as_mut().unwrap().insert("value".into(), format!("{name}-{n}"));
        let from = Instant::now();
        // An error may mean that it happened, or not; what it wrote is then judged by who reads it.
        if let Ok(map) = maps.replace("register", &PostParams::default(), &map).await {
            history.calls.lock().push(Call {
                from,
                to: Instant::now(),
                expected: Some(read),
                version: version(&map),
                value: value(&map),
            });
        }
    }
}

/// Follows the register, resuming where it was; a new run begins when it is told to list again.
async fn watch(client: Client, history: Arc<History>, until: Instant) {
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let params = WatchParams::default().fields("metadata.name=register").timeout(20);
    while Instant::now() < until {
        let Ok(now) = maps.get("register").await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let start = version(&now);
        let mut run = Vec::new();
        'run: while Instant::now() < until {
            let last = run.last().map_or(start, |(version, _)| *version);
            let Ok(stream) = maps.watch(&params, &last.to_string()).await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let mut stream = std::pin::pin!(stream);
            while let Ok(Ok(Some(event))) =
                tokio::time::timeout_at(until.into(), stream.try_next()).await
            {
                match event {
                    WatchEvent::Modified(map) => run.push((version(&map), value(&map))),
                    WatchEvent::Error(_) => break 'run, // 410: history does not outlive a restart.
                    other => panic!("{other:?}"),
                }
            }
        }
        history.watched.lock().push((start, run));
    }
}

async fn run(more: Vec<String>, mut disturb: impl FnMut(&mut ServerProcess, &mut StdRng)) {
    let seed = number("FAULT_SEED").unwrap_or_else(rand::random);
    println!("FAULT_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut server = ServerProcess::new(dir.path(), more);
    server.start();
    let client = server.client().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "register"}, "data": {"value": "0"}}))
            .unwrap();
    eventually(PATIENCE, async || maps.create(&PostParams::default(), &map).await).await;

    let until = Instant::now() + Duration::from_secs(number("FAULT_SECONDS").unwrap_or(10));
    let history = Arc::new(History::default());
    let mut tasks = tokio::task::JoinSet::new();
    for name in 0..WORKERS {
        let rng = StdRng::seed_from_u64(rng.random());
        tasks.spawn(work(name, client.clone(), history.clone(), until, rng));
    }
    tasks.spawn(watch(client.clone(), history.clone(), until));
    let mut n_faults = 0;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(rng.random_range(200..1500))).await;
        disturb(&mut server, &mut rng);
        n_faults += 1;
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let from = Instant::now();
    let last = eventually(PATIENCE, async || maps.get("register").await).await;
    history.calls.lock().push(Call {
        from,
        to: Instant::now(),
        expected: None,
        version: version(&last),
        value: value(&last),
    });
    let n_written = check(&history);
    println!("{n_written} writes under {n_faults} faults");
    assert!(n_written > 20, "the server was hardly there: {n_written} writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_survives_kills() {
    run(Vec::new(), |server, _| {
        server.kill();
        server.start();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_and_server_survive_kills() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(dir.path(), 3).unwrap();
    let servers = format!("--etcd-servers={}", etcd.endpoints().join(","));
    run(vec![servers], |server, rng| {
        if rng.random_bool(0.5) {
            server.kill();
            server.start();
        } else {
            // The leader, or any other.
            let leader = (0..3).find(|member| etcd.leads(*member)).unwrap_or(0);
            let victim = if rng.random_bool(0.6) { leader } else { rng.random_range(0..3) };
            etcd.kill(victim).unwrap();
            std::thread::sleep(Duration::from_millis(rng.random_range(0..1500)));
            etcd.restart(victim).unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_survives_a_bad_disk() {
    run(Vec::new(), |server, rng| {
        if rng.random_bool(0.7) {
            let _slow = BadDisk::slow(server.id(), milliseconds(rng, 50..800)).unwrap();
            std::thread::sleep(milliseconds(rng, 500..1500));
            if rng.random_bool(0.5) {
                return; // Only slow.
            }
            server.kill();
        } else {
            // After a failed sync nothing is accepted until the server is started again.
            let _broken = BadDisk::broken(server.id()).unwrap();
            std::thread::sleep(milliseconds(rng, 500..1000));
            server.kill();
        }
        server.start();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_survives_slow_disks() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path(), 3).unwrap();
    let servers = format!("--etcd-servers={}", etcd.endpoints().join(","));
    run(vec![servers], |_, rng| {
        // The leader, whose disk all writes wait for unless the others outvote it, or any other.
        let leader = (0..3).find(|member| etcd.leads(*member)).unwrap_or(0);
        let member = if rng.random_bool(0.6) { leader } else { rng.random_range(0..3) };
        let delay = milliseconds(rng, 50..1200);
        let _slow = BadDisk::slow(etcd.process(member).unwrap(), delay).unwrap();
        std::thread::sleep(milliseconds(rng, 500..2000));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_the_embedded_store_survive_cut_connections() {
    run(Vec::new(), |server, _| server.relay.cut()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_etcd_survive_cut_connections() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(dir.path(), 1).unwrap();
    let relay = Relay::start(etcd.ports()[0]).unwrap();
    let servers = format!("--etcd-servers=http://127.0.0.1:{}", relay.port());
    run(vec![servers], |server, rng| {
        if rng.random_bool(0.7) {
            relay.cut();
        }
        if rng.random_bool(0.5) {
            server.relay.cut();
        }
    })
    .await;
}

fn milliseconds(rng: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}
