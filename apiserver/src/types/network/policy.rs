//! Network policies.

use ipnet::IpNet;
use schema::Cause;
use serde_json::{Value, json};

use super::super::check::{At, Causes, items, part, text};
use super::super::{Strategy, addresses};

/// Directions of rules, and what their peers are called.
const RULES: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

/// Strategy of `networkpolicies`.
pub(crate) struct Policies;

impl Strategy for Policies {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = part(obj, "spec")
            && items(&spec["policyTypes"]).is_empty()
        {
            let egress = !items(&spec["egress"]).is_empty();
            spec["policyTypes"] =
                if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        }
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        causes.selector(&at.field("podSelector"), &spec["podSelector"]);
        let known = old.map(|old| ranges(&old["spec"])).unwrap_or_default();
        for (list, peers) in RULES {
            let list_at = at.field(list);
            for (n, rule) in items(&spec[list]).iter().enumerate() {
                let at = list_at.index(n);
                let ports = at.field("ports");
                for (n, port) in items(&rule["ports"]).iter().enumerate() {
                    self::port(&mut causes, &ports.index(n), port);
                }
                let peers_at = at.field(peers);
                for (n, peer) in items(&rule[peers]).iter().enumerate() {
                    self::peer(&mut causes, &peers_at.index(n), peer, &known);
                }
            }
        }
        let types = at.field("policyTypes");
        if items(&spec["policyTypes"]).len() > 2 {
            let detail = "may not specify more than two policyTypes";
            causes.invalid(&types, &spec["policyTypes"], detail);
            return causes.0;
        }
        for (n, kind) in items(&spec["policyTypes"]).iter().enumerate() {
            causes.one_of(&types.index(n), kind, &["Ingress", "Egress"]);
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        for (list, peers) in RULES {
            for (n, rule) in items(&obj["spec"][list]).iter().enumerate() {
                for (m, peer) in items(&rule[peers]).iter().enumerate() {
                    let at = format_args!("spec.{list}[{n}].{peers}[{m}].ipBlock");
                    let block = &peer["ipBlock"];
                    let cidr = text(block, "cidr");
                    warnings.extend(addresses::range_warning(format_args!("{at}.cidr"), cidr));
                    for (k, inner) in items(&block["except"]).iter().enumerate() {
                        let inner = inner.as_str().unwrap_or_default();
                        let at = format_args!("{at}.except[{k}]");
                        warnings.extend(addresses::range_warning(at, inner));
                    }
                }
            }
        }
        warnings
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// All ranges that a policy names; what was there once may be there again, whatever it is.
fn ranges(spec: &Value) -> Vec<&Value> {
    let rules = RULES
        .iter()
        .flat_map(|(list, peers)| items(&spec[*list]).iter().flat_map(|rule| items(&rule[*peers])));
    let blocks = rules.map(|peer| &peer["ipBlock"]);
    blocks.flat_map(|block| items(&block["except"]).iter().chain([&block["cidr"]])).collect()
}

fn port(causes: &mut Causes, at: &At<'_>, port: &Value) {
    let (number, end) = (&port["port"], &port["endPort"]);
    causes.one_of(&at.field("protocol"), &port["protocol"], &["TCP", "UDP", "SCTP"]);
    if !number.is_null() {
        causes.port_or_name(&at.field("port"), number);
    }
    if end.is_null() {
        return;
    }
    let at = at.field("endPort");
    match number {
        Value::Null => {
            causes.invalid(&at, end, "may not be specified when `port` is not specified");
        }
        Value::String(_) => {
            causes.invalid(&at, end, "may not be specified when `port` is non-numeric");
        }
        first => {
            if end.as_i64() < first.as_i64() {
                causes.invalid(&at, first, "must be greater than or equal to `port`");
            }
            causes.between(&at, end, 1, 65535);
        }
    }
}

fn peer(causes: &mut Causes, at: &At<'_>, peer: &Value, known: &[&Value]) {
    let (pods, namespaces, block) =
        (&peer["podSelector"], &peer["namespaceSelector"], &peer["ipBlock"]);
    if pods.is_null() && namespaces.is_null() && block.is_null() {
        return causes.required(at, "must specify a peer");
    }
    causes.selector(&at.field("podSelector"), pods);
    causes.selector(&at.field("namespaceSelector"), namespaces);
    if block.is_null() {
        return;
    }
    self::block(causes, &at.field("ipBlock"), block, known);
    if !pods.is_null() || !namespaces.is_null() {
        causes.forbidden(at, "may not specify both ipBlock and another peer");
    }
}

fn block(causes: &mut Causes, at: &At<'_>, block: &Value, known: &[&Value]) {
    let cidr = &block["cidr"];
    if !causes.present(&at.field("cidr"), cidr, "") {
        return;
    }
    if !known.contains(&cidr) {
        causes.range(&at.field("cidr"), cidr);
    }
    let Some(outer) = addresses::loose_range(text(block, "cidr")) else { return };
    let except = at.field("except");
    for (n, inner) in items(&block["except"]).iter().enumerate() {
        let at = except.index(n);
        if !known.contains(&inner) {
            causes.range(&at, inner);
        }
        let range = addresses::loose_range(inner.as_str().unwrap_or_default());
        if range.is_some_and(|range| !is_strict_subset(range, outer)) {
            causes.invalid(&at, inner, "must be a strict subset of `cidr`");
        }
    }
}

/// Whether every address of `inner` is one of `outer`, which has more.
fn is_strict_subset(inner: IpNet, outer: IpNet) -> bool {
    outer.contains(&inner) && inner.prefix_len() > outer.prefix_len()
}

#[test]
fn an_exception_is_a_part_of_its_block() {
    let within = |a: &str, b: &str| is_strict_subset(a.parse().unwrap(), b.parse().unwrap());
    assert!(within("10.1.0.0/16", "10.0.0.0/8"));
    assert!(within("2001:db8:1::/48", "2001:db8::/32"));
    assert!(!within("11.0.0.0/16", "10.0.0.0/8"));
    assert!(!within("10.0.0.0/8", "10.0.0.0/8"));
    assert!(!within("2001:db8::/64", "0.0.0.0/0"));
}

#[test]
fn policies_default_their_types() {
    let mut policy = json!({"spec": {"egress": [{}]}});
    Policies.default(&mut policy);
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
}

#[test]
fn blocks_leave_out_a_part_of_themselves() {
    let policy = json!({"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/16", "10.1.2.3/16"]}}]}]}});
    let fields = |old: Option<&Value>| -> Vec<String> {
        Policies.validate(&policy, old, None).into_iter().map(|c| c.field).collect()
    };
    let at = "spec.ingress[0].from[0].ipBlock.except";
    assert_eq!(fields(None), [format!("{at}[1]"), format!("{at}[2]")]);
    assert_eq!(fields(Some(&policy)), [format!("{at}[1]")]);
}
