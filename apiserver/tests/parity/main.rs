//! Sends the recorded cases of tests/parity to a server and compares its answers with those of Kubernetes 1.36.2.
//!
//! See tests/parity/README.md for the variables that choose cases and server.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod case;
mod compare;
mod normalise;
mod run;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use apiserver::{Config, Server, storage};
use store::EtcdOptions;
use store::testing::Etcd;

use run::Clients;

/// Differences that are shown of a case that fails.
const SHOWN: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_those_of_kubernetes() {
    if let Some(path) = running() {
        return replay(&std::fs::read_to_string(path).unwrap()).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let data_dir = Some(folder.path().to_owned());
    replay_alone(Config { data_dir, ..Config::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_the_same_on_etcd() {
    if running().is_some() {
        return; // That server has its store.
    }
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(folder.path(), 1).unwrap();
    let options = EtcdOptions { endpoints: etcd.endpoints(), ..EtcdOptions::default() };
    let storage = storage::Options { etcd: Some(options), ..storage::Options::default() };
    replay_alone(Config { storage, ..Config::default() }).await;
}

/// The kubeconfig of a server that runs already, if it is to be asked.
fn running() -> Option<OsString> {
    std::env::var_os("PARITY_KUBECONFIG")
}

/// Replays on an API server as `improv up --players none --nodes 0` has it: with this project's types.
async fn replay_alone(config: Config) {
    let mut files: Vec<_> = std::fs::read_dir(root().join("crds"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let crds = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let bind = Some(([127, 0, 0, 1], 0).into());
    let server = Server::start(Config { bind, crds, ..config }).await.unwrap();
    replay(&server.kubeconfig("system:admin").unwrap()).await;
    server.shutdown().await;
}

async fn replay(kubeconfig: &str) {
    let wanted = std::env::var("PARITY").unwrap_or_default();
    let mut cases = case::load(&root().join("tests/parity/cases"));
    cases.retain(|case| case.name.contains(&wanted));
    assert!(!cases.is_empty(), "no case is called {wanted:?}");
    let clients = Clients::new(kubeconfig).await;
    let mut report = String::new();
    let mut n_failed = 0;
    for (n, case) in cases.iter().enumerate() {
        let namespace = format!("pt-{:05}-{n:03}", std::process::id() % 100_000);
        let found = run::run(&clients, case, namespace).await;
        if found.is_empty() {
            continue;
        }
        n_failed += 1;
        writeln!(report, "{}", case.name).unwrap();
        for line in found.iter().take(SHOWN + 1) {
            writeln!(report, "    {line}").unwrap();
        }
        if found.len() > SHOWN + 1 {
            writeln!(report, "    … {} more", found.len() - SHOWN - 1).unwrap();
        }
    }
    let n_passed = cases.len() - n_failed;
    assert_eq!(n_failed, 0, "{n_passed} cases passed, {n_failed} failed:\n{report}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
