//! `improv down` leaves nothing on the machine, also after a crash, and a second `up` works.

use std::collections::BTreeSet;
use std::process::Command;

use improv_tests::{Cluster, repository, run};

/// What a cluster can leave on a machine, as lines.
fn traces() -> BTreeSet<String> {
    let listings: [&[&str]; 5] = [
        &["ip", "-o", "link"],
        &["ip", "netns"],
        &["nft", "list", "tables"],
        &["findmnt", "-rno", "TARGET"],
        &["find", "/sys/fs/cgroup", "-maxdepth", "2", "-name", "kubepods*"],
    ];
    let mut traces = BTreeSet::new();
    for listing in listings {
        let printed = run(Command::new(listing[0]).args(&listing[1..]));
        // Interfaces have running numbers: only names count.
        let name = |line: &str| match listing[1] {
            "-o" => line.split(": ").nth(1).unwrap_or(line).to_owned(),
            _ => line.to_owned(),
        };
        traces.extend(printed.lines().map(|line| format!("{}: {}", listing[0], name(line))));
    }
    for folder in ["/run", "/run/containerd/runc", "/var/log/pods", "/var/lib"] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        traces.extend(entries.map(|entry| format!("file: {}", entry.path().display())));
    }
    // Shims, loggers, containerd and the cluster's own process all name a folder of the cluster.
    let processes = run(Command::new("ps").args(["-eo", "args"]));
    let ours = processes
        .lines()
        .filter(|line| line.contains("/run/improv") || line.contains("improv-test-"));
    traces.extend(ours.map(|line| format!("process: {line}")));
    traces
}

#[test]
fn down_leaves_nothing() {
    let before = traces();
    for crash in [false, true] {
        let cluster = Cluster::start(&[]);
        cluster.import_image("hello", "improv.dev/hello:0.1.0");
        let hello = repository().join("examples/hello/hello.yaml");
        cluster.kubectl(&format!("apply -f {}", hello.display()));
        cluster.kubectl("rollout status deployment/hello --timeout=30s");
        if crash {
            cluster.kill();
        }
        run(&mut cluster.improv("down"));
        assert!(!cluster.data_dir().exists());
        let left: Vec<String> = traces().difference(&before).cloned().collect();
        assert!(
            left.is_empty(),
            "left after a {}: {left:#?}",
            if crash { "crash" } else { "stop" }
        );

        cluster.up();
        assert!(cluster.kubectl("get nodes").contains("Ready"));
    }
}
