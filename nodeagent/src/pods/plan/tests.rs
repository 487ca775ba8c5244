mod resizes;

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::pods::observed::{Attempt, Busy, Doom, Exit, Wanted};
use crate::runtime::Resources;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// A pod at second 0 with sandbox, volumes and images in place.
fn pod(spec: Value) -> Observed {
    let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec});
    let wanted = Wanted::new(Arc::new(serde_json::from_value(pod).unwrap()));
    let mut o = Observed::new(Arc::new(wanted), at(0), vec![]);
    o.sandbox = Sandbox::Ready { id: "s".into(), ips: vec![] };
    o.volumes = Volumes::Ready;
    for seen in o.containers.values_mut() {
        seen.image = Image::Present { id: "i".into() };
    }
    o
}

fn seen<'a>(o: &'a mut Observed, name: &str) -> &'a mut Seen {
    o.containers.get_mut(name).unwrap()
}

fn runs(o: &mut Observed, name: &str) {
    let resources = o.wanted.container(name).and_then(|c| c.spec.resources.clone());
    let resources = resources.unwrap_or_default();
    let seen = seen(o, name);
    seen.attempts += 1;
    let state = AttemptState::Running { started_at: at(0), hooked: true };
    seen.current = Some(Attempt {
        id: name.into(),
        image: "img".into(),
        image_id: "i".into(),
        resources,
        state,
    });
}

fn ended(o: &mut Observed, name: &str, code: i32) {
    runs(o, name);
    let seen = seen(o, name);
    seen.crashes += 1;
    let exit = Exit {
        code,
        reason: "x".into(),
        message: None,
        started_at: Some(at(0)),
        finished_at: at(0),
    };
    seen.current.as_mut().unwrap().state = AttemptState::Exited(exit);
}

fn c(name: &str) -> Value {
    json!({"name": name, "image": "img"})
}

/// The pod's limits, each container's, and the pod's in the end: CPU request / CPU limit / memory limit.
fn render_resize(order: &Resize) -> String {
    let text = |r: &Resources| {
        let or_none = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
        let cpu = [r.cpu_request, r.cpu_limit].map(|m| or_none(m.map(|m| m.0)));
        format!("{}/{}/{}", cpu[0], cpu[1], or_none(r.memory_limit.map(|b| b.0)))
    };
    let mut words = vec![format!("resize {}", text(&order.raised))];
    words.extend(order.changes.iter().map(|c| format!("{}:{}", c.container, text(&c.limits))));
    words.push(text(&order.settled));
    let name = |b: &Bound| b.container.as_ref().map_or("pod".to_owned(), |(name, _)| name.clone());
    words.extend(order.bounds.iter().map(|b| format!("{}<{}", name(b), b.limit.0)));
    words.join(" ")
}

#[track_caller]
fn check(o: &Observed, expected: &str) {
    let render = |step: &Step| match step {
        Step::MountVolumes => "mount".to_owned(),
        Step::CreateSandbox => "sandbox".to_owned(),
        Step::Pull { container } => format!("pull {container}"),
        Step::Start { container, attempt } => format!("start {container} {attempt}"),
        Step::Kill { container, grace, .. } => format!("kill {container} {}s", grace.as_secs()),
        Step::Allot => "allot".to_owned(),
        Step::Resize(order) => render_resize(order),
        Step::RemoveRecords => "records".to_owned(),
        Step::RemoveSandbox => "no sandbox".to_owned(),
        Step::UnmountVolumes => "unmount".to_owned(),
        Step::ConfirmDelete => "confirm".to_owned(),
        Step::Forget => "forget".to_owned(),
    };
    assert_eq!(plan(o).iter().map(render).collect::<Vec<_>>().join(", "), expected);
}

#[test]
fn a_new_pod_prepares_everything_at_once() {
    let mut o = pod(json!({"containers": [c("a"), c("b")]}));
    o.sandbox = Sandbox::Absent;
    o.volumes = Volumes::Absent;
    for seen in o.containers.values_mut() {
        seen.image = Image::Unknown;
    }
    check(&o, "mount, sandbox, pull a, pull b");
    o.sandbox = Sandbox::Creating;
    o.volumes = Volumes::Mounting;
    seen(&mut o, "a").busy = Some(Busy::Pulling);
    check(&o, "pull b");
    seen(&mut o, "a").busy = None;
    seen(&mut o, "a").image = Image::Present { id: "i".into() };
    seen(&mut o, "b").busy = Some(Busy::Pulling);
    check(&o, "");
    o.volumes = Volumes::Ready;
    check(&o, "");
    o.sandbox = Sandbox::Ready { id: "s".into(), ips: vec![] };
    check(&o, "start a 0");
}

#[test]
fn init_containers_run_in_turn_and_sidecars_stay() {
    let side = json!({"name": "s", "image": "img", "restartPolicy": "Always",
        "startupProbe": {"tcpSocket": {"port": 1}}});
    let mut o = pod(json!({"initContainers": [c("i"), side, c("j")], "containers": [c("a")]}));
    check(&o, "start i 0");
    runs(&mut o, "i");
    check(&o, "");
    ended(&mut o, "i", 0);
    check(&o, "start s 0");
    runs(&mut o, "s");
    check(&o, "");
    seen(&mut o, "s").verdicts.started = true;
    check(&o, "start j 0");
    ended(&mut o, "j", 0);
    check(&o, "start a 0");
    runs(&mut o, "a");
    ended(&mut o, "s", 1);
    check(&o, "start s 2");
}

#[test]
fn a_failed_init_container_is_retried_or_fails_the_pod() {
    let mut o = pod(json!({"initContainers": [c("i")], "containers": [c("a")]}));
    ended(&mut o, "i", 1);
    check(&o, "start i 1");
    let spec =
        json!({"restartPolicy": "Never", "initContainers": [c("i")], "containers": [c("a")]});
    let mut o = pod(spec);
    ended(&mut o, "i", 1);
    assert_eq!(conclusion(&o).map(|c| c.succeeded), Some(false));
    check(&o, "");
}

#[test]
fn restarts_back_off() {
    let mut o = pod(json!({"containers": [c("a")]}));
    ended(&mut o, "a", 1);
    check(&o, "start a 1"); // The first restart is immediate.
    seen(&mut o, "a").crashes = 2;
    check(&o, "");
    assert_eq!(recheck_at(&o), Some(at(10)));
    o.now = at(10);
    check(&o, "start a 1");
    let waits: Vec<_> = (0..9).map(|n| crash_backoff(n).as_secs()).collect();
    assert_eq!(waits, [0, 0, 10, 20, 40, 80, 160, 300, 300]);
    let pulls = |reason| [1, 2, 3].map(|tries| pull_backoff(reason, tries).as_secs());
    assert_eq!(pulls("ErrImagePull"), [10, 20, 40]);
    assert_eq!(pulls("ErrImageNeverPull"), [10, 10, 10]);
}

#[test]
fn restart_policy_and_rules_decide() {
    let rule = json!({"name": "a", "image": "img", "restartPolicy": "Never", "restartPolicyRules":
        [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]});
    let cases = [
        (json!({"restartPolicy": "Always", "containers": [c("a")]}), 0, "start a 1"),
        (json!({"restartPolicy": "OnFailure", "containers": [c("a")]}), 3, "start a 1"),
        (json!({"restartPolicy": "OnFailure", "containers": [c("a")]}), 0, ""),
        (json!({"restartPolicy": "Never", "containers": [c("a")]}), 3, ""),
        (json!({"containers": [rule.clone()]}), 42, "start a 1"),
        (json!({"containers": [rule]}), 1, ""),
    ];
    for (spec, code, expected) in cases {
        let mut o = pod(spec);
        ended(&mut o, "a", code);
        check(&o, expected);
    }
}

#[test]
fn a_post_start_hook_holds_back_the_containers_behind_it() {
    let hook = json!({"name": "a", "image": "img",
        "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}});
    let mut o = pod(json!({"containers": [hook, c("b")]}));
    check(&o, "start a 0");
    runs(&mut o, "a");
    let state = AttemptState::Running { started_at: at(0), hooked: false };
    seen(&mut o, "a").current.as_mut().unwrap().state = state;
    check(&o, "");
    runs(&mut o, "a");
    check(&o, "start b 0");
}

#[test]
fn doomed_and_outdated_attempts_are_killed() {
    let mut o = pod(json!({"terminationGracePeriodSeconds": 7, "containers": [c("a")]}));
    runs(&mut o, "a");
    seen(&mut o, "a").verdicts.doomed = Some(Doom { message: "m".into(), grace: None });
    check(&o, "kill a 7s");
    seen(&mut o, "a").busy = Some(Busy::Killing);
    check(&o, "");
    let mut o = pod(json!({"containers": [c("a")]}));
    runs(&mut o, "a");
    seen(&mut o, "a").current.as_mut().unwrap().image = "old".into();
    check(&o, "kill a 30s");
}

#[test]
fn a_deleted_pod_winds_down_in_order() {
    let side = |name: &str| json!({"name": name, "image": "img", "restartPolicy": "Always"});
    let mut o = pod(json!({"initContainers": [side("s"), side("t")], "containers": [c("a")]}));
    for name in ["s", "t", "a"] {
        runs(&mut o, name);
    }
    let mut wanted = (*o.wanted).clone();
    wanted.deletion = Some(Duration::from_secs(5));
    o.wanted = Arc::new(wanted);
    check(&o, "kill a 5s");
    ended(&mut o, "a", 143);
    check(&o, "kill t 5s");
    ended(&mut o, "t", 143);
    check(&o, "kill s 5s");
    ended(&mut o, "s", 143);
    check(&o, ""); // First the final status is reported.
    o.reported_terminal = true;
    check(&o, "records");
    o.farewell = Farewell::RecordsGone;
    check(&o, "no sandbox, unmount");
    o.sandbox = Sandbox::Removed;
    o.volumes = Volumes::Removing;
    check(&o, "");
    o.volumes = Volumes::Removed;
    check(&o, "confirm");
    o.farewell = Farewell::Done;
    check(&o, "");
}

#[test]
fn an_orphan_is_forgotten_without_a_word_to_the_api() {
    let mut o = pod(json!({"containers": [c("a")]}));
    runs(&mut o, "a");
    o.orphaned = true;
    check(&o, "kill a 30s");
    ended(&mut o, "a", 137);
    check(&o, "records");
    o.farewell = Farewell::RecordsGone;
    check(&o, "no sandbox, unmount");
    o.sandbox = Sandbox::Removed;
    o.volumes = Volumes::Removed;
    check(&o, "forget");
}

#[test]
fn a_pod_past_its_deadline_ends() {
    let mut o = pod(json!({"activeDeadlineSeconds": 60, "containers": [c("a")]}));
    runs(&mut o, "a");
    check(&o, "");
    assert_eq!(recheck_at(&o), Some(at(60)));
    o.now = at(60);
    check(&o, "kill a 30s");
    let end = conclusion(&o).unwrap();
    assert_eq!(end.reason.as_deref(), Some("DeadlineExceeded"));
}
