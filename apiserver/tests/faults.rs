//! The server as a process, killed at random while it is written to: no acknowledged write is lost, compare-and-set
//! stays linearizable, and watches stay ordered, unique and complete.
//!
//! `FAULT_SEED` repeats a run's choices (the seed is printed), `FAULT_SECONDS` makes it longer.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt as _};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use store::testing::{Etcd, free_port};

const WORKERS: usize = 4;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// A `kube-apiserver` that can be killed and started again.
struct ServerProcess {
    dir: PathBuf,
    port: u16,
    more: Vec<String>,
    process: Option<Child>,
}

impl ServerProcess {
    fn start(&mut self) {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_kube-apiserver")]);
        command.arg(format!("--data-dir={}", self.dir.display()));
        command.arg(format!("--bind=127.0.0.1:{}", self.port));
        command.arg(format!("--write-kubeconfig={}", self.kubeconfig().display()));
        command.args(&self.more).env("RUST_LOG", "error").stdin(Stdio::null());
        self.process = Some(command.spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    async fn client(&self) -> Client {
        eventually("a kubeconfig", || async { self.kubeconfig().exists().then_some(()) }).await;
        client(&self.kubeconfig()).await
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    config.connect_timeout = Some(Duration::from_secs(1));
    config.read_timeout = Some(Duration::from_secs(15));
    Client::try_from(config).unwrap()
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} did not come");
}

/// One answered call about the register: when it ran, and the version that it showed or made.
#[derive(Debug, Clone)]
struct Call {
    from: Instant,
    to: Instant,
    /// The version that a write expected; `None` for reads.
    expected: Option<u64>,
    version: u64,
    value: String,
}

/// A run of a watch: the version that it began from, and every change up to its end with its version.
type Watched = (u64, Vec<(u64, String)>);

/// Everything that was seen of the register.
#[derive(Default)]
struct History {
    calls: Mutex<Vec<Call>>,
    watched: Mutex<Vec<Watched>>,
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

/// Checks that all calls fit one order: that of the versions.
fn check(history: &History) -> usize {
    let mut calls = history.calls.lock().clone();
    let mut values: BTreeMap<u64, String> = BTreeMap::new();
    let watched = history.watched.lock();
    let seen = watched.iter().flat_map(|(_, run)| run.iter().cloned());
    for (version, value) in calls.iter().map(|c| (c.version, c.value.clone())).chain(seen) {
        let known = values.entry(version).or_insert_with(|| value.clone());
        assert_eq!(*known, value, "one version, one value: {version}");
    }
    for write in calls.iter().filter(|c| c.expected.is_some()) {
        let expected = write.expected.unwrap();
        let between = values.range(expected + 1..write.version).next();
        assert_eq!(between, None, "{write:?} replaced what it did not expect");
    }
    // Whoever begins after another has ended sees at least what that one saw.
    calls.sort_by_key(|c| c.from);
    let mut ended: Vec<&Call> = calls.iter().collect();
    ended.sort_by_key(|c| c.to);
    let (mut next, mut newest) = (0, 0);
    for call in &calls {
        while next < ended.len() && ended[next].to < call.from {
            newest = newest.max(ended[next].version);
            next += 1;
        }
        assert!(call.version >= newest, "{call:?} is older than {newest}, which was seen before");
        let is_new = call.expected.is_none() || call.version > newest;
        assert!(is_new, "{call:?} made a version that was there");
    }
    for (start, run) in watched.iter() {
        assert!(
            run.is_sorted_by(|a, b| a.0 < b.0),
            "a watch is ordered, without duplicates: {run:?}"
        );
        let end = run.last().map_or(*start, |(version, _)| *version);
        let complete = values.range(start + 1..=end).map(|(v, text)| (*v, text.clone()));
        assert!(complete.eq(run.iter().cloned()), "a watch from {start} misses changes: {run:?}");
    }
    calls.iter().filter(|c| c.expected.is_some()).count()
}

async fn run(more: Vec<String>, mut disturb: impl FnMut(&mut ServerProcess, &mut StdRng)) {
    let seed = number("FAULT_SEED").unwrap_or_else(rand::random);
    println!("FAULT_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let port = free_port().unwrap();
    let mut server = ServerProcess { dir: dir.path().into(), port, more, process: None };
    server.start();
    let client = server.client().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "register"}, "data": {"value": "0"}}))
            .unwrap();
    eventually("the register", || async { maps.create(&PostParams::default(), &map).await.ok() })
        .await;

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
    let last = eventually("the register", || async { maps.get("register").await.ok() }).await;
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

#[test]
fn the_checker_finds_what_must_not_be() {
    let start = Instant::now();
    let call = |from: u64, to: u64, expected: Option<u64>, version: u64, value: &str| Call {
        from: start + Duration::from_secs(from),
        to: start + Duration::from_secs(to),
        expected,
        version,
        value: value.into(),
    };
    let judge = |calls: &[Call], watched: Vec<(u64, Vec<(u64, String)>)>| {
        let history = History { calls: Mutex::new(calls.to_vec()), watched: Mutex::new(watched) };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&history))).is_ok()
    };
    let good = [
        call(0, 1, None, 5, "a"),
        call(2, 3, Some(5), 7, "b"),
        call(2, 5, None, 5, "a"),
        call(6, 7, None, 7, "b"),
    ];
    assert!(judge(&good, vec![(5, vec![(7, "b".into())])]));
    assert!(!judge(&good, vec![(5, vec![(7, "b".into()), (7, "b".into())])]), "twice");
    let lost = [call(0, 1, Some(5), 7, "b"), call(2, 3, None, 5, "a")];
    assert!(!judge(&lost, Vec::new()), "a lost write");
    let forked = [call(0, 1, Some(5), 7, "b"), call(0, 2, Some(5), 8, "c")];
    assert!(!judge(&forked, Vec::new()), "two writes over one version");
    let three = [call(0, 1, Some(5), 7, "b"), call(2, 3, Some(7), 8, "c")];
    assert!(!judge(&three, vec![(5, vec![(8, "c".into())])]), "a watch with a hole");
}
