//! Which objects a fresh cluster holds, and what is missing from those that are there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::config::{ServiceRanges, family};
use crate::identity::aggregate;
use crate::identity::escalation::missing_rules;
use crate::identity::options::RequestHeaderOptions;

/// An object with this annotation set to `false` is left as it is.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What the objects say about this server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where pods and nodes reach the servers of the cluster, in order; they have one port.
    pub servers: Vec<SocketAddr>,
    /// Port of this server.
    pub port: u16,
    /// Ranges of the service addresses.
    pub service_ranges: ServiceRanges,
    /// Authorities of client certificates, PEM.
    pub client_ca: String,
    /// Authorities of proxies in front of extension servers, PEM; ours among them.
    pub front_proxy_ca: String,
    /// Which of those proxies are believed, and where they say for whom they ask.
    pub front_proxy: RequestHeaderOptions,
    /// The day of today, `2026-01-01`.
    pub today: String,
}

/// The recorded objects of a fresh cluster that are the same everywhere.
///
/// `admin`, `edit` and `view` carry the rules that aggregation gives them, so that they work from
/// the first moment on.
pub static FIXED: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let mut objects: Vec<Value> = serde_json::from_str(include_str!("../../data/bootstrap.json"))
        .unwrap_or_else(|error| {
            // The file is part of the program; a test reads it.
            panic!("data/bootstrap.json is not readable: {error}")
        });
    let roles: Vec<&Value> = objects.iter().filter(|o| o["kind"] == "ClusterRole").collect();
    let rules: BTreeMap<String, Vec<Value>> = aggregate::rules_of_all(&roles);
    for object in &mut objects {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if object["kind"] == "ClusterRole"
            && let Some(rules) = rules.get(name)
        {
            object["rules"] = rules.clone().into();
        }
    }
    objects
});

/// The objects that tell where and who this server is.
pub fn own(settings: &Settings) -> Vec<Value> {
    let service_ip = settings.service_ranges.first_address();
    let (family, service_ip) = (family(service_ip), service_ip.to_string());
    let cidrs: Vec<String> =
        settings.service_ranges.iter().map(|range| range.to_string()).collect();
    let mut objects = vec![
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": "kube-apiserver-legacy-service-account-token-tracking",
                "namespace": "kube-system",
            },
            "data": { "since": settings.today },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": { "component": "apiserver", "provider": "kubernetes" },
            },
            "spec": {
                "ports": [{
                    "name": "https", "protocol": "TCP", "port": 443, "targetPort": settings.port,
                }],
                "clusterIP": service_ip, "clusterIPs": [service_ip],
                "type": "ClusterIP", "sessionAffinity": "None",
                "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
            },
        }),
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": { "name": "kubernetes" },
            "spec": { "cidrs": cidrs },
        }),
    ];
    if let Some(first) = settings.servers.first() {
        objects.extend(endpoints(*first, &settings.servers));
    }
    objects
}

fn endpoints(first: SocketAddr, servers: &[SocketAddr]) -> [Value; 2] {
    let https = json!([{ "name": "https", "protocol": "TCP", "port": first.port() }]);
    // A slice is of one family.
    let alike = servers.iter().map(SocketAddr::ip).filter(|ip| ip.is_ipv4() == first.is_ipv4());
    let ips: Vec<String> = alike.map(|ip| ip.to_string()).collect();
    let addresses: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    let ready = |ip: &String| json!({ "addresses": [ip], "conditions": { "ready": true } });
    let endpoints: Vec<Value> = ips.iter().map(ready).collect();
    [
        json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
            },
            "subsets": [{ "addresses": addresses, "ports": https }],
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": { "kubernetes.io/service-name": "kubernetes" },
            },
            "addressType": family(first.ip()),
            "endpoints": endpoints,
            "ports": https,
        }),
    ]
}

/// What has to be done about one wanted object.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It is as it should be.
    Keep,
    /// Put it there.
    Create,
    /// Write this in place of what is there.
    Update(Value),
    /// What is there cannot be changed into what is wanted: delete it, then create.
    Replace,
}

/// Compares what is wanted with what is there (`None`: nothing is).
///
/// Roles and bindings get back what they lack and keep what was added to them; what says where this
/// server is follows the server; everything else is left alone once it exists.
pub fn step(wanted: &Value, present: Option<&Value>) -> Step {
    let Some(present) = present else { return Step::Create };
    match wanted["kind"].as_str().unwrap_or_default() {
        "ClusterRole" | "Role" | "ClusterRoleBinding" | "RoleBinding" => rbac_step(wanted, present),
        "FlowSchema" | "PriorityLevelConfiguration" => flowcontrol_step(wanted, present),
        "Endpoints" => follow(wanted, present, &["subsets"]),
        "EndpointSlice" => follow(wanted, present, &["endpoints", "ports"]),
        "Service" => {
            let mut next = present.clone();
            let port = &wanted["spec"]["ports"][0]["targetPort"];
            if next["spec"]["ports"][0]["targetPort"] == *port {
                return Step::Keep;
            }
            next["spec"]["ports"][0]["targetPort"] = port.clone();
            Step::Update(next)
        }
        // One that says something else is somebody's wish; but a cluster may get its second family.
        "ServiceCIDR" => {
            let (now, cidrs) = (&present["spec"]["cidrs"], &wanted["spec"]["cidrs"]);
            let grows = *now == json!([cidrs[0]]) && cidrs[1].is_string();
            if !grows {
                return Step::Keep;
            }
            let mut next = present.clone();
            next["spec"]["cidrs"] = cidrs.clone();
            Step::Update(next)
        }
        _ => Step::Keep,
    }
}

/// Whether the default ServiceCIDR says what is wanted, stays, and nobody has said yet whether it is ready.
pub(super) fn unjudged(wanted: &Value, present: &Value) -> bool {
    let conditions = present["status"]["conditions"].as_array().map(Vec::as_slice);
    let ready = conditions.unwrap_or_default().iter().find(|c| c["type"] == "Ready");
    wanted["spec"]["cidrs"] == present["spec"]["cidrs"]
        && present["metadata"]["deletionTimestamp"].is_null()
        && ready.is_none_or(|ready| ready["status"] == "Unknown")
}

/// By this annotation a FlowSchema or PriorityLevelConfiguration is the server's to keep.
const KEPT: &str = "apf.kubernetes.io/autoupdate-spec";

/// What the annotation says, if it says anything.
fn is_kept_for(object: &Value) -> Option<bool> {
    match object["metadata"]["annotations"][KEPT].as_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Whether a FlowSchema or PriorityLevelConfiguration is one that an older server has made and kept, and that
/// this one does not know any more.
///
/// Source: `RemoveUnwantedObjects` in upstream `pkg/registry/flowcontrol/ensurer/strategy.go`.
pub fn is_obsolete(kind: &str, object: &Value) -> bool {
    let same = |wanted: &&Value| {
        wanted["kind"] == *kind && wanted["metadata"]["name"] == object["metadata"]["name"]
    };
    is_kept_for(object) == Some(true) && !FIXED.iter().any(|wanted| same(&wanted))
}

/// What holds the server together is always as recorded; the rest only while nobody has said otherwise: by the
/// annotation, or by a change of the object.
///
/// Source: upstream `pkg/registry/flowcontrol/ensurer/strategy.go`.
fn flowcontrol_step(wanted: &Value, present: &Value) -> Step {
    let mandatory = matches!(wanted["metadata"]["name"].as_str(), Some("exempt" | "catch-all"));
    let said = is_kept_for(present);
    let unchanged = present["metadata"]["generation"] == 1;
    let update = mandatory || said.unwrap_or(unchanged);
    let mut next = present.clone();
    if said != Some(update) {
        let annotation: Value = json!({ KEPT: update.to_string() });
        add_members(&mut next["metadata"], "annotations", &annotation);
    }
    if update && !contains(&present["spec"], &wanted["spec"]) {
        next["spec"] = wanted["spec"].clone();
    }
    if next == *present { Step::Keep } else { Step::Update(next) }
}

/// Updates `fields` unless they contain all that is wanted.
fn follow(wanted: &Value, present: &Value, fields: &[&str]) -> Step {
    let mut next = present.clone();
    for field in fields {
        if !contains(&present[*field], &wanted[*field]) {
            next[*field] = wanted[*field].clone();
        }
    }
    if next == *present { Step::Keep } else { Step::Update(next) }
}

/// Whether `whole` has every member of `part`; lists must have the same length.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|w| contains(w, value)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(w, p)| contains(w, p))
        }
        _ => whole == part,
    }
}

fn rbac_step(wanted: &Value, present: &Value) -> Step {
    if present["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return Step::Keep;
    }
    if wanted.get("roleRef") != present.get("roleRef") {
        return Step::Replace;
    }
    let mut next = present.clone();
    for part in ["labels", "annotations"] {
        add_members(&mut next["metadata"], part, &wanted["metadata"][part]);
    }
    if wanted.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
        let selectors = "/aggregationRule/clusterRoleSelectors";
        if wanted.pointer(selectors) != next.pointer(selectors) {
            next["aggregationRule"] = wanted["aggregationRule"].clone();
        }
    } else if wanted.get("rules").is_some() {
        let missing = missing_rules(present, wanted);
        add_items(&mut next, "rules", missing);
    }
    if let Some(subjects) = wanted.get("subjects").and_then(Value::as_array) {
        let there = present["subjects"].as_array().map(Vec::as_slice).unwrap_or_default();
        let missing = subjects.iter().filter(|s| !there.contains(s)).cloned().collect();
        add_items(&mut next, "subjects", missing);
    }
    if next == *present { Step::Keep } else { Step::Update(next) }
}

fn add_members(object: &mut Value, field: &str, members: &Value) {
    let Some(members) = members.as_object().filter(|m| !m.is_empty()) else { return };
    if !object[field].is_object() {
        object[field] = Map::new().into();
    }
    for (key, value) in members {
        object[field][key] = value.clone();
    }
}

fn add_items(object: &mut Value, field: &str, items: Vec<Value>) {
    if items.is_empty() {
        return;
    }
    match &mut object[field] {
        Value::Array(there) => there.extend(items),
        other => *other = items.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            servers: vec!["192.0.2.1:6443".parse().unwrap()],
            port: 6443,
            service_ranges: ServiceRanges::default(),
            client_ca: "CA".into(),
            front_proxy_ca: "FP".into(),
            front_proxy: RequestHeaderOptions::default(),
            today: "2026-01-01".into(),
        }
    }

    #[test]
    fn a_second_start_has_nothing_to_do() {
        for object in FIXED.iter().chain(&own(&settings())) {
            assert_eq!(step(object, Some(object)), Step::Keep, "{}", object["metadata"]["name"]);
            assert_eq!(step(object, None), Step::Create);
        }
    }

    #[test]
    fn a_cluster_may_get_a_second_family() {
        let cidrs = |ranges: &str| {
            let settings = Settings { service_ranges: ranges.parse().unwrap(), ..settings() };
            own(&settings).into_iter().find(|object| object["kind"] == "ServiceCIDR").unwrap()
        };
        let dual = cidrs("10.96.0.0/16,fd00::/112");
        let Step::Update(next) = step(&dual, Some(&cidrs("10.96.0.0/16"))) else { panic!() };
        assert_eq!(next["spec"]["cidrs"], json!(["10.96.0.0/16", "fd00::/112"]));
        for (wanted, present) in [
            ("fd00::/112,10.96.0.0/16", "10.96.0.0/16"),
            ("10.96.0.0/16", "10.96.0.0/16,fd00::/112"),
            ("10.97.0.0/16", "10.96.0.0/16"),
        ] {
            assert_eq!(step(&cidrs(wanted), Some(&cidrs(present))), Step::Keep, "{wanted}");
        }
    }

    #[test]
    fn the_aggregated_roles_have_the_recorded_rules() {
        let recorded: BTreeMap<String, Vec<Value>> =
            serde_json::from_str(include_str!("../../data/aggregated-rules.json")).unwrap();
        for (name, rules) in recorded {
            let is_it = |o: &&Value| o["kind"] == "ClusterRole" && o["metadata"]["name"] == name;
            let role = FIXED.iter().find(is_it).unwrap();
            assert_eq!(role["rules"], Value::from(rules), "{name}");
        }
    }

    #[test]
    fn a_role_gets_back_what_it_lacks_and_keeps_what_it_has() {
        let rule =
            |verbs: &[&str]| json!({ "verbs": verbs, "apiGroups": [""], "resources": ["pods"] });
        let wanted = json!({
            "kind": "ClusterRole", "metadata": { "name": "r", "labels": { "a": "b" } },
            "rules": [rule(&["get", "list"]), rule(&["delete"])],
        });
        let present = json!({
            "kind": "ClusterRole", "metadata": { "name": "r", "labels": { "x": "y" } },
            "rules": [rule(&["get", "list", "watch"])],
        });
        let Step::Update(next) = step(&wanted, Some(&present)) else { panic!("no update") };
        assert_eq!(next["rules"], json!([rule(&["get", "list", "watch"]), rule(&["delete"])]));
        assert_eq!(next["metadata"]["labels"], json!({ "a": "b", "x": "y" }));
        let mut frozen = present;
        frozen["metadata"]["annotations"] = json!({ AUTOUPDATE: "false" });
        assert_eq!(step(&wanted, Some(&frozen)), Step::Keep);
    }

    #[test]
    fn schemas_follow_the_server_until_somebody_says_otherwise() {
        let is_it = |o: &&Value| {
            o["kind"] == "PriorityLevelConfiguration" && o["metadata"]["name"] == "system"
        };
        let wanted = FIXED.iter().find(is_it).unwrap();
        let changed = |annotation: Value, generation: u64| {
            let mut present = wanted.clone();
            present["metadata"]["generation"] = generation.into();
            present["metadata"]["annotations"] = annotation;
            present["spec"]["limited"]["nominalConcurrencyShares"] = 1.into();
            present
        };
        const KEY: &str = "apf.kubernetes.io/autoupdate-spec";
        let check =
            |present: Value, expected: Option<(u64, &str)>| match step(wanted, Some(&present)) {
                Step::Keep => assert_eq!(expected, None),
                Step::Update(next) => {
                    let shares = &next["spec"]["limited"]["nominalConcurrencyShares"];
                    let annotation = next["metadata"]["annotations"][KEY].as_str().unwrap();
                    assert_eq!(Some((shares.as_u64().unwrap(), annotation)), expected);
                }
                other => panic!("{other:?}"),
            };
        check(changed(json!({ KEY: "true" }), 2), Some((30, "true")));
        check(changed(json!({ KEY: "false" }), 2), None);
        check(changed(json!({}), 1), Some((30, "true")));
        check(changed(json!({}), 2), Some((1, "false")));
    }

    #[test]
    fn a_binding_to_another_role_is_replaced() {
        let binding = |role: &str, subjects: Value| {
            json!({ "kind": "ClusterRoleBinding", "metadata": { "name": "b" },
                "roleRef": { "kind": "ClusterRole", "name": role }, "subjects": subjects })
        };
        let wanted = binding("a", json!([{ "kind": "User", "name": "u" }]));
        assert_eq!(step(&wanted, Some(&binding("x", json!([])))), Step::Replace);
        let Step::Update(next) = step(&wanted, Some(&binding("a", json!([])))) else { panic!() };
        assert_eq!(next, wanted);
    }

    #[test]
    fn the_endpoints_follow_the_servers() {
        let first = own(&settings());
        let servers = ["192.0.2.2:7443", "192.0.2.3:7443"].map(|text| text.parse().unwrap());
        let moved = own(&Settings { servers: servers.to_vec(), port: 7443, ..settings() });
        let changed: Vec<&str> = first
            .iter()
            .zip(&moved)
            .filter(|(old, new)| step(new, Some(old)) != Step::Keep)
            .map(|(_, new)| new["kind"].as_str().unwrap())
            .collect();
        assert_eq!(changed, ["Service", "Endpoints", "EndpointSlice"]);
    }
}
