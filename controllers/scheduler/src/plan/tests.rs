use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A node with 4 cores, 8 GiB and 110 pods, changed by `with`.
fn node(name: &str, with: &Value) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    merge(&mut node, with);
    node
}

/// A pod that asks for one core, changed by `with`.
fn pod(name: &str, with: &Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
    });
    merge(&mut pod, with);
    pod
}

fn on(node: &str) -> Value {
    json!({"spec": {"nodeName": node}})
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.iter()
                .for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from.clone(),
    }
}

fn world(nodes: &[Value], pods: &[Value]) -> World {
    let mut world = World::default();
    for node in nodes {
        world.set_node(Arc::new(serde_json::from_value(node.clone()).unwrap()));
    }
    for pod in pods {
        let pod = info(pod);
        let node = pod.node().unwrap().to_owned();
        world.place(Arc::new(pod), &node);
    }
    world
}

fn info(pod: &Value) -> PodInfo {
    PodInfo::new(Arc::new(serde_json::from_value(pod.clone()).unwrap()))
}

fn render(decision: Decision) -> String {
    match decision {
        Decision::Bind { node } => format!("bind {node}"),
        Decision::Wait { message, .. } => message,
    }
}

#[track_caller]
fn check(nodes: &[Value], existing: &[Value], new: &Value, expected: &str) {
    assert_eq!(render(plan(&info(new), &world(nodes, existing))), expected);
}

/// One rule against one node.
#[track_caller]
fn check_one(with_node: &Value, with_pod: &Value, expected: &str) {
    check(&[node("a", with_node)], &[], &pod("p", with_pod), expected);
}

fn zone(name: &str) -> Value {
    json!({"metadata": {"labels": {"topology.kubernetes.io/zone": name}}})
}

fn nothing() -> Value {
    json!({})
}

#[test]
fn without_nodes_there_is_nothing_to_say_about_them() {
    check(&[], &[], &pod("p", &nothing()), "no nodes available to schedule pods");
}

#[test]
fn every_resource_that_falls_short_is_named() {
    let asks = |list: Value| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": list}}]}});
    check_one(&nothing(), &asks(json!({"cpu": "4"})), "bind a");
    check_one(
        &nothing(),
        &asks(json!({"cpu": "4001m"})),
        "0/1 nodes are available: 1 Insufficient cpu.",
    );
    check_one(
        &nothing(),
        &asks(
            json!({"cpu": "5", "memory": "9Gi", "example.com/gpu": "1", "ephemeral-storage": "1"}),
        ),
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient ephemeral-storage, \
         1 Insufficient example.com/gpu, 1 Insufficient memory.",
    );
    let gpu = json!({"status": {"allocatable": {"example.com/gpu": "1"}}});
    check_one(&gpu, &asks(json!({"example.com/gpu": "1"})), "bind a");
    let full = json!({"status": {"allocatable": {"pods": "0"}}});
    check_one(&full, &nothing(), "0/1 nodes are available: 1 Too many pods.");
}

#[test]
fn pods_that_stand_there_count_until_they_go() {
    let nodes = [node("a", &nothing())];
    let four: Vec<_> = (0..4).map(|i| pod(&format!("e{i}"), &on("a"))).collect();
    check(&nodes, &four, &pod("p", &nothing()), "0/1 nodes are available: 1 Insufficient cpu.");
    let mut world = world(&nodes, &four);
    assert_eq!(world.remove_pod("e2").as_deref(), Some("a"));
    assert_eq!(render(plan(&info(&pod("p", &nothing())), &world)), "bind a");
}

#[test]
fn node_selectors_and_affinity() {
    let refused = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    let ssd = json!({"metadata": {"labels": {"disk": "ssd", "cores": "8"}}});
    let selector = |value: &str| json!({"spec": {"nodeSelector": {"disk": value}}});
    check_one(&ssd, &selector("ssd"), "bind a");
    check_one(&ssd, &selector("hdd"), refused);
    let affinity = |terms: Value| {
        json!({"spec": {"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}})
    };
    let expression = |key: &str, operator: &str, values: &[&str]| {
        affinity(
            json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]),
        )
    };
    for (key, operator, values, expected) in [
        ("disk", "In", &["hdd", "ssd"][..], "bind a"),
        ("disk", "In", &["hdd"], refused),
        ("disk", "NotIn", &["hdd"], "bind a"),
        ("none", "NotIn", &["hdd"], "bind a"),
        ("disk", "NotIn", &["ssd"], refused),
        ("disk", "Exists", &[], "bind a"),
        ("none", "Exists", &[], refused),
        ("none", "DoesNotExist", &[], "bind a"),
        ("disk", "DoesNotExist", &[], refused),
        ("cores", "Gt", &["7"], "bind a"),
        ("cores", "Gt", &["8"], refused),
        ("cores", "Lt", &["9"], "bind a"),
        ("disk", "Lt", &["9"], refused),
    ] {
        check_one(&ssd, &expression(key, operator, values), expected);
    }
    check_one(&ssd, &affinity(json!([{}])), refused);
    check_one(
        &ssd,
        &affinity(json!([{}, {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}])),
        "bind a",
    );
}

#[test]
fn a_pod_that_names_its_node_looks_at_no_other() {
    let named = |name: &str| {
        json!({"spec": {"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}}}})
    };
    let nodes = [
        node("a", &nothing()),
        node("b", &nothing()),
        node("c", &json!({"spec": {"unschedulable": true}})),
    ];
    check(&nodes, &[], &pod("p", &named("b")), "bind b");
    check(
        &nodes,
        &[],
        &pod("p", &named("c")),
        "0/3 nodes are available: 1 node(s) were unschedulable, \
         2 node(s) didn't satisfy plugin(s) [NodeAffinity].",
    );
    check(
        &nodes,
        &[],
        &pod("p", &named("z")),
        "0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity].",
    );
}

#[test]
fn taints_and_cordons_need_a_toleration() {
    let refused = "0/1 nodes are available: 1 node(s) had untolerated taint(s).";
    let taint =
        |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let bears = |toleration: Value| json!({"spec": {"tolerations": [toleration]}});
    check_one(&taint("NoSchedule"), &nothing(), refused);
    check_one(&taint("NoExecute"), &nothing(), refused);
    check_one(&taint("PreferNoSchedule"), &nothing(), "bind a");
    for (toleration, expected) in [
        (json!({"operator": "Exists"}), "bind a"),
        (json!({"key": "k", "operator": "Exists"}), "bind a"),
        (json!({"key": "k", "value": "v"}), "bind a"),
        (json!({"key": "k", "value": "v", "effect": "NoSchedule"}), "bind a"),
        (json!({"key": "k", "value": "w"}), refused),
        (json!({"key": "l", "operator": "Exists"}), refused),
        (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), refused),
    ] {
        check_one(&taint("NoSchedule"), &bears(toleration), expected);
    }
    let cordoned = json!({"spec": {"unschedulable": true}});
    check_one(&cordoned, &nothing(), "0/1 nodes are available: 1 node(s) were unschedulable.");
    check_one(
        &cordoned,
        &bears(json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"})),
        "bind a",
    );
}

#[test]
fn host_ports_are_taken_once() {
    let port = |ip: &str, protocol: &str| {
        json!({"spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 80, "hostIP": ip, "protocol": protocol}]}]}})
    };
    let taken = |mut pod_with: Value| {
        merge(&mut pod_with, &on("a"));
        pod("e", &pod_with)
    };
    let refused =
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    let nodes = [node("a", &nothing())];
    for (theirs, ours, expected) in [
        (("", "TCP"), ("", "TCP"), refused),
        (("10.0.0.1", "TCP"), ("0.0.0.0", "TCP"), refused),
        (("10.0.0.1", "TCP"), ("10.0.0.2", "TCP"), "bind a"),
        (("", "TCP"), ("", "UDP"), "bind a"),
    ] {
        let new = pod("p", &port(ours.0, ours.1));
        check(&nodes, &[taken(port(theirs.0, theirs.1))], &new, expected);
    }
}

#[test]
fn the_emptier_node_wins() {
    let nodes = [node("a", &nothing()), node("b", &nothing())];
    check(&nodes, &[pod("e", &on("a"))], &pod("p", &nothing()), "bind b");
    check(&nodes, &[pod("e", &on("b"))], &pod("p", &nothing()), "bind a");
}

#[test]
fn replicas_spread_although_a_node_is_emptier() {
    let owned = json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "name": "r", "uid": "r", "controller": true}]}});
    let small =
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "10m"}}}]}});
    let mut replica = owned.clone();
    merge(&mut replica, &small);
    let mut standing = replica.clone();
    merge(&mut standing, &on("b"));
    let nodes = [node("a", &nothing()), node("b", &nothing())];
    let crowd = [pod("e", &on("a")), pod("r1", &standing)];
    check(&nodes, &crowd, &pod("r2", &replica), "bind a");
    check(&nodes, &crowd, &pod("alone", &small), "bind b");
}

#[test]
fn preferences_and_soft_taints_weigh() {
    let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    let nodes = [node("a", &nothing()), node("b", &soft)];
    check(&nodes, &[pod("e", &on("a"))], &pod("p", &nothing()), "bind a");
    let prefers = json!({"spec": {"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {
            "matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}}});
    let nodes =
        [node("a", &nothing()), node("b", &json!({"metadata": {"labels": {"disk": "ssd"}}}))];
    check(&nodes, &[pod("e", &on("b"))], &pod("p", &prefers), "bind b");
}

fn spread(key: &str, when: &str) -> Value {
    json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key,
        "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "web"}}}]}})
}

#[test]
fn hard_spread_keeps_the_skew() {
    let hard = spread("topology.kubernetes.io/zone", "DoNotSchedule");
    let nodes = [node("a", &zone("x")), node("b", &zone("y")), node("c", &nothing())];
    check(&nodes, &[pod("e", &on("a"))], &pod("p", &hard), "bind b");
    let cordoned = [
        nodes[0].clone(),
        node(
            "b",
            &json!({"metadata": {"labels":
        {"topology.kubernetes.io/zone": "y"}}, "spec": {"unschedulable": true}}),
        ),
        nodes[2].clone(),
    ];
    check(
        &cordoned,
        &[pod("e", &on("a"))],
        &pod("p", &hard),
        "0/3 nodes are available: \
         1 node(s) didn't match pod topology spread constraints, \
         1 node(s) didn't match pod topology spread constraints (missing required label), \
         1 node(s) were unschedulable.",
    );
}

#[test]
fn soft_spread_prefers_the_emptier_zone() {
    let soft = spread("topology.kubernetes.io/zone", "ScheduleAnyway");
    let nodes = [node("a", &zone("x")), node("b", &zone("x")), node("c", &zone("y"))];
    let existing = [
        pod("e", &on("a")),
        pod("other", &json!({"metadata": {"labels": {"app": "db"}}, "spec": {"nodeName": "c"}})),
    ];
    check(&nodes, &existing, &pod("p", &soft), "bind c");
}

fn inter_pod(kind: &str, key: &str, app: &str) -> Value {
    json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}]}}}})
}

#[test]
fn pods_seek_and_avoid_each_other() {
    let nodes = [node("a", &zone("x")), node("b", &zone("y"))];
    let host = "kubernetes.io/hostname";
    let near = |app| pod("p", &inter_pod("podAffinity", host, app));
    let far = |app| pod("p", &inter_pod("podAntiAffinity", host, app));
    let crowded = [pod("e1", &on("a")), pod("e2", &on("a"))];
    check(&nodes, &crowded, &near("web"), "bind a");
    check(&nodes, &crowded, &far("web"), "bind b");
    check(
        &nodes,
        &crowded,
        &near("db"),
        "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.",
    );
    let everywhere = [pod("e1", &on("a")), pod("e2", &on("b"))];
    check(
        &nodes,
        &everywhere,
        &far("web"),
        "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.",
    );
}

#[test]
fn the_first_of_its_kind_may_go_anywhere() {
    let near = pod("p", &inter_pod("podAffinity", "topology.kubernetes.io/zone", "web"));
    check(&[node("a", &zone("x"))], &[], &near, "bind a");
    check(
        &[node("a", &nothing())],
        &[],
        &near,
        "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.",
    );
}

#[test]
fn a_standing_pod_keeps_others_away() {
    let mut hermit = inter_pod("podAntiAffinity", "topology.kubernetes.io/zone", "web");
    merge(&mut hermit, &on("a"));
    let nodes = [node("a", &zone("x")), node("b", &zone("x"))];
    check(
        &nodes,
        &[pod("hermit", &hermit)],
        &pod("p", &nothing()),
        "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules.",
    );
    let elsewhere = json!({"metadata": {"namespace": "other"}});
    check(&nodes[..1], &[pod("hermit", &hermit)], &pod("p", &elsewhere), "bind a");
}

#[test]
fn reasons_are_counted_and_sorted() {
    let nodes = [
        node("a", &json!({"spec": {"unschedulable": true}})),
        node("b", &json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})),
        node("c", &json!({"status": {"allocatable": {"cpu": "100m"}}})),
        node("d", &json!({"status": {"allocatable": {"cpu": "100m"}}})),
    ];
    check(
        &nodes,
        &[],
        &pod("p", &nothing()),
        "0/4 nodes are available: 1 node(s) had untolerated taint(s), \
         1 node(s) were unschedulable, 2 Insufficient cpu.",
    );
}

#[track_caller]
fn check_helps(change: Change<'_>, with_pod: &Value, existing: &[Value], expected: bool) {
    let cluster = world(&[node("a", &nothing())], existing);
    let new = info(&pod("p", with_pod));
    let Decision::Wait { rules, .. } = plan(&new, &cluster) else { panic!("it has room") };
    assert_eq!(may_help(change, &new, rules), expected);
}

#[test]
fn only_changes_that_may_help_wake_a_pod() {
    let four: Vec<_> = (0..4).map(|i| pod(&format!("e{i}"), &on("a"))).collect();
    let emptied = world(&[node("a", &nothing())], &four[1..]);
    let still_full = world(&[node("a", &nothing())], &four);
    let (emptied, still_full) = (emptied.node("a").unwrap(), still_full.node("a").unwrap());
    check_helps(Change::PodLeft(emptied), &nothing(), &four, true);
    check_helps(Change::PodLeft(still_full), &nothing(), &four, false);
    check_helps(Change::Node(emptied), &nothing(), &four, true);
    check_helps(Change::PodArrived, &nothing(), &four, false);
    let lonely = inter_pod("podAffinity", "kubernetes.io/hostname", "db");
    check_helps(Change::PodArrived, &lonely, &[], true);
    let choosy = json!({"spec": {"nodeSelector": {"disk": "ssd"}}});
    check_helps(Change::PodLeft(emptied), &choosy, &[], false);
}

proptest! {
    /// Whatever is asked for, no node is filled beyond what it has, and a pod waits only if it fits nowhere.
    #[test]
    fn a_burst_never_overcommits(sizes in proptest::collection::vec(1..4000_i64, 0..60), n_nodes in 1..8_usize) {
        let nodes: Vec<_> = (0..n_nodes).map(|i| node(&format!("n{i}"), &nothing())).collect();
        let mut world = world(&nodes, &[]);
        let mut log = String::new();
        for (i, size) in sizes.iter().enumerate() {
            let asks = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": format!("{size}m")}}}]}});
            let new = Arc::new(info(&pod(&format!("p{i}"), &asks)));
            let decision = plan(&new, &world);
            prop_assert_eq!(&decision, &plan(&new, &world), "the same question has the same answer");
            match decision {
                Decision::Bind { node } => world.place(new, &node),
                Decision::Wait { .. } => prop_assert!(
                    world.nodes().all(|n| n.requested.milli_cpu + size > 4000), "{} fits: {}", size, log),
            }
            let _ = writeln!(log, "{size}");
        }
        for node in world.nodes() {
            prop_assert!(node.requested.milli_cpu <= 4000);
        }
    }

    /// Placing and removing leaves no trace.
    #[test]
    fn the_world_adds_up(steps in proptest::collection::vec((0..20_usize, 0..4_usize), 0..100)) {
        let mut world = world(&[node("n0", &nothing()), node("n1", &nothing())], &[]);
        for (i, to) in steps {
            let name = format!("p{i}");
            let ports = json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 1000 + i}],
                "resources": {"requests": {"cpu": "1", "example.com/x": "2"}}}]}});
            match to {
                0 | 1 => world.place(Arc::new(info(&pod(&name, &ports))), &format!("n{to}")),
                2 => world.place(Arc::new(info(&pod(&name, &ports))), "unknown"),
                _ => drop(world.remove_pod(&name)),
            }
            for node in world.all_nodes() {
                let n = i64::try_from(node.pods.len()).unwrap();
                prop_assert_eq!(node.requested.milli_cpu, 1000 * n);
                prop_assert_eq!(node.requested.extended.get("example.com/x").copied().unwrap_or(0), 2 * n);
                prop_assert_eq!(node.ports.len(), node.pods.len());
                prop_assert!(node.node.is_some() || n > 0);
            }
        }
    }
}
