//! Every process can be killed at any instant: acknowledged writes stay, containers run on, work goes on.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::time::Duration;

use improv_tests::{Cluster, eventually, repository};

const SOON: Duration = Duration::from_secs(60);
const N_CRASHES: u64 = 10;

/// Whether the rollout is complete; if not, how the pods are, which tell what it waits for.
fn rolled_out(cluster: &Cluster) -> Result<(), String> {
    let status = cluster.try_kubectl("rollout status deployment/hello --timeout=1s");
    status.map(drop).map_err(|status| {
        let pods = cluster.try_kubectl("get pods -l app=hello -o yaml");
        format!("{status}{}", pods.unwrap_or_else(|error| error))
    })
}

/// Container ids of the pods with label `app=<app>`, sorted.
fn containers(cluster: &Cluster, app: &str) -> Result<Vec<String>, String> {
    let path = "jsonpath={.items[*].status.containerStatuses[0].containerID}";
    let ids = cluster.try_kubectl(&format!("get pods -l app={app} -o {path}"))?;
    let mut ids: Vec<String> = ids.split_whitespace().map(str::to_owned).collect();
    ids.sort();
    Ok(ids)
}

#[test]
fn a_rollout_survives_ten_crashes() {
    let cluster = Cluster::start(&[]);
    for tag in ["0.1.0", "0.2.0"] {
        cluster.import_image("hello", &format!("improv.dev/hello:{tag}"));
    }
    let hello = std::fs::read_to_string(repository().join("examples/hello/hello.yaml")).unwrap();
    cluster.apply(&hello);
    cluster
        .apply(&hello.replace("name: hello", "name: steady").replace("app: hello", "app: steady"));
    eventually("the first rollout", SOON, || rolled_out(&cluster));
    let ready = "rollout status deployment/steady --timeout=1s";
    eventually("the steady pods", SOON, || cluster.try_kubectl(ready));
    let steady = containers(&cluster, "steady").unwrap();
    assert_eq!(steady.len(), 3);

    for n in 0..N_CRASHES {
        let tag = if n % 2 == 0 { "0.2.0" } else { "0.1.0" };
        cluster.kubectl(&format!("set image deployment/hello hello=improv.dev/hello:{tag}"));
        cluster.kubectl(&format!("create configmap acknowledged-{n}"));
        // A random moment is the point here, not a wait for something.
        std::thread::sleep(Duration::from_millis(rand::random_range(0..1500)));
        cluster.kill();
        cluster.up();
        for n in 0..=n {
            cluster.kubectl(&format!("get configmap acknowledged-{n}"));
        }
        eventually("the rollout completes", SOON, || rolled_out(&cluster));
        eventually("the steady containers are known", SOON, || {
            let now = containers(&cluster, "steady")?;
            if now == steady {
                Ok(())
            } else {
                Err(format!("crash {n}: {now:?} instead of {steady:?}"))
            }
        });
    }
}
