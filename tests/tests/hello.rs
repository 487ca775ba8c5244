//! The main job: one command gives a cluster, one more gives three pods behind one address.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use improv_tests::{Cluster, eventually, free_port, repository};

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

    let pod = cluster.kubectl("get pods -l app=hello -o jsonpath={.items[0].metadata.name}");
    assert!(cluster.kubectl(&format!("logs {pod}")).contains("listens on"));
    assert!(cluster.kubectl("get deployment hello").contains("3/3"));
    port_forward(&cluster, &pod);

    cluster.kubectl(&format!("delete -f {}/examples/hello/hello.yaml", repository().display()));
    eventually("nothing is left", SOON, || {
        let left = cluster.kubectl("get all,configmaps,endpointslices -l app=hello -o name");
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

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
