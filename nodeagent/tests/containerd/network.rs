//! Pods reach each other, the node, and are reached.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use kit::testing::eventually;
use nodeagent::network::Mode;
use nodeagent::runtime::{HostPort, Protocol, Runtime, SandboxSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{World, free_port, output, sandbox_spec, uid, until};

/// A server that answers its pod's name.
const SERVER: &str = "hostname > /index.html; exec httpd -f -p 80 -h /";

fn ask(address: IpAddr, port: u16) -> std::io::Result<String> {
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.rsplit("\r\n").next().unwrap_or_default().to_owned())
}

async fn answers(address: IpAddr, port: u16, expected: &str) {
    until(&format!("{address}:{port} answers {expected}"), || {
        ask(address, port).ok().filter(|text| text.trim() == expected)
    })
    .await;
}

fn node_address() -> Option<IpAddr> {
    output("ip", &["-4", "-o", "addr", "show", "scope", "global"])
        .lines()
        .filter(|line| !line.contains("improv"))
        .find_map(|line| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_each_other_and_are_reached() {
    let world = World::start().await;
    let port = free_port();
    let ports = vec![HostPort {
        host_ip: None,
        host_port: port,
        container_port: 80,
        protocol: Protocol::Tcp,
    }];
    let server = world
        .runtime()
        .create_sandbox(&SandboxSpec { ports, ..sandbox_spec("server") })
        .await
        .unwrap();
    let client = world.sandbox("client").await;
    let server_id = world.run("server", SERVER).await;
    let id = world.run("client", "exec sleep 1000").await;
    answers(server.ips[0], 80, "server").await;
    let output = world
        .exec(&id, &format!("wget -qO- http://{}/; ip route; ip -o addr show eth0", server.ips[0]))
        .await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("server\n")
            && text.contains("default via")
            && text.contains(&format!("{}/32", client.ips[0])),
        "{text}"
    );
    // Host ports: from the node by both kinds of addresses, from another pod, and from the pod itself.
    answers("127.0.0.1".parse().unwrap(), port, "server").await;
    if let Some(node) = node_address() {
        answers(node, port, "server").await;
        for pod in [&id, &server_id] {
            let script = format!("wget -qO- http://{node}:{port}/");
            let output = world.exec(pod, &script).await;
            assert_eq!(String::from_utf8_lossy(&output.stdout), "server\n");
        }
    }
    world.runtime().remove_sandbox(&uid("server")).await.unwrap();
    assert!(ask("127.0.0.1".parse().unwrap(), port).is_err());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hardware_addresses_follow_from_ip_addresses() {
    let world = World::start().await;
    let pod = world.sandbox("p").await;
    let id = world.run("p", "exec sleep 1000").await;
    let mac = |ip: IpAddr| {
        let octets: Vec<String> = ip
            .to_string()
            .split('.')
            .map(|n| format!("{:02x}", n.parse::<u8>().unwrap()))
            .collect();
        format!("0a:58:{}", octets.join(":"))
    };
    let inside = world.exec(&id, "ip link show eth0").await.stdout;
    let inside = String::from_utf8(inside).unwrap();
    assert!(inside.contains(&mac(pod.ips[0])), "{inside}");
    // The bridge has now a port whose own address is any, lower ones included.
    let network = &world.options.network;
    let bridge = output("ip", &["link", "show", &network.bridge()]);
    assert!(bridge.contains(&mac(network.pod_cidr.gateway().into())), "{bridge}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_do_not_reach_the_loopback_of_their_node() {
    let world = World::start().await;
    world.sandbox("p").await;
    let network = &world.options.network;
    // A pod with rights over its network can send to 127.0.0.1 by way of the node.
    let namespace = world.options.state_dir.join("sandboxes").join(uid("p")).join("net");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let script = format!(
        "ip address flush dev lo && echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet && \
         ip route add 127.0.0.1 via {gateway} && \
         if timeout 1 bash -c 'echo > /dev/tcp/127.0.0.1/{port}'; then echo reached; else echo refused; fi",
        gateway = network.pod_cidr.gateway(),
        port = listener.local_addr().unwrap().port(),
    );
    let net = format!("--net={}", namespace.display());
    let said = output("nsenter", &[&net, "sh", "-c", &script]);
    assert_eq!(said, "refused\n");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn router_advertisements_of_pods_are_not_believed() {
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        return eprintln!("skipped: this kernel has no IPv6");
    }
    let world = World::start().await;
    world.sandbox("p").await;
    let namespace = world.options.state_dir.join("sandboxes").join(uid("p")).join("net");
    let net = format!("--net={}", namespace.display());
    let of_pod = output("nsenter", &[&net, "cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra"]);
    let bridge = world.options.network.bridge();
    let of_node =
        std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{bridge}/accept_ra")).unwrap();
    assert_eq!((of_pod.as_str(), of_node.as_str()), ("0\n", "0\n"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_ports_lead_to_loopback() {
    let world = World::start().await;
    world.sandbox("p").await;
    world.run("p", "while true; do echo hello | nc -l -p 8080; done").await;
    let dial = async || world.runtime().dial(&uid("p"), 8080).await;
    let mut stream = eventually(Duration::from_secs(10), dial).await;
    stream.write_all(b"x").await.unwrap();
    let mut got = [0; 6];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello\n");
    let error = world.runtime().dial(&uid("p"), 9).await.err().unwrap().to_string();
    assert!(error.starts_with("failed to connect to localhost:9 inside the pod"), "{error}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_to_elsewhere_is_masqueraded() {
    let world = World::start().await;
    world.sandbox("p").await;
    let id = world.run("p", "exec sleep 1000").await;
    // Elsewhere is a namespace behind a link of the node, which knows no way to the pods.
    let cluster = world.options.network.cluster.clone();
    let (near, far) = (format!("{cluster}a"), format!("{cluster}b"));
    let elsewhere = Elsewhere::new(&cluster, &near, &far);
    let listener = elsewhere.listen();
    world.exec(&id, "echo hi | nc -w 5 198.51.100.2 7000").await;
    let peer = tokio::task::spawn_blocking(move || listener.join().unwrap()).await.unwrap();
    assert_eq!(peer.to_string(), "198.51.100.1");
    drop(elsewhere);
    world.end().await;
}

/// A network namespace behind a veth pair.
struct Elsewhere(String);

impl Elsewhere {
    fn new(name: &str, near: &str, far: &str) -> Self {
        let ip = |arguments: &str| {
            let words: Vec<&str> = arguments.split_whitespace().collect();
            let status = std::process::Command::new("ip").args(&words).status().unwrap();
            assert!(status.success(), "ip {arguments}");
        };
        ip(&format!("netns add {name}"));
        ip(&format!("link add {near} type veth peer name {far} netns {name}"));
        ip(&format!("addr add 198.51.100.1/30 dev {near}"));
        ip(&format!("link set {near} up"));
        ip(&format!("-n {name} addr add 198.51.100.2/30 dev {far}"));
        ip(&format!("-n {name} link set {far} up"));
        Self(name.to_owned())
    }

    /// Listens inside; the thread answers who came.
    fn listen(&self) -> std::thread::JoinHandle<IpAddr> {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.0)).unwrap();
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let listener = TcpListener::bind("198.51.100.2:7000").unwrap();
            ready.send(()).unwrap();
            listener.accept().unwrap().1.ip()
        });
        started.recv().unwrap();
        thread
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cni_plugins_wire_pods_too() {
    let mut world = World::start().await;
    let cluster = world.options.network.cluster.clone();
    let cni = world.folder.path().join("net.conflist");
    let config = serde_json::json!({
        "cniVersion": "0.4.0", "name": format!("cni{cluster}"),
        "plugins": [
            {"type": "bridge", "bridge": world.options.network.bridge(), "isGateway": true,
             "ipam": {"type": "host-local", "dataDir": world.folder.path().join("leases"),
                      "ranges": [[{"subnet": world.options.network.pod_cidr.to_string()}]],
                      "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    std::fs::write(&cni, config.to_string()).unwrap();
    world.options.network.mode =
        Mode::Cni { config: cni, plugin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()] };
    world.restart_client().await;
    let sandbox = world.sandbox("p").await;
    world.run("p", SERVER).await;
    answers(sandbox.ips[0], 80, "p").await;
    world.restart_client().await;
    world.runtime().remove_sandbox(&uid("p")).await.unwrap();
    let leases = output(
        "find",
        &[&world.folder.path().join("leases").display().to_string(), "-name", "172.*"],
    );
    assert_eq!(leases, "");
    world.end().await;
}
