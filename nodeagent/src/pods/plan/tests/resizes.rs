//! Resizes of running pods.

use super::*;
use crate::pods::observed::{Asked, Refusal};
use crate::pods::quantity::pod_resources;
use crate::runtime::Bytes;

/// A container with CPU and memory, each the same for request and limit.
fn sized(name: &str, cpu: u64, memory: u64) -> Value {
    let list = json!({"cpu": format!("{cpu}m"), "memory": memory.to_string()});
    json!({"name": name, "image": "img", "resources": {"requests": list, "limits": list}})
}

fn policy(mut container: Value, resource: &str) -> Value {
    container["resizePolicy"] =
        json!([{"resourceName": resource, "restartPolicy": "RestartContainer"}]);
    container
}

fn wanted(generation: i64, spec: Value) -> Arc<Wanted> {
    let meta = json!({"name": "p", "namespace": "ns", "uid": "u", "generation": generation});
    let pod = json!({"metadata": meta, "spec": spec});
    Arc::new(Wanted::new(Arc::new(serde_json::from_value(pod).unwrap())))
}

/// A pod whose containers run.
fn running(containers: Value) -> Observed {
    let mut o = pod(json!({"containers": containers}));
    for name in o.containers.keys().cloned().collect::<Vec<_>>() {
        runs(&mut o, &name);
    }
    o
}

/// The API's pod has these containers now, and the node allots them.
fn resized(o: &mut Observed, containers: Value) {
    let generation = o.wanted.pod.metadata.generation.unwrap_or(1);
    o.want(wanted(generation + 1, json!({"containers": containers})));
    o.allot();
}

/// The worker has carried the step out.
fn done(o: &mut Observed) {
    let Some(Step::Resize(order)) = plan(o).pop() else { panic!("no resize") };
    o.limits = Some(order.settled);
    for change in order.changes {
        seen(o, &change.container).current.as_mut().unwrap().resources = change.resources;
    }
}

#[test]
fn other_resources_are_asked_for_first() {
    let mut o = running(json!([sized("a", 100, 10)]));
    check(&o, "");
    o.want(wanted(2, json!({"containers": [sized("a", 200, 10)]})));
    check(&o, "allot");
    assert!(!is_resizing(&o));
    let message = "no room".to_owned();
    o.asked.as_mut().unwrap().answer = Some(Refusal::Deferred { message, generation: Some(2) });
    check(&o, "");
    o.want(wanted(3, json!({"containers": [sized("a", 200, 10)], "activeDeadlineSeconds": 9})));
    check(&o, ""); // The same resources are not judged again.
    o.want(wanted(4, json!({"containers": [sized("a", 300, 10)]})));
    check(&o, "allot");
    o.want(wanted(5, json!({"containers": [sized("a", 100, 10)]})));
    assert_eq!(o.asked, None::<Asked>);
    check(&o, "");
}

#[test]
fn the_pod_grows_first_and_shrinks_last() {
    let mut o = running(json!([sized("a", 100, 10), sized("b", 100, 20)]));
    resized(&mut o, json!([sized("a", 150, 10), sized("b", 120, 10)]));
    assert!(is_resizing(&o));
    check(&o, "resize 270/270/30 a:150/150/10 b:120/120/10 270/270/20 pod<20 b<10");
    o.resizing.busy = true;
    check(&o, "");
    o.resizing.busy = false;
    done(&mut o);
    check(&o, "");
    assert!(!is_resizing(&o));
}

#[test]
fn containers_that_shrink_come_first() {
    let mut o = running(json!([sized("a", 100, 10), sized("b", 100, 10)]));
    resized(&mut o, json!([sized("a", 200, 10), sized("b", 50, 10)]));
    check(&o, "resize 250/250/20 b:50/50/10 a:200/200/10 250/250/20");
}

#[test]
fn no_limit_is_the_largest() {
    let free = json!({"name": "a", "image": "img", "resources": {"requests": {"cpu": "1"}}});
    let mut o = running(json!([free]));
    resized(&mut o, json!([sized("a", 500, 10)]));
    check(&o, "resize 1000/-/- a:500/500/10 500/500/10 pod<10 a<10");
}

#[test]
fn amounts_that_the_kernel_does_not_know_are_noted_too() {
    let ask = |memory: &str| json!({"name": "a", "image": "img", "resources": {"requests": {"memory": memory}}});
    let mut o = running(json!([ask("1")]));
    resized(&mut o, json!([ask("2")]));
    check(&o, "resize 0/-/- a:-/-/- 0/-/-");
    done(&mut o);
    check(&o, "");
}

#[test]
fn a_policy_asks_for_a_restart() {
    let mut o = running(json!([policy(sized("a", 100, 10), "memory"), sized("b", 100, 10)]));
    resized(&mut o, json!([policy(sized("a", 200, 10), "memory"), sized("b", 100, 10)]));
    check(&o, "resize 300/300/20 a:200/200/10 300/300/20");
    done(&mut o);
    resized(&mut o, json!([policy(sized("a", 100, 20), "memory"), sized("b", 100, 10)]));
    check(&o, "kill a 30s, resize 300/300/30 300/300/30"); // Room for both, until the old one is gone.
    done(&mut o);
    seen(&mut o, "a").busy = Some(Busy::Killing);
    seen(&mut o, "a").replaced = true;
    check(&o, "");
    ended(&mut o, "a", 0);
    seen(&mut o, "a").busy = None;
    assert!(is_resizing(&o));
    check(&o, "start a 2, resize 300/300/30 200/200/30");
    runs(&mut o, "a");
    seen(&mut o, "a").replaced = false;
    check(&o, "resize 300/300/30 200/200/30");
    done(&mut o);
    assert!(!is_resizing(&o));
}

#[test]
fn a_replaced_container_starts_whatever_its_policy_and_crashes() {
    let mut o = pod(json!({"restartPolicy": "OnFailure", "containers": [c("a")]}));
    ended(&mut o, "a", 0);
    seen(&mut o, "a").crashes = 5;
    check(&o, "");
    assert!(conclusion(&o).is_some());
    seen(&mut o, "a").replaced = true;
    assert!(conclusion(&o).is_none());
    check(&o, "start a 1");
}

#[test]
fn no_container_starts_before_its_pod_has_room() {
    let mut o = pod(json!({"containers": [sized("a", 100, 10)]}));
    check(&o, "start a 0");
    resized(&mut o, json!([sized("a", 200, 10)]));
    check(&o, "resize 200/200/10 200/200/10");
    done(&mut o);
    check(&o, "start a 0");
    seen(&mut o, "a").busy = Some(Busy::Starting);
    resized(&mut o, json!([sized("a", 100, 10)]));
    check(&o, ""); // It starts with what it was given.
}

#[test]
fn after_a_failure_there_is_a_pause() {
    let mut o = running(json!([sized("a", 100, 10)]));
    resized(&mut o, json!([sized("a", 100, 5)]));
    let failure = Failure {
        reason: "Error".into(),
        message: "m".into(),
        tries: 1,
        retry_at: at(5),
        announced: true,
    };
    o.resizing.failure = Some(failure);
    check(&o, "");
    assert_eq!(recheck_at(&o), Some(at(5)));
    o.now = at(5);
    check(&o, "resize 100/100/10 a:100/100/5 100/100/5 pod<5 a<5");
    resized(&mut o, json!([sized("a", 100, 10)]));
    check(&o, "");
    assert!(!is_resizing(&o));
}

#[test]
fn limits_that_nobody_knows_are_set() {
    let mut o = running(json!([sized("a", 100, 10)]));
    o.limits = None;
    check(&o, "resize 100/100/10 100/100/10");
    o.resizing.busy = true;
    assert!(!is_resizing(&o));
    o.resizing.busy = false;
    done(&mut o);
    assert_eq!(o.limits, Some(pod_resources(&o.wanted.pod)));
}

#[test]
fn init_containers_are_resized_while_they_run() {
    let spec = |cpu| json!({"initContainers": [sized("i", cpu, 10)], "containers": [c("a")]});
    let mut o = pod(spec(100));
    runs(&mut o, "i");
    o.want(wanted(2, spec(200)));
    o.allot();
    check(&o, "resize 200/-/- i:200/200/10 200/-/-");
    done(&mut o);
    ended(&mut o, "i", 0);
    o.want(wanted(3, spec(100)));
    o.allot();
    check(&o, "start a 0, resize 200/-/- 100/-/-"); // It has ended; its pod needs less.
}

#[test]
fn a_limit_must_stay_above_what_is_used() {
    let bound = Bound { container: Some(("a".into(), "id".into())), limit: Bytes(10) };
    assert_eq!(bound.complaint(Bytes(9)), None);
    assert_eq!(
        bound.complaint(Bytes(10)).as_deref(),
        Some("attempting to set container \"a\" memory limit (10) below current usage (10)")
    );
    let pod = Bound { container: None, limit: Bytes(10) };
    assert_eq!(
        pod.complaint(Bytes(11)).as_deref(),
        Some("attempting to set pod memory limit (10) below current usage (11)")
    );
}
