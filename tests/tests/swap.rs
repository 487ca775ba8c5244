//! A player of a chart takes over from the built-in one and gives back, while it is at work.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use improv_tests::{Cluster, eventually, repository, run};

const SOON: Duration = Duration::from_secs(60);
const LOW: usize = 1;
const HIGH: usize = 20;

/// Names of all pods of the workload that were ever seen.
struct Watched {
    watch: Child,
    names: Receiver<String>,
    seen: BTreeSet<String>,
}

impl Watched {
    fn start(cluster: &Cluster) -> Self {
        let mut watch = cluster.tool("kubectl");
        watch.args(["get", "pods", "-l", "app=scaled", "-w", "-o", "name"]).stdout(Stdio::piped());
        let mut watch = watch.spawn().unwrap();
        let output = watch.stdout.take().unwrap();
        let (sender, names) = channel();
        std::thread::spawn(move || {
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
                .ok();
        });
        Self { watch, names, seen: BTreeSet::new() }
    }

    fn n_seen(&mut self) -> usize {
        self.seen.extend(self.names.try_iter());
        self.seen.len()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.watch.kill());
        drop(self.watch.wait());
    }
}

fn leader(cluster: &Cluster) -> Result<String, String> {
    cluster.try_kubectl("get lease replicaset -n kube-system -o jsonpath={.spec.holderIdentity}")
}

/// Scales down and up once, and checks that exactly the missing pods were made.
fn scale_once(cluster: &Cluster, watched: &mut Watched, expected: &mut usize) {
    for wanted in [LOW, HIGH] {
        cluster.kubectl(&format!("scale deployment scaled --replicas={wanted}"));
        eventually("the wanted pods are there", SOON, || {
            let ready = cluster.try_kubectl(
                "get deployment scaled -o jsonpath={.status.readyReplicas}/{.status.replicas}",
            )?;
            if ready == format!("{wanted}/{wanted}") { Ok(()) } else { Err(ready) }
        });
    }
    *expected += HIGH - LOW;
    let wanted = *expected;
    eventually("the watch shows them", SOON, || {
        let seen = watched.n_seen();
        if seen >= wanted { Ok(()) } else { Err(format!("{seen} of {wanted}")) }
    });
    assert_eq!(watched.n_seen(), wanted, "a pod was made twice");
}

fn helm(cluster: &Cluster, arguments: &[&str]) {
    println!("{}", run(cluster.tool("helm").args(arguments).args(["-n", "kube-system"])));
}

#[test]
fn replicaset_moves_into_a_chart_and_back() {
    let cluster = Cluster::start(&[]);
    cluster.import_image("hello", "improv.dev/hello:0.1.0");
    for tag in ["0.1.0", "0.1.1"] {
        cluster.import_image("replicaset-controller", &format!("improv.dev/replicaset:{tag}"));
    }
    let built_in = leader(&cluster).unwrap();
    let mut watched = Watched::start(&cluster);
    let mut expected = HIGH;
    cluster.apply(&deployment());
    eventually("the first pods", SOON, || {
        let seen = watched.n_seen();
        if seen == HIGH { Ok(()) } else { Err(seen.to_string()) }
    });

    let chart = repository().join("charts/replicaset").display().to_string();
    helm(&cluster, &["install", "replicaset", &chart]);
    scale_once(&cluster, &mut watched, &mut expected);
    let first = eventually("the chart's pod leads", SOON, || match leader(&cluster)? {
        leader if leader != built_in && !leader.is_empty() => Ok(leader),
        leader => Err(leader),
    });
    scale_once(&cluster, &mut watched, &mut expected);

    helm(&cluster, &["upgrade", "replicaset", &chart, "--set", "image.tag=0.1.1"]);
    scale_once(&cluster, &mut watched, &mut expected);
    eventually("the upgraded pod leads", SOON, || match leader(&cluster)? {
        leader if leader != first && leader != built_in && !leader.is_empty() => Ok(()),
        leader => Err(leader),
    });
    scale_once(&cluster, &mut watched, &mut expected);

    helm(&cluster, &["uninstall", "replicaset"]);
    scale_once(&cluster, &mut watched, &mut expected);
    eventually("the built-in player leads again", SOON, || match leader(&cluster)? {
        leader if leader == built_in => Ok(()),
        leader => Err(leader),
    });
    scale_once(&cluster, &mut watched, &mut expected);
}

fn deployment() -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: scaled}}
spec:
  replicas: {HIGH}
  selector: {{matchLabels: {{app: scaled}}}}
  template:
    metadata: {{labels: {{app: scaled}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: hello
        image: improv.dev/hello:0.1.0
"
    )
}
