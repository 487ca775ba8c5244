use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::pods::observed::{Busy, Failure, Image, Volumes, Wanted};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn pod(spec: Value) -> Observed {
    let meta = json!({"name": "p", "namespace": "ns", "uid": "u", "generation": 3});
    let pod = serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
    let wanted = Wanted::new(Arc::new(pod));
    let mut o = Observed::new(Arc::new(wanted), at(0), vec!["10.0.0.1".into()]);
    o.sandbox = Sandbox::Ready { id: "s".into(), ips: vec!["10.1.0.2".into()] };
    o.pod_ips = vec!["10.1.0.2".into()];
    o.volumes = Volumes::Ready;
    o
}

fn attempt(o: &mut Observed, name: &str, state: AttemptState) {
    let resources = o.wanted.container(name).and_then(|c| c.spec.resources.clone());
    let seen = o.containers.get_mut(name).unwrap();
    seen.last = seen.current.take();
    seen.attempts += 1;
    seen.image = Image::Unknown;
    seen.current = Some(Attempt {
        id: format!("{name}{}", seen.attempts),
        image: "img".into(),
        image_id: "img@sha256:1".into(),
        resources: resources.unwrap_or_default(),
        state,
    });
}

fn running() -> AttemptState {
    AttemptState::Running { started_at: at(1), hooked: true }
}

fn exited(code: i32) -> AttemptState {
    let reason = if code == 0 { "Completed" } else { "Error" };
    AttemptState::Exited(Exit {
        code,
        reason: reason.into(),
        message: None,
        started_at: Some(at(1)),
        finished_at: at(2),
    })
}

fn c(name: &str) -> Value {
    json!({"name": name, "image": "img"})
}

/// Phase, initials of the conditions that are true, then each container: state, restarts, ready.
fn render(status: &PodStatus) -> String {
    let initial = |c: &PodCondition| match c.type_.as_str() {
        "PodReadyToStartContainers" => 'S',
        other => other.chars().next().unwrap(),
    };
    let held = status.conditions.iter().flatten().filter(|c| c.status == "True");
    let conditions: String = held.map(initial).collect();
    let state = |s: &ContainerState| match s {
        ContainerState { waiting: Some(w), .. } => w.reason.clone().unwrap(),
        ContainerState { running: Some(_), .. } => "running".into(),
        ContainerState { terminated: Some(t), .. } => format!("exit {}", t.exit_code),
        _ => "?".into(),
    };
    let all = [&status.init_container_statuses, &status.container_statuses];
    let containers = all.into_iter().flatten().flatten().map(|s| {
        let last = s.last_state.as_ref().filter(|l| l.terminated.is_some()).map(state);
        let last = last.map(|l| format!(" after {l}")).unwrap_or_default();
        let ready = if s.ready { " ready" } else { "" };
        format!("{} {}{last} x{}{ready}", s.name, state(s.state.as_ref().unwrap()), s.restart_count)
    });
    let containers: Vec<_> = containers.collect();
    format!("{} {conditions} | {}", status.phase.as_ref().unwrap(), containers.join(" | "))
}

#[track_caller]
fn check(o: &Observed, expected: &str) {
    assert_eq!(render(&status(o, &PodStatus::default())), expected);
}

#[test]
fn a_pod_comes_up() {
    let probe = json!({"name": "a", "image": "img", "readinessProbe": {"tcpSocket": {"port": 80}}});
    let mut o = pod(json!({"containers": [probe]}));
    o.sandbox = Sandbox::Creating;
    check(&o, "Pending IP | a ContainerCreating x0");
    o.sandbox = Sandbox::Ready { id: "s".into(), ips: vec![] };
    check(&o, "Pending SIP | a ContainerCreating x0");
    attempt(&mut o, "a", running());
    check(&o, "Running SIP | a running x0");
    o.containers.get_mut("a").unwrap().verdicts.ready = true;
    check(&o, "Running SIRCP | a running x0 ready");
}

#[test]
fn init_containers_hold_the_others_back() {
    let mut o = pod(json!({"initContainers": [c("i"), c("j")], "containers": [c("a")]}));
    check(&o, "Pending SP | i PodInitializing x0 | j PodInitializing x0 | a PodInitializing x0");
    attempt(&mut o, "i", exited(0));
    check(&o, "Pending SP | i exit 0 x0 ready | j PodInitializing x0 | a PodInitializing x0");
    attempt(&mut o, "j", exited(0));
    attempt(&mut o, "a", running());
    check(&o, "Running SIRCP | i exit 0 x0 ready | j exit 0 x0 ready | a running x0 ready");
}

#[test]
fn failures_are_named() {
    let mut o = pod(json!({"containers": [c("a")]}));
    let failure = Failure {
        reason: "ImagePullBackOff".into(),
        message: "m".into(),
        tries: 1,
        retry_at: at(10),
        announced: true,
    };
    o.containers.get_mut("a").unwrap().pull_failure = Some(failure);
    check(&o, "Pending SIP | a ImagePullBackOff x0");
}

#[test]
fn a_crash_loop_shows_the_wait_and_the_last_end() {
    let mut o = pod(json!({"containers": [c("a")]}));
    attempt(&mut o, "a", exited(1));
    attempt(&mut o, "a", exited(1));
    o.now = at(3);
    o.containers.get_mut("a").unwrap().crashes = 2;
    check(&o, "Running SIP | a CrashLoopBackOff after exit 1 x1");
    let status = status(&o, &PodStatus::default());
    let waiting = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    let expected = "back-off 10s restarting failed container=a pod=p_ns(u)";
    assert_eq!(waiting.message.as_deref(), Some(expected));
}

#[test]
fn ended_pods_have_a_final_phase() {
    let mut o = pod(json!({"restartPolicy": "Never", "containers": [c("a"), c("b")]}));
    attempt(&mut o, "a", exited(0));
    attempt(&mut o, "b", running());
    check(&o, "Running SIP | a exit 0 x0 | b running x0 ready");
    attempt(&mut o, "b", exited(0));
    check(&o, "Succeeded SIP | a exit 0 x0 | b exit 0 x1");
    attempt(&mut o, "b", exited(2));
    check(&o, "Failed SIP | a exit 0 x0 | b exit 2 after exit 0 x2");
    o.containers.get_mut("a").unwrap().busy = Some(Busy::Killing);
    check(&o, "Running SIP | a exit 0 x0 | b exit 2 after exit 0 x2");
}

#[test]
fn transition_times_move_only_with_the_status() {
    let mut o = pod(json!({"containers": [c("a")]}));
    let first = status(&o, &PodStatus::default());
    o.now = at(5);
    attempt(&mut o, "a", running());
    let second = status(&o, &first);
    let time = |s: &PodStatus, type_: &str| {
        let c = s.conditions.as_ref().unwrap().iter().find(|c| c.type_ == type_).unwrap();
        c.last_transition_time.clone().unwrap().0
    };
    assert_eq!(time(&second, "PodScheduled"), at(0));
    assert_eq!(time(&second, "Ready"), at(5));
    assert_eq!(second.observed_generation, Some(3));
}

#[test]
fn quality_of_service_follows_requests_and_limits() {
    let check = |resources: Value, expected: &str| {
        let spec = json!({"containers": [{"name": "a", "resources": resources}]});
        let pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        assert_eq!(qos_class(&pod), expected);
    };
    check(json!({}), "BestEffort");
    check(json!({"requests": {"cpu": "1"}}), "Burstable");
    check(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed");
    let lower = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}});
    check(lower, "Burstable");
}
