//! The agent's own nftables table: masquerading, and host ports by maps. One table, removed as one.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Config;
use crate::runtime::{HostPort, Protocol};

/// A host port that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forward {
    pub(super) pod: Ipv4Addr,
    pub(super) ports: Vec<HostPort>,
}

/// The whole table, for the start of the agent; `forwards` are those of the pods that are there.
///
/// Traffic from pods to outside the cluster is masqueraded. Host ports are found in two maps: with and without an
/// address of the node. A pod that reaches itself through its host port is masqueraded too, since an answer to
/// itself would never pass the node.
pub(super) fn table(config: &Config, forwards: &[Forward]) -> String {
    let (table, bridge) = (config.table(), config.bridge());
    let (pods, cluster) = (config.pod_cidr, config.cluster_cidr);
    let mut script = format!(
        "table ip {table}\n\
         delete table ip {table}\n\
         table ip {table} {{\n\
         \tmap ports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}\n\
         \tmap ports-at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}\n\
         \tset themselves {{ type ipv4_addr . ipv4_addr; }}\n\
         \tchain forward-ports {{\n\
         \t\tdnat ip to ip daddr . meta l4proto . th dport map @ports-at\n\
         \t\tdnat ip to meta l4proto . th dport map @ports\n\
         \t}}\n\
         \tchain prerouting {{\n\
         \t\ttype nat hook prerouting priority -100; policy accept;\n\
         \t\tfib daddr type local jump forward-ports\n\
         \t}}\n\
         \tchain output {{\n\
         \t\ttype nat hook output priority -100; policy accept;\n\
         \t\tfib daddr type local jump forward-ports\n\
         \t}}\n\
         \tchain guard {{\n\
         \t\ttype filter hook input priority 0; policy accept;\n\
         \t\tiifname \"{bridge}\" ip daddr 127.0.0.0/8 ct state != {{ established, related }} drop\n\
         \t}}\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority 100; policy accept;\n\
         \t\tip saddr . ip daddr @themselves masquerade\n\
         \t\tip saddr 127.0.0.0/8 oifname \"{bridge}\" masquerade\n\
         \t\tip saddr {pods} ip daddr != {cluster} ip daddr != 224.0.0.0/4 oifname != \"{bridge}\" masquerade\n\
         \t}}\n\
         }}\n"
    );
    for forward in forwards {
        script += &add(&table, forward);
    }
    script
}

/// Adds the elements of a pod.
pub(super) fn add(table: &str, forward: &Forward) -> String {
    elements("add", table, forward)
}

/// Removes the elements of a pod.
pub(super) fn remove(table: &str, forward: &Forward) -> String {
    elements("delete", table, forward)
}

fn elements(verb: &str, table: &str, forward: &Forward) -> String {
    let Forward { pod, ports } = forward;
    let mut script = String::new();
    for port in ports {
        let (protocol, from, to) = (name(port.protocol), port.host_port, port.container_port);
        script += &match port.host_ip {
            Some(IpAddr::V4(ip)) if !ip.is_unspecified() => {
                format!(
                    "{verb} element ip {table} ports-at {{ {ip} . {protocol} . {from} : {pod} . {to} }}\n"
                )
            }
            Some(IpAddr::V6(ip)) if !ip.is_unspecified() => continue, // The pods have no IPv6 address.
            _ => format!(
                "{verb} element ip {table} ports {{ {protocol} . {from} : {pod} . {to} }}\n"
            ),
        };
    }
    if !script.is_empty() {
        script += &format!("{verb} element ip {table} themselves {{ {pod} . {pod} }}\n");
    }
    script
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// Runs a script as one transaction.
pub(super) async fn run(script: &str) -> io::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run nft: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "nft refused the rules: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

/// Removes the table, if it is there.
pub(super) async fn remove_table(table: &str) -> io::Result<()> {
    run(&format!("table ip {table}\ndelete table ip {table}\n")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_become_elements() {
        let port = |host_ip: Option<&str>, host_port, protocol| HostPort {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
            container_port: 80,
            protocol,
        };
        let forward = Forward {
            pod: Ipv4Addr::new(10, 1, 0, 2),
            ports: vec![
                port(None, 8080, Protocol::Tcp),
                port(Some("192.0.2.1"), 53, Protocol::Udp),
            ],
        };
        assert_eq!(
            add("t", &forward),
            "add element ip t ports { tcp . 8080 : 10.1.0.2 . 80 }\n\
             add element ip t ports-at { 192.0.2.1 . udp . 53 : 10.1.0.2 . 80 }\n\
             add element ip t themselves { 10.1.0.2 . 10.1.0.2 }\n"
        );
        assert_eq!(remove("t", &Forward { ports: vec![], ..forward }), "");
    }
}
