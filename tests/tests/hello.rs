//! The main job: one command gives a cluster, one more gives three pods behind one address.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use improv_tests::{Cluster, eventually, free_port, repository, run};

const SOON: Duration = Duration::from_secs(30);

/// What a plain HTTP GET of `/` answers.
fn get(address: impl ToSocketAddrs) -> std::io::Result<String> {
    let address = address.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200") {
        true => Ok(answer.rsplit("\r\n").next().unwrap_or_default().trim().to_owned()),
        false => Err(std::io::Error::other(answer)),
    }
}

fn ready_pods(cluster: &Cluster) -> Result<(), String> {
    let ready = cluster.kubectl("get deployment hello -o jsonpath={.status.readyReplicas}");
    if ready == "3" { Ok(()) } else { Err(cluster.kubectl("get pods -o wide")) }
}

#[test]
fn hello_is_served() {
    let cluster = Cluster::start(&[]);
    println!("{}", cluster.kubectl("get nodes -o wide"));
    cluster.import_image("hello", "improv.dev/hello:0.1.0");

    let began = Instant::now();
    cluster.kubectl(&format!("apply -f {}/examples/hello/hello.yaml", repository().display()));
    eventually("three pods are ready", SOON, || ready_pods(&cluster));
    println!("ready {:?} after apply", began.elapsed());

    let cluster_ip = cluster.kubectl("get service hello -o jsonpath={.spec.clusterIP}");
    let node_port = cluster.kubectl("get service hello -o jsonpath={.spec.ports[0].nodePort}");
    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].status.addresses[0].address}");
    for address in [format!("{cluster_ip}:80"), format!("{node}:{node_port}")] {
        eventually("the address answers", SOON, || get(&address));
        let answers: BTreeSet<String> = (0..1000).map(|_| get(&address).unwrap()).collect();
        assert_eq!(answers.len(), 3, "{address} answered by {answers:?}");
    }

    rolls_without_a_failed_request(&cluster, &format!("{cluster_ip}:80"));
    names_and_shell(&cluster);

    let pod = eventually("the old pods are gone", SOON, || {
        let pods = cluster.kubectl("get pods -l app=hello -o jsonpath={.items[*].metadata.name}");
        let names: Vec<_> = pods.split(' ').collect();
        if names.len() == 3 { Ok(names[0].to_owned()) } else { Err(pods) }
    });
    assert!(cluster.kubectl(&format!("logs {pod}")).contains("listens on"));
    assert!(cluster.kubectl("get deployment hello").contains("3/3"));
    port_forward(&cluster, &pod);

    cluster.kubectl(&format!("delete -f {}/examples/hello/hello.yaml", repository().display()));
    eventually("nothing is left", SOON, || {
        let left = cluster.kubectl("get all,configmaps,endpointslices -l app=hello -o name");
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

/// Asks all the time while a new version rolls out.
fn rolls_without_a_failed_request(cluster: &Cluster, address: &str) {
    cluster.import_image("hello", "improv.dev/hello:0.2.0");
    cluster.kubectl("set image deployment/hello hello=improv.dev/hello:0.2.0");
    let mut rollout = cluster.tool("kubectl");
    let mut rollout =
        rollout.args(["rollout", "status", "deployment/hello", "--timeout=60s"]).spawn().unwrap();
    let mut n_requests = 0;
    let done = loop {
        get(address).unwrap_or_else(|error| panic!("request {n_requests} failed: {error}"));
        n_requests += 1;
        if let Some(done) = rollout.try_wait().unwrap() {
            break done;
        }
    };
    assert!(done.success() && n_requests > 100, "{done}, {n_requests} requests");
    println!("{n_requests} requests during the rollout, none failed");
}

/// From a pod: the Service has a name and answers; `exec` carries input, output and the exit code.
fn names_and_shell(cluster: &Cluster) {
    let archive = cluster.data_dir().join("busybox.tar");
    let mut build = cluster_program("improv");
    build.args([
        "image",
        "build",
        "--name=improv.dev/busybox:1",
        "--binary=/bin/busybox",
        "--user=0",
        "--output",
    ]);
    run(build.arg(&archive));
    run(cluster.improv("image import").arg(&archive));
    cluster.apply(BOX);
    cluster.kubectl("wait --for=condition=Ready pod/box --timeout=30s");
    let inside = |command: &str| {
        cluster.try_kubectl(&format!("exec box -- /usr/local/bin/busybox {command}"))
    };
    let found = inside("nslookup hello.default.svc.cluster.local").unwrap();
    let cluster_ip = cluster.kubectl("get service hello -o jsonpath={.spec.clusterIP}");
    assert!(found.contains(&cluster_ip), "{found}");
    assert!(inside("wget -qO- http://hello/").unwrap().starts_with("hello from hello-"));
    assert!(inside("false").unwrap_err().contains("exit code 1"));
    cluster.kubectl("delete pod box --grace-period=0 --force");
}

fn cluster_program(name: &str) -> std::process::Command {
    std::process::Command::new(improv_tests::program(name))
}

const BOX: &str = "
apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  containers:
  - name: box
    image: improv.dev/busybox:1
    args: [sleep, '3600']
";

fn port_forward(cluster: &Cluster, pod: &str) {
    let port = free_port();
    let mut forward = cluster.tool("kubectl");
    forward.args(["port-forward", &format!("pod/{pod}"), &format!("{port}:8080")]);
    let mut forward = forward.stdout(std::process::Stdio::null()).spawn().unwrap();
    let answer = eventually("the forwarded port answers", SOON, || get(("127.0.0.1", port)));
    forward.kill().unwrap();
    forward.wait().unwrap();
    assert!(answer.contains(pod), "{answer}");
}
