//! Whether a pod that is new on the node can run there at all. Pure.
//!
//! The scheduler has seen to it for what it has placed; a pod may also name its node itself.
//!
//! Source: upstream `pkg/kubelet/lifecycle/predicate.go`.

use k8s_openapi::api::core::v1::{ContainerPort, Pod};

/// Reason and message of the failure of a pod that cannot run beside `others`, which are here already.
pub fn refusal<'a>(
    pod: &Pod,
    others: impl IntoIterator<Item = &'a Pod>,
) -> Option<(String, String)> {
    let wanted: Vec<HostPort<'_>> = host_ports(pod).collect();
    let taken = |other: &Pod| host_ports(other).any(|one| wanted.iter().any(|w| w.meets(&one)));
    if wanted.is_empty() || !others.into_iter().any(taken) {
        return None;
    }
    let message = "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports \
                   for the requested pod ports";
    Some(("NodePorts".to_owned(), message.to_owned()))
}

/// A port of the node.
#[derive(Debug, PartialEq, Eq)]
struct HostPort<'a> {
    /// Of the node; empty for all of them.
    address: &'a str,
    protocol: &'a str,
    port: i32,
}

impl HostPort<'_> {
    fn meets(&self, other: &Self) -> bool {
        let any = self.address.is_empty() || other.address.is_empty();
        (self.protocol, self.port) == (other.protocol, other.port)
            && (any || self.address == other.address)
    }
}

/// The ports of the node that a pod takes, with those of its sidecars.
fn host_ports(pod: &Pod) -> impl Iterator<Item = HostPort<'_>> {
    let spec = pod.spec.as_ref();
    let sidecars = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let sidecars = sidecars.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mains = spec.map_or(&[][..], |spec| &spec.containers);
    mains.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten()).filter_map(host_port)
}

fn host_port(port: &ContainerPort) -> Option<HostPort<'_>> {
    let address = port.host_ip.as_deref().unwrap_or_default();
    Some(HostPort {
        address: if matches!(address, "0.0.0.0" | "::") { "" } else { address },
        protocol: port.protocol.as_deref().unwrap_or("TCP"),
        port: port.host_port.filter(|port| *port > 0)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(protocol: &str, address: &str, port: i32) -> Pod {
        let port =
            json!({"containerPort": 80, "hostPort": port, "hostIP": address, "protocol": protocol});
        serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "ports": [port]}]}}))
            .unwrap()
    }

    #[track_caller]
    fn check(new: (&str, &str, i32), other: (&str, &str, i32), is_refused: bool) {
        let (new, other) = (pod(new.0, new.1, new.2), pod(other.0, other.1, other.2));
        assert_eq!(refusal(&new, [&other]).is_some(), is_refused);
    }

    #[test]
    fn a_port_is_taken_by_one_pod() {
        check(("TCP", "", 80), ("TCP", "", 80), true);
        check(("TCP", "", 80), ("TCP", "", 81), false);
        check(("TCP", "", 80), ("UDP", "", 80), false);
        check(("TCP", "10.0.0.1", 80), ("TCP", "10.0.0.2", 80), false);
        check(("TCP", "10.0.0.1", 80), ("TCP", "0.0.0.0", 80), true);
        check(("TCP", "", 0), ("TCP", "", 0), false);
    }
}
