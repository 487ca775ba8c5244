//! The `nft` script that leads from one rule set to another, in one transaction. Pure.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;

use super::Family;
use super::rules::{Map, Rules};
use crate::plan::{Protocol, ServicePort};

/// Mark of packets whose source must become this node's; one bit, so that others keep theirs.
const MASQUERADE_MARK: &str = "0x4000";

/// Replaces whatever is in `table` by `rules`.
#[must_use]
pub fn create(family: Family, table: &str, rules: &Rules) -> String {
    let ip = family.keyword();
    let mut script =
        format!("add table {ip} {table}\ndelete table {ip} {table}\ntable {ip} {table} {{\n");
    for map in Map::ALL {
        let key = map.key_type(family);
        line(&mut script, &format!("map {} {{ type {key} : verdict; }}", map.name()));
    }
    for fixed in fixed_chains(family) {
        line(&mut script, &fixed);
    }
    script.push_str("}\n");
    script.push_str(&update(family, table, &Rules::default(), rules));
    script
}

/// Leads from `old`, which the table holds, to `new`. Empty if they are equal.
#[must_use]
pub fn update(family: Family, table: &str, old: &Rules, new: &Rules) -> String {
    let ip = family.keyword();
    let mut script = String::new();
    let mut say = |command: String| line(&mut script, &command);
    for (set, seconds) in
        new.sets.iter().filter(|(set, seconds)| old.sets.get(*set) != Some(*seconds))
    {
        if old.sets.contains_key(set) {
            say(format!("flush set {ip} {table} {set}"));
            continue;
        }
        let kind = family.address_type();
        say(format!(
            "add set {ip} {table} {set} {{ type {kind}; flags dynamic,timeout; timeout {seconds}s; }}"
        ));
    }
    let changed =
        || new.chains.iter().filter(|(chain, rules)| old.chains.get(*chain) != Some(*rules));
    for (chain, _) in changed() {
        say(format!("add chain {ip} {table} {chain}"));
        if old.chains.contains_key(chain) {
            say(format!("flush chain {ip} {table} {chain}"));
        }
    }
    for (chain, rules) in changed() {
        for rule in rules {
            say(format!("add rule {ip} {table} {chain} {rule}"));
        }
    }
    for map in Map::ALL {
        update_map(
            &mut say,
            &format!("{ip} {table} {}", map.name()),
            old.maps.get(&map),
            new.maps.get(&map),
        );
    }
    let gone = || old.chains.keys().filter(|chain| !new.chains.contains_key(*chain));
    for chain in gone() {
        say(format!("flush chain {ip} {table} {chain}"));
    }
    for chain in gone() {
        say(format!("delete chain {ip} {table} {chain}"));
    }
    for set in old.sets.keys().filter(|set| !new.sets.contains_key(*set)) {
        say(format!("delete set {ip} {table} {set}"));
    }
    script
}

/// UDP flows whose endpoint stopped serving: (Service address, Service port, endpoint address).
#[must_use]
pub fn stale_udp_flows(old: &[ServicePort], new: &[ServicePort]) -> Vec<(IpAddr, u16, IpAddr)> {
    let flows = |ports: &[ServicePort]| -> BTreeSet<(IpAddr, u16, IpAddr)> {
        let udp = ports.iter().filter(|port| port.id.protocol == Protocol::Udp);
        udp.flat_map(|port| {
            let to = |address: &IpAddr| {
                let address = *address;
                port.internal.iter().map(move |endpoint| (address, port.port, endpoint.ip))
            };
            port.cluster_ips.iter().flat_map(to).collect::<Vec<_>>()
        })
        .collect()
    };
    flows(old).difference(&flows(new)).copied().collect()
}

type Elements = std::collections::BTreeMap<String, String>;

fn update_map(
    say: &mut impl FnMut(String),
    map: &str,
    old: Option<&Elements>,
    new: Option<&Elements>,
) {
    let value = |elements: Option<&Elements>, key: &str| elements.and_then(|e| e.get(key)).cloned();
    for (key, verdict) in old.into_iter().flatten() {
        if value(new, key).as_ref() != Some(verdict) {
            say(format!("delete element {map} {{ {key} }}"));
        }
    }
    for (key, verdict) in new.into_iter().flatten() {
        if value(old, key).as_ref() != Some(verdict) {
            say(format!("add element {map} {{ {key} : {verdict} }}"));
        }
    }
}

/// Chains that never change: the hooks, and the look-ups in the maps.
fn fixed_chains(family: Family) -> Vec<String> {
    let ip = family.keyword();
    let loopback = family.loopback();
    let at_node = format!("fib daddr type local {ip} daddr != {loopback}");
    let hook = |name: &str, kind: &str, hook: &str, priority: &str, rules: &str| {
        format!("chain {name} {{ type {kind} hook {hook} priority {priority}; {rules}; }}")
    };
    let refuse = "ct state new jump refusals";
    vec![
        "chain refuse { reject; }".into(),
        format!("chain mark-for-masquerade {{ meta mark set meta mark or {MASQUERADE_MARK}; }}"),
        format!(
            "chain services {{ {ip} daddr . meta l4proto . th dport vmap @service-ips; \
             {at_node} meta l4proto . th dport vmap @service-nodeports; }}"
        ),
        format!(
            "chain refusals {{ {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services; \
             {at_node} meta l4proto . th dport vmap @no-endpoint-nodeports; }}"
        ),
        hook("nat-prerouting", "nat", "prerouting", "dstnat", "jump services"),
        hook("nat-output", "nat", "output", "-100", "jump services"),
        hook(
            "nat-postrouting",
            "nat",
            "postrouting",
            "srcnat",
            &format!(
                "meta mark & {MASQUERADE_MARK} == {MASQUERADE_MARK} meta mark set meta mark xor {MASQUERADE_MARK} \
                 masquerade fully-random"
            ),
        ),
        // Only behind the rewriting of destinations is it known that no port takes a packet.
        format!("chain strays {{ {ip} daddr vmap @cluster-ips; }}"),
        hook("filter-input", "filter", "input", "-110", refuse),
        hook(
            "filter-forward",
            "filter",
            "forward",
            "-110",
            &format!("{refuse}; ct state new jump strays"),
        ),
        hook("filter-output", "filter", "output", "-110", refuse),
        hook("filter-output-late", "filter", "output", "-90", "ct state new jump strays"),
    ]
}

fn line(script: &mut String, text: &str) {
    let _ = writeln!(script, "{text}"); // Writing to a string cannot fail.
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::nft::rules::rules;
    use crate::plan::{Endpoint, PortId};

    fn port(endpoints: &[&str]) -> ServicePort {
        let endpoints: Vec<Endpoint> =
            endpoints.iter().map(|ip| Endpoint { ip: ip.parse().unwrap(), port: 8080 }).collect();
        ServicePort {
            id: PortId {
                namespace: "ns".into(),
                service: "web".into(),
                port: "http".into(),
                protocol: Protocol::Tcp,
            },
            cluster_ips: vec!["10.96.0.9".parse().unwrap()],
            port: 80,
            node_port: None,
            affinity: None,
            internal: endpoints.clone(),
            external: endpoints,
            keeps_source: false,
        }
    }

    fn of(ports: &[ServicePort]) -> Rules {
        rules(Family::V4, ports, &[])
    }

    #[track_caller]
    fn check(old: &[ServicePort], new: &[ServicePort], expected: &[&str]) {
        let script = update(Family::V4, "t", &of(old), &of(new));
        assert_eq!(script.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn nothing_changes_nothing() {
        check(&[port(&["10.0.0.2"])], &[port(&["10.0.0.2"])], &[]);
    }

    #[test]
    fn a_new_service_gets_chains_before_the_map_points_to_them() {
        check(
            &[],
            &[port(&["10.0.0.2"])],
            &[
                "add chain ip t endpoint/ns/web/tcp/http/10.0.0.2/8080",
                "add chain ip t service/ns/web/tcp/http",
                "add rule ip t endpoint/ns/web/tcp/http/10.0.0.2/8080 ip saddr 10.0.0.2 jump mark-for-masquerade",
                "add rule ip t endpoint/ns/web/tcp/http/10.0.0.2/8080 meta l4proto tcp dnat to 10.0.0.2:8080",
                "add rule ip t service/ns/web/tcp/http numgen random mod 1 vmap { 0 : goto endpoint/ns/web/tcp/http/10.0.0.2/8080 }",
                "add element ip t service-ips { 10.96.0.9 . tcp . 80 : goto service/ns/web/tcp/http }",
                "add element ip t cluster-ips { 10.96.0.9 : goto refuse }",
            ],
        );
    }

    #[test]
    fn the_last_endpoint_gone_turns_service_into_refusal() {
        check(
            &[port(&["10.0.0.2"])],
            &[port(&[])],
            &[
                "delete element ip t service-ips { 10.96.0.9 . tcp . 80 }",
                "add element ip t no-endpoint-services { 10.96.0.9 . tcp . 80 : goto refuse }",
                "flush chain ip t endpoint/ns/web/tcp/http/10.0.0.2/8080",
                "flush chain ip t service/ns/web/tcp/http",
                "delete chain ip t endpoint/ns/web/tcp/http/10.0.0.2/8080",
                "delete chain ip t service/ns/web/tcp/http",
            ],
        );
    }

    #[test]
    fn sticky_clients_are_looked_up_first() {
        let sticky = ServicePort { affinity: Some(Duration::from_secs(10)), ..port(&["10.0.0.2"]) };
        let rules = of(&[sticky]);
        let service = &rules.chains["service/ns/web/tcp/http"];
        assert_eq!(
            service[0],
            "ip saddr @affinity/ns/web/tcp/http/10.0.0.2/8080 goto endpoint/ns/web/tcp/http/10.0.0.2/8080"
        );
        assert_eq!(rules.sets["affinity/ns/web/tcp/http/10.0.0.2/8080"], 10);
    }

    #[test]
    fn udp_flows_to_gone_endpoints_are_stale() {
        let udp = |endpoints: &[&str]| {
            let mut port = port(endpoints);
            port.id.protocol = Protocol::Udp;
            vec![port]
        };
        let stale = stale_udp_flows(&udp(&["10.0.0.2", "10.0.0.3"]), &udp(&["10.0.0.3"]));
        assert_eq!(stale, [("10.96.0.9".parse().unwrap(), 80, "10.0.0.2".parse().unwrap())]);
        assert_eq!(stale_udp_flows(&[port(&["10.0.0.2"])], &[]), []);
    }

    #[test]
    fn long_names_stay_apart_and_legal() {
        let long = |port_name: &str| {
            let mut port = port(&["10.0.0.2"]);
            port.id.namespace = "n".repeat(63);
            port.id.service = "s".repeat(63);
            port.id.port = port_name.into();
            port
        };
        let rules = of(&[long("a"), long("b")]);
        assert_eq!(rules.chains.len(), 4);
        assert!(rules.chains.keys().all(|name| name.len() <= 127));
    }
}
