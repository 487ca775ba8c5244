//! Which API servers are alive, as their Leases tell.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// By this label the Leases of API servers are found.
pub(super) const IDENTITY: &str = "apiserver.kubernetes.io/identity";

/// Where a server is reached.
const ADDRESS: &str = "improv.dev/advertise-address";

/// A server that has not renewed its Lease for so long gets no requests.
const ALIVE_SECONDS: i64 = 30;

/// How long a Lease stays, for people to see.
const LEASE_SECONDS: i64 = 3600;

/// The name of a host's server, as upstream derives it: nothing of the host's name shows.
pub(super) fn identity(host: &str) -> String {
    let digest = Sha256::digest(host);
    let hex: String = digest.iter().take(13).map(|byte| format!("{byte:02x}")).collect();
    format!("apiserver-{hex}")
}

/// The Lease of a server, renewed; `present` is what is there.
pub(super) fn lease(
    host: &str,
    address: SocketAddr,
    holder: &str,
    now: Timestamp,
    present: Option<&Value>,
) -> Value {
    let mut lease = present.cloned().unwrap_or_else(|| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": identity(host), "namespace": "kube-system" },
        })
    });
    let metadata = &mut lease["metadata"];
    metadata["labels"][IDENTITY] = "kube-apiserver".into();
    metadata["labels"]["kubernetes.io/hostname"] = host.into();
    metadata["annotations"][ADDRESS] = address.to_string().into();
    lease["spec"] = json!({
        "holderIdentity": format!("{}_{holder}", identity(host)),
        "leaseDurationSeconds": LEASE_SECONDS,
        "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
    });
    lease
}

/// The addresses of the servers that are alive, in order. Endpoints have one port: that of most servers, of equals the
/// lowest.
pub(super) fn alive(leases: &[Value], now: Timestamp) -> Vec<SocketAddr> {
    let mut of_port: BTreeMap<u16, Vec<SocketAddr>> = BTreeMap::new();
    for lease in leases.iter().filter(|lease| age(lease, now) < ALIVE_SECONDS) {
        let address = lease["metadata"]["annotations"][ADDRESS].as_str();
        if let Some(address) = address.and_then(|text| text.parse::<SocketAddr>().ok()) {
            of_port.entry(address.port()).or_default().push(address);
        }
    }
    let mut most = of_port.into_values().rev().max_by_key(Vec::len).unwrap_or_default();
    most.sort();
    most.dedup();
    most
}

/// Whether a Lease is of a server that went long ago.
pub(super) fn is_left_over(lease: &Value, now: Timestamp) -> bool {
    age(lease, now) > lease["spec"]["leaseDurationSeconds"].as_i64().unwrap_or(LEASE_SECONDS)
}

/// Seconds since a Lease was renewed.
fn age(lease: &Value, now: Timestamp) -> i64 {
    let renewed = lease["spec"]["renewTime"].as_str().and_then(|text| text.parse().ok());
    renewed.map_or(i64::MAX, |renewed: Timestamp| now.duration_since(renewed).as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn server(host: &str, address: &str, renewed: i64) -> Value {
        lease(host, address.parse().unwrap(), "x", at(renewed), None)
    }

    fn texts(leases: &[Value], now: i64) -> Vec<String> {
        alive(leases, at(now)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_silent_server_is_left_out() {
        let leases = [server("b", "192.0.2.2:6443", 0), server("a", "192.0.2.1:6443", 9)];
        assert_eq!(texts(&leases, 10), ["192.0.2.1:6443", "192.0.2.2:6443"]);
        assert_eq!(texts(&leases, 35), ["192.0.2.1:6443"]);
        assert!(!is_left_over(&leases[0], at(3600)) && is_left_over(&leases[0], at(3601)));
    }

    #[test]
    fn one_port_is_told() {
        let mut leases = vec![server("a", "192.0.2.1:7443", 0), server("b", "192.0.2.2:6443", 0)];
        assert_eq!(texts(&leases, 1), ["192.0.2.2:6443"]);
        leases.push(server("c", "192.0.2.3:7443", 0));
        assert_eq!(texts(&leases, 1), ["192.0.2.1:7443", "192.0.2.3:7443"]);
    }

    #[test]
    fn a_restarted_server_renews_the_lease_of_the_host() {
        let mut before = server("a", "192.0.2.1:6443", 0);
        before["metadata"]["resourceVersion"] = "7".into();
        let after = lease("a", "192.0.2.1:7443".parse().unwrap(), "y", at(5), Some(&before));
        assert_eq!(after["metadata"]["name"], before["metadata"]["name"]);
        assert_eq!(after["metadata"]["resourceVersion"], "7");
        assert_eq!(texts(&[after], 6), ["192.0.2.1:7443"]);
    }
}
