use std::fmt::Write as _;

use k8s_openapi::api::discovery::v1::Endpoint;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.iter()
                .for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from.clone(),
    }
}

fn service(with: &Value) -> Arc<Service> {
    let mut service = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "s", "labels": {"app": "web"}},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1",
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    });
    merge(&mut service, with);
    Arc::new(serde_json::from_value(service).unwrap())
}

/// A ready pod on node `a`, whose port `http` is 8080.
fn pod(number: usize, with: &Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": format!("p{number}"), "namespace": "n", "uid": format!("u{number:04}"),
            "labels": {"app": "web"}},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"podIP": format!("10.1.{}.{}", number / 250, number % 250),
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    merge(&mut pod, with);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn plain(number: usize) -> Arc<Pod> {
    pod(number, &json!({}))
}

fn unready() -> Value {
    json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
}

fn terminating() -> Value {
    json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
}

fn observed(service: Arc<Service>, pods: &[Arc<Pod>]) -> Observed {
    let zones = [("a".to_owned(), Some("z".to_owned()))].into();
    Observed { service, pods: pods.to_vec(), zones, slices: Vec::new(), endpoints: None }
}

/// Applies actions as the server would.
fn apply(observed: &mut Observed, actions: Vec<Action>, counter: &mut usize) {
    for action in actions {
        match action {
            Action::CreateSlice(mut slice) => {
                *counter += 1;
                slice.metadata.name = Some(format!("web-{counter:03}"));
                slice.metadata.uid = slice.metadata.name.clone();
                observed.slices.push(Arc::from(slice));
            }
            Action::UpdateSlice(slice) => {
                let at = observed.slices.iter().position(|s| s.name_any() == slice.name_any());
                observed.slices[at.unwrap()] = Arc::from(slice);
            }
            Action::DeleteSlice { name, .. } => observed.slices.retain(|s| s.name_any() != name),
            Action::CreateEndpoints(e) | Action::UpdateEndpoints(e) => {
                observed.endpoints = Some(Arc::from(e));
            }
        }
    }
}

fn render_endpoint(endpoint: &Endpoint) -> String {
    let mut text = endpoint.addresses.join("+");
    let conditions = endpoint.conditions.clone().unwrap();
    for (flag, on) in [
        ("unready", conditions.ready == Some(false)),
        ("unserving", conditions.serving == Some(false)),
        ("terminating", conditions.terminating == Some(true)),
    ] {
        if on {
            write!(text, " {flag}").unwrap();
        }
    }
    for (name, value) in [
        ("node", &endpoint.node_name),
        ("zone", &endpoint.zone),
        ("hostname", &endpoint.hostname),
        ("pod", &endpoint.target_ref.as_ref().and_then(|r| r.name.clone())),
    ] {
        if let Some(value) = value {
            write!(text, " {name}={value}").unwrap();
        }
    }
    let hints = endpoint.hints.iter().flat_map(|h| h.for_zones.iter().flatten());
    hints.for_each(|zone| write!(text, " for={}", zone.name).unwrap());
    text
}

fn render_slice(slice: &EndpointSlice) -> String {
    let ports = slice.ports.iter().flatten().map(|p| {
        format!(
            "{}:{}/{}",
            p.name.as_deref().unwrap(),
            p.port.unwrap(),
            p.protocol.as_deref().unwrap()
        )
    });
    let mut text = format!("{} {}\n", slice.address_type, ports.collect::<Vec<_>>().join(","));
    for endpoint in slice.endpoints.iter().flatten() {
        writeln!(text, "  {}", render_endpoint(endpoint)).unwrap();
    }
    text
}

fn render_endpoints(endpoints: &Endpoints) -> String {
    let mut text = String::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = subset.ports.iter().flatten().map(|p| {
            format!(
                "{}:{}/{}",
                p.name.as_deref().unwrap_or("-"),
                p.port,
                p.protocol.as_deref().unwrap()
            )
        });
        writeln!(text, "{}", ports.collect::<Vec<_>>().join(",")).unwrap();
        for (list, mark) in [(&subset.addresses, ""), (&subset.not_ready_addresses, " unready")] {
            for address in list.iter().flatten() {
                writeln!(text, "  {}{mark}", address.ip).unwrap();
            }
        }
    }
    text
}

/// All slices that a fresh cluster gets for the Service, and then nothing more to do.
#[track_caller]
fn check(service: Arc<Service>, pods: &[Arc<Pod>], expected: &str) {
    let mut world = observed(service, pods);
    let actions = plan(&world);
    apply(&mut world, actions, &mut 0);
    assert_eq!(world.slices.iter().map(|s| render_slice(s)).collect::<String>(), expected);
    assert_eq!(plan(&world), [], "settled");
}

/// The Endpoints object that a fresh cluster gets for the Service.
#[track_caller]
fn check_endpoints(service: Arc<Service>, pods: &[Arc<Pod>], expected: &str) {
    let mut world = observed(service, pods);
    let actions = plan(&world);
    apply(&mut world, actions, &mut 0);
    assert_eq!(render_endpoints(world.endpoints.as_ref().unwrap()), expected);
}

#[test]
fn a_ready_pod_is_an_endpoint() {
    let pods = [plain(1)];
    check(service(&json!({})), &pods, "IPv4 http:8080/TCP\n  10.1.0.1 node=a zone=z pod=p1\n");
    check_endpoints(service(&json!({})), &pods, "http:8080/TCP\n  10.1.0.1\n");
}

#[test]
fn conditions_tell_how_a_pod_stands() {
    let pods = [
        pod(1, &unready()),
        pod(2, &terminating()),
        pod(3, &json!({"status": {"phase": "Succeeded"}})),
        pod(4, &json!({"status": {"podIP": ""}})),
        pod(5, &json!({"spec": {"nodeName": "gone"}})),
    ];
    check(
        service(&json!({})),
        &pods,
        "IPv4 http:8080/TCP\n  10.1.0.1 unready unserving node=a zone=z pod=p1\n  \
         10.1.0.2 unready terminating node=a zone=z pod=p2\n",
    );
    check_endpoints(service(&json!({})), &pods, "http:8080/TCP\n  10.1.0.5\n  10.1.0.1 unready\n");
}

#[test]
fn unready_pods_can_be_published_as_ready() {
    let publish = json!({"spec": {"publishNotReadyAddresses": true}});
    let pods = [pod(1, &unready()), pod(2, &terminating())];
    check(
        service(&publish),
        &pods,
        "IPv4 http:8080/TCP\n  10.1.0.1 unserving node=a zone=z pod=p1\n  \
         10.1.0.2 terminating node=a zone=z pod=p2\n",
    );
    check_endpoints(service(&publish), &pods, "http:8080/TCP\n  10.1.0.1\n  10.1.0.2\n");
}

#[test]
fn without_pods_an_empty_slice_stays() {
    check(service(&json!({})), &[], "IPv4 \n");
    check_endpoints(service(&json!({})), &[], "");
}

#[test]
fn named_ports_group_pods_that_differ_in_them() {
    let other = json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 9090}]}]}});
    let none = json!({"spec": {"containers": [{"name": "c"}]}});
    let pods = [plain(1), pod(2, &other), plain(3), pod(4, &none)];
    check(
        service(&json!({})),
        &pods,
        "IPv4 \n  10.1.0.4 node=a zone=z pod=p4\nIPv4 http:8080/TCP\n  10.1.0.1 node=a zone=z pod=p1\n  \
         10.1.0.3 node=a zone=z pod=p3\nIPv4 http:9090/TCP\n  10.1.0.2 node=a zone=z pod=p2\n",
    );
    check_endpoints(
        service(&json!({})),
        &pods,
        "http:8080/TCP\n  10.1.0.1\n  10.1.0.3\nhttp:9090/TCP\n  10.1.0.2\n",
    );
}

#[test]
fn a_number_or_nothing_is_a_port_too() {
    let ports = |ports: Value| service(&json!({"spec": {"ports": ports}}));
    check(
        ports(json!([{"port": 80}])),
        &[plain(1)],
        "IPv4 :80/TCP\n  10.1.0.1 node=a zone=z pod=p1\n",
    );
    check(
        ports(
            json!([{"name": "a", "port": 53, "targetPort": 5353, "protocol": "UDP"}, {"name": "b", "port": 53, "targetPort": 0}]),
        ),
        &[plain(1)],
        "IPv4 a:5353/UDP,b:53/TCP\n  10.1.0.1 node=a zone=z pod=p1\n",
    );
}

#[test]
fn both_families_get_their_slices() {
    let dual = json!({"spec": {"ipFamilies": ["IPv4", "IPv6"]}});
    let ips = json!({"status": {"podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]}});
    check(
        service(&dual),
        &[pod(1, &ips)],
        "IPv4 http:8080/TCP\n  10.1.0.1 node=a zone=z pod=p1\nIPv6 http:8080/TCP\n  fd00::1 node=a zone=z pod=p1\n",
    );
}

#[test]
fn headless_services_name_their_pods() {
    let headless = service(&json!({"spec": {"clusterIP": "None", "ports": null}}));
    let named = json!({"spec": {"hostname": "web-0", "subdomain": "web"}});
    let elsewhere = json!({"spec": {"hostname": "web-1", "subdomain": "db"}});
    let pods = [pod(1, &named), pod(2, &elsewhere)];
    check(
        Arc::clone(&headless),
        &pods,
        "IPv4 \n  10.1.0.1 node=a zone=z hostname=web-0 pod=p1\n  10.1.0.2 node=a zone=z pod=p2\n",
    );
    check_endpoints(Arc::clone(&headless), &pods, "\n  10.1.0.1\n  10.1.0.2\n");
    let mut world = observed(headless, &pods);
    let actions = plan(&world);
    apply(&mut world, actions, &mut 0);
    assert_eq!(world.slices[0].labels().get(HEADLESS).map(String::as_str), Some(""));
    assert_eq!(world.endpoints.unwrap().labels().get(HEADLESS).map(String::as_str), Some(""));
}

#[test]
fn traffic_distribution_becomes_hints() {
    let close = json!({"spec": {"trafficDistribution": "PreferClose"}});
    check(
        service(&close),
        &[plain(1), pod(2, &unready())],
        "IPv4 http:8080/TCP\n  10.1.0.1 node=a zone=z pod=p1 for=z\n  \
         10.1.0.2 unready unserving node=a zone=z pod=p2\n",
    );
}

#[test]
fn some_services_are_not_ours() {
    for with in [
        json!({"spec": {"selector": null}}),
        json!({"spec": {"type": "ExternalName"}}),
        terminating(),
    ] {
        assert_eq!(plan(&observed(service(&with), &[plain(1)])), [], "{with}");
    }
}

#[test]
fn slices_carry_labels_and_owner() {
    let mut world = observed(service(&json!({"metadata": {"labels": {HEADLESS: "x"}}})), &[]);
    let actions = plan(&world);
    apply(&mut world, actions, &mut 0);
    let slice = &world.slices[0];
    let expected = json!({"app": "web", "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"});
    assert_eq!(json!(slice.labels()), expected);
    assert_eq!(slice.metadata.generate_name.as_deref(), Some("web-"));
    let owner = &slice.owner_references()[0];
    assert_eq!((owner.uid.as_str(), owner.controller), ("s", Some(true)));
    world.service = service(&json!({"metadata": {"labels": {"tier": "front"}}}));
    assert!(matches!(&plan(&world)[..], [Action::UpdateSlice(_), Action::UpdateEndpoints(_)]));
}

#[track_caller]
fn check_writes(world: &Observed, expected: &str) {
    let kinds = plan(world).into_iter().map(|action| match action {
        Action::CreateSlice(s) => format!("create {}", s.endpoints.iter().flatten().count()),
        Action::UpdateSlice(s) => {
            format!("update {} {}", s.name_any(), s.endpoints.iter().flatten().count())
        }
        Action::DeleteSlice { name, .. } => format!("delete {name}"),
        Action::CreateEndpoints(_) | Action::UpdateEndpoints(_) => "endpoints".to_owned(),
    });
    assert_eq!(kinds.collect::<Vec<_>>().join(", "), expected);
}

#[test]
fn one_pod_more_or_less_writes_one_slice() {
    let mut world = observed(service(&json!({})), &(0..150).map(plain).collect::<Vec<_>>());
    check_writes(&world, "create 100, create 50, endpoints");
    let actions = plan(&world);
    apply(&mut world, actions, &mut 0);
    world.pods.push(plain(150));
    check_writes(&world, "update web-002 51, endpoints");
    world.pods.remove(0);
    check_writes(&world, "update web-001 100, endpoints");
    world.pods.truncate(99);
    check_writes(&world, "update web-001 99, delete web-002, endpoints");
    world.pods.clear();
    world.endpoints = None;
    check_writes(&world, "create 0, delete web-001, delete web-002, endpoints");
}

#[test]
fn too_many_addresses_are_cut_in_endpoints_only() {
    let mut world = observed(service(&json!({})), &(0..1001).map(plain).collect::<Vec<_>>());
    let actions = plan(&world);
    apply(&mut world, actions, &mut 0);
    assert_eq!(
        world.slices.iter().map(|s| s.endpoints.iter().flatten().count()).sum::<usize>(),
        1001
    );
    let endpoints = world.endpoints.clone().unwrap();
    assert_eq!(endpoints.subsets.as_ref().unwrap()[0].addresses.as_ref().unwrap().len(), 1000);
    assert_eq!(endpoints.annotations()["endpoints.kubernetes.io/over-capacity"], "truncated");
    assert_eq!(plan(&world), []);
}

proptest! {
    /// From any state to any other, one plan is enough, every endpoint is in exactly one slice, and none is too large.
    #[test]
    fn plans_converge(rounds in proptest::collection::vec(proptest::collection::btree_set(0..350_usize, 0..350), 1..5)) {
        let mut world = observed(service(&json!({})), &[]);
        let mut counter = 0;
        for pods in rounds {
            world.pods = pods.iter().map(|n| if n % 3 == 0 { pod(*n, &unready()) } else { plain(*n) }).collect();
            let actions = plan(&world);
            apply(&mut world, actions, &mut counter);
            prop_assert_eq!(plan(&world), vec![]);
            let mut found = Vec::new();
            for slice in &world.slices {
                let names = slice.endpoints.iter().flatten().map(|e| e.target_ref.clone().unwrap().name.unwrap());
                let names: Vec<_> = names.collect();
                prop_assert!(names.len() <= 100);
                found.extend(names);
            }
            found.sort();
            let mut expected: Vec<_> = pods.iter().map(|n| format!("p{n}")).collect();
            expected.sort();
            prop_assert_eq!(found, expected);
        }
    }
}
