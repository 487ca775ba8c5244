//! The rules in a real kernel: in a network namespace of the test's own, so that the machine's rules stay alone.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::net::IpAddr;
use std::time::Duration;

use kube_proxy::nft::apply::Tables;
use kube_proxy::plan::{Endpoint, PortId, Protocol, ServicePort};

/// Runs `test` on a thread of its own in a fresh network namespace.
///
/// `nft` is started by that thread, so it lands in the same namespace.
fn in_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    let run = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    };
    std::thread::spawn(run).join().unwrap();
}

fn service(endpoints: &[&str], affinity: Option<u64>) -> ServicePort {
    let endpoints: Vec<Endpoint> = endpoints
        .iter()
        .map(|ip| Endpoint { ip: ip.parse::<IpAddr>().unwrap(), port: 8080 })
        .collect();
    ServicePort {
        id: PortId {
            namespace: "default".into(),
            service: "web".into(),
            port: "http".into(),
            protocol: Protocol::Tcp,
        },
        cluster_ips: vec!["10.96.0.9".parse().unwrap(), "fd00:96::9".parse().unwrap()],
        port: 80,
        node_port: Some(30080),
        affinity: affinity.map(Duration::from_secs),
        internal: endpoints.clone(),
        external: endpoints,
        keeps_source: false,
    }
}

async fn ruleset() -> String {
    let output =
        tokio::process::Command::new("nft").args(["list", "ruleset"]).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_shape_of_rules_is_taken_by_the_kernel_and_leaves_nothing() {
    in_namespace(async || {
        let mut tables =
            Tables::new("improv-test", &["10.244.0.0/16".into(), "fd00:244::/64".into()]);
        let both = ["10.244.0.2", "10.244.0.3", "fd00:244::2"];
        for ports in [
            vec![],
            vec![service(&both, None)],
            vec![service(&both[1..], Some(10))],
            vec![service(&both, Some(20))],
            vec![service(&[], None)],
            vec![],
        ] {
            tables.sync(&ports).await.unwrap();
            assert!(tables.is_intact().await);
        }
        let left = ruleset().await;
        assert!(!left.contains("endpoint/") && !left.contains("10.96.0.9"), "{left}");
        tables.delete().await.unwrap();
        assert_eq!(ruleset().await, "");
    });
}

async fn run(command: &str) {
    let mut words = command.split(' ');
    let mut program = tokio::process::Command::new(words.next().unwrap());
    assert!(program.args(words).status().await.unwrap().success(), "{command}");
}

/// What no port of a Service stands for is refused, rather than sent to whoever has the default route.
#[test]
fn strays_are_refused() {
    in_namespace(async || {
        for command in [
            "ip link set lo up",
            "ip link add name d0 type veth peer name d1",
            "ip address add 10.9.0.1/24 dev d0",
            "ip link set d0 up",
            "ip link set d1 up",
            "ip route add default via 10.9.0.2",
            "ip neighbour add 10.9.0.2 lladdr 02:00:00:00:00:01 dev d0",
        ] {
            run(command).await;
        }
        let listener = tokio::net::TcpListener::bind("10.9.0.1:8080").await.unwrap();
        let mut tables = Tables::new("improv-test", &[]);
        tables.sync(&[service(&["10.9.0.1"], None)]).await.unwrap();
        let connect = async |address: &'static str| {
            let connecting = tokio::net::TcpStream::connect(address);
            tokio::time::timeout(Duration::from_secs(5), connecting).await.expect("an answer")
        };
        let (served, _) = tokio::join!(connect("10.96.0.9:80"), listener.accept());
        served.unwrap();
        let refused = connect("10.96.0.9:81").await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_flush_by_somebody_else_is_seen_and_mended() {
    in_namespace(async || {
        let mut tables = Tables::new("improv-test", &[]);
        let ports = [service(&["10.244.0.2"], None)];
        tables.sync(&ports).await.unwrap();
        let before = ruleset().await;
        let flush =
            tokio::process::Command::new("nft").args(["flush", "ruleset"]).status().await.unwrap();
        assert!(flush.success() && !tables.is_intact().await);
        tables.sync(&ports).await.unwrap();
        assert_eq!(ruleset().await, before);
    });
}

#[test]
fn a_new_process_takes_over_what_an_old_one_left() {
    in_namespace(async || {
        let ports = [service(&["10.244.0.2"], None)];
        Tables::new("improv-test", &[]).sync(&[service(&["10.244.0.9"], Some(5))]).await.unwrap();
        Tables::new("improv-test", &[]).sync(&ports).await.unwrap();
        let rules = ruleset().await;
        assert!(rules.contains("10.244.0.2") && !rules.contains("10.244.0.9"), "{rules}");
    });
}
