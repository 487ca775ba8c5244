//! Sends the recorded cases of tests/parity to a server and compares its answers with those of Kubernetes 1.36.2.
//!
//! See tests/parity/README.md for the variables that choose cases and server.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod case;
mod compare;
mod normalise;
mod run;

use std::fmt::Write as _;
use std::path::Path;

use apiserver::{Config, Server};

use run::Clients;

/// Differences that are shown of a case that fails.
const SHOWN: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_those_of_kubernetes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let wanted = std::env::var("PARITY").unwrap_or_default();
    let mut cases = case::load(&root.join("tests/parity/cases"));
    cases.retain(|case| case.name.contains(&wanted));
    assert!(!cases.is_empty(), "no case is called {wanted:?}");
    let folder = tempfile::tempdir().unwrap();
    let (server, kubeconfig) = match std::env::var("PARITY_KUBECONFIG") {
        Ok(path) => (None, std::fs::read_to_string(path).unwrap()),
        Err(_) => {
            let server = start(&root.join("crds"), folder.path()).await;
            let kubeconfig = server.kubeconfig("system:admin").unwrap();
            (Some(server), kubeconfig)
        }
    };
    let clients = Clients::new(&kubeconfig).await;
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
    if let Some(server) = server {
        server.shutdown().await;
    }
    let n_passed = cases.len() - n_failed;
    assert_eq!(n_failed, 0, "{n_passed} cases passed, {n_failed} failed:\n{report}");
}

/// An API server as `improv up --players none --nodes 0` has it: a store on disk, and this project's types.
async fn start(crds: &Path, folder: &Path) -> Server {
    let mut files: Vec<_> =
        std::fs::read_dir(crds).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let crds = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let config = Config {
        data_dir: Some(folder.to_owned()),
        bind: Some(([127, 0, 0, 1], 0).into()),
        crds,
        ..Config::default()
    };
    Server::start(config).await.unwrap()
}
