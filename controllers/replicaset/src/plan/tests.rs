//! Tables through one `check`, and the proof that plans settle.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::ReplicaSetSpec,
        core::v1::{ContainerStatus, PodCondition, PodSpec, PodStatus},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference},
};
use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn labels(app: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), app.to_owned())])
}

/// A running, ready pod of the ReplicaSet, an hour old, on a node of its own.
struct TestPod(Pod);

fn pod(name: &str) -> TestPod {
    let ready = PodCondition {
        type_: "Ready".into(),
        status: "True".into(),
        last_transition_time: Some(Time(at(NOW - 3600))),
        ..PodCondition::default()
    };
    let owner =
        OwnerReference { uid: "rs".into(), controller: Some(true), ..OwnerReference::default() };
    TestPod(Pod {
        metadata: ObjectMeta {
            name: Some(name.into()),
            uid: Some(name.into()),
            labels: Some(labels("web")),
            owner_references: Some(vec![owner]),
            creation_timestamp: Some(Time(at(NOW - 3600))),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { node_name: Some(format!("node-of-{name}")), ..PodSpec::default() }),
        status: Some(PodStatus {
            phase: Some("Running".into()),
            conditions: Some(vec![ready]),
            ..PodStatus::default()
        }),
    })
}

impl TestPod {
    fn edit(mut self, edit: impl FnOnce(&mut ObjectMeta, &mut PodSpec, &mut PodStatus)) -> Self {
        let Pod { metadata, spec, status } = &mut self.0;
        edit(metadata, spec.get_or_insert_default(), status.get_or_insert_default());
        self
    }

    fn on(self, node: &str) -> Self {
        let node = Some(node.to_owned()).filter(|node| !node.is_empty());
        self.edit(|_, spec, _| spec.node_name = node)
    }

    fn phase(self, phase: &str) -> Self {
        self.edit(|_, _, status| status.phase = Some(phase.into()))
    }

    fn unready(self) -> Self {
        self.edit(|_, _, status| status.conditions = None)
    }

    fn ready_since(self, second: i64) -> Self {
        self.edit(|_, _, status| {
            for condition in status.conditions.iter_mut().flatten() {
                condition.last_transition_time = Some(Time(at(second)));
            }
        })
    }

    fn created(self, second: i64) -> Self {
        self.edit(|meta, _, _| meta.creation_timestamp = Some(Time(at(second))))
    }

    fn cost(self, cost: &str) -> Self {
        self.edit(|meta, _, _| {
            let cost = ("controller.kubernetes.io/pod-deletion-cost".to_owned(), cost.to_owned());
            meta.annotations = Some(BTreeMap::from([cost]));
        })
    }

    fn restarts(self, n: i32) -> Self {
        let container = ContainerStatus { restart_count: n, ..ContainerStatus::default() };
        self.edit(|_, _, status| status.container_statuses = Some(vec![container]))
    }

    fn labelled(self, app: &str) -> Self {
        self.edit(|meta, _, _| meta.labels = Some(labels(app)))
    }

    fn orphan(self) -> Self {
        self.edit(|meta, _, _| meta.owner_references = None)
    }

    fn of(self, uid: &str) -> Self {
        self.edit(|meta, _, _| {
            for owner in meta.owner_references.iter_mut().flatten() {
                owner.uid = uid.into();
            }
        })
    }

    fn deleting(self) -> Self {
        self.edit(|meta, _, _| meta.deletion_timestamp = Some(Time(at(NOW))))
    }
}

fn observed<const N: usize>(replicas: usize, pods: [TestPod; N]) -> Observed {
    let pods: Vec<_> = pods.into_iter().map(|pod| Arc::new(pod.0)).collect();
    let selector = LabelSelector { match_labels: Some(labels("web")), ..LabelSelector::default() };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels("web")), ..ObjectMeta::default() }),
        spec: Some(PodSpec::default()),
    };
    let replica_set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("default".into()),
            uid: Some("rs".into()),
            generation: Some(7),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            selector: selector.clone(),
            template: Some(template),
            ..ReplicaSetSpec::default()
        }),
        status: None,
    };
    Observed {
        replica_set: Arc::new(replica_set),
        uid: "rs".into(),
        selector: selector.try_into().unwrap(),
        replicas,
        min_ready: Duration::ZERO,
        related: pods.clone(),
        pods,
        now: at(NOW),
    }
}

fn render(actions: &[Action]) -> String {
    let line = |action: &Action| match action {
        Action::Claim(Claim::Adopt, pod) => format!("adopt {}", pod.name_any()),
        Action::Claim(Claim::Release, pod) => format!("release {}", pod.name_any()),
        Action::Create { count, pod } => {
            format!("create {count} {}", pod.metadata.generate_name.as_deref().unwrap_or_default())
        }
        Action::Delete(pod) => format!("delete {}", pod.name_any()),
    };
    actions.iter().map(line).collect::<Vec<_>>().join(", ")
}

#[track_caller]
fn check<const N: usize>(replicas: usize, pods: [TestPod; N], expected: &str) {
    assert_eq!(render(&plan(&observed(replicas, pods))), expected);
}

/// The first pod goes before the second.
#[track_caller]
fn goes_first(first: impl FnOnce(TestPod) -> TestPod, second: impl FnOnce(TestPod) -> TestPod) {
    // Names are given so that a tie would be broken the other way.
    let (first, second) = (first(pod("z")), second(pod("a")));
    check(1, [second, first], "delete z");
}

#[test]
fn missing_pods_are_created_and_surplus_ones_deleted() {
    check(2, [], "create 2 web-");
    check(2, [pod("a")], "create 1 web-");
    check(2, [pod("a"), pod("b")], "");
    check(0, [pod("a"), pod("b")], "delete a, delete b");
    check(501, [], "create 500 web-");
}

#[test]
fn ended_and_ending_pods_do_not_count() {
    check(1, [pod("a").phase("Failed")], "create 1 web-");
    check(1, [pod("a").phase("Succeeded")], "create 1 web-");
    check(1, [pod("a").deleting()], "create 1 web-");
}

#[test]
fn orphans_that_match_are_adopted_and_counted() {
    check(1, [pod("a").orphan()], "adopt a");
    check(1, [pod("a").orphan(), pod("b").orphan().labelled("other")], "adopt a");
    check(1, [pod("a").orphan().deleting()], "create 1 web-");
    check(0, [pod("a").orphan()], "adopt a, delete a");
}

#[test]
fn pods_that_match_no_longer_are_released_and_replaced() {
    check(1, [pod("a").labelled("other")], "release a, create 1 web-");
}

#[test]
fn pods_of_others_are_left_alone() {
    check(1, [pod("a").of("other"), pod("b")], "");
}

#[test]
fn a_replica_set_that_is_being_deleted_does_nothing() {
    let mut observed = observed(3, [pod("a").orphan()]);
    Arc::make_mut(&mut observed.replica_set).metadata.deletion_timestamp = Some(Time(at(NOW)));
    assert_eq!(render(&plan(&observed)), "");
}

#[test]
fn the_least_useful_pod_goes_first() {
    goes_first(|p| p.on(""), |p| p.on("node").phase("Pending"));
    goes_first(|p| p.phase("Pending"), |p| p.phase("Unknown"));
    goes_first(|p| p.phase("Unknown"), |p| p.phase("Running"));
    goes_first(TestPod::unready, |p| p);
    goes_first(|p| p.cost("-5"), |p| p);
    goes_first(|p| p, |p| p.cost("5"));
    goes_first(|p| p.cost("not a number"), |p| p.cost("1"));
    goes_first(|p| p.ready_since(NOW - 10), |p| p.ready_since(NOW - 3600));
    goes_first(|p| p.restarts(3), |p| p.restarts(2));
    goes_first(|p| p.created(NOW - 10), |p| p.created(NOW - 3600));
}

#[test]
fn earlier_criteria_win() {
    goes_first(|p| p.on("").cost("100"), |p| p.unready());
    goes_first(|p| p.unready().cost("100"), |p| p.cost("-100"));
    goes_first(|p| p.cost("-1").ready_since(NOW - 3600), |p| p.ready_since(NOW - 1));
}

#[test]
fn nodes_with_more_related_pods_lose_one_first() {
    let pods = [pod("a").on("n1"), pod("b").on("n2"), pod("c").on("n2")];
    check(2, pods, "delete b");
    let mut observed = observed(1, [pod("a").on("n1"), pod("b").on("n2")]);
    observed.related.push(Arc::new(pod("sibling").of("other").on("n2").0));
    assert_eq!(render(&plan(&observed)), "delete b");
}

#[test]
fn the_status_counts_what_is_ours() {
    let mut observed = observed(
        5,
        [
            pod("ready"),
            pod("young").ready_since(NOW - 4),
            pod("unready").unready(),
            pod("ending").deleting(),
            pod("ended").phase("Failed"),
            pod("foreign").of("other"),
        ],
    );
    observed.min_ready = Duration::from_secs(10);
    let status = status(&observed, None);
    assert_eq!(
        (
            status.replicas,
            status.ready_replicas,
            status.available_replicas,
            status.terminating_replicas
        ),
        (3, Some(2), Some(1), Some(1))
    );
    assert_eq!((status.fully_labeled_replicas, status.observed_generation), (Some(3), Some(7)));
    assert_eq!(recheck_after(&observed), Some(Duration::from_secs(6)));
}

#[test]
fn a_failure_is_a_condition_until_it_is_over() {
    let mut observed = observed(1, []);
    let failure = Failure { reason: "FailedCreate", message: "quota".into() };
    let failed = status(&observed, Some(&failure));
    let condition = failed.conditions.as_ref().unwrap().first().unwrap().clone();
    assert_eq!(
        (condition.type_.as_str(), condition.reason.as_deref()),
        ("ReplicaFailure", Some("FailedCreate"))
    );
    Arc::make_mut(&mut observed.replica_set).status = Some(failed.clone());
    observed.now = at(NOW + 60);
    assert_eq!(status(&observed, Some(&failure)), failed);
    assert_eq!(status(&observed, None).conditions, None);
}

#[test]
fn a_created_pod_carries_the_template_and_its_owner() {
    let actions = plan(&observed(1, []));
    let Some(Action::Create { pod, .. }) = actions.first() else { panic!("{actions:?}") };
    assert_eq!(pod.metadata.labels, Some(labels("web")));
    let owner = owner::controller_of(&pod.metadata).unwrap();
    assert_eq!(
        (owner.name.as_str(), owner.kind.as_str(), owner.block_owner_deletion),
        ("web", "ReplicaSet", Some(true))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn plans_converge(replicas in 0..1_200_usize, own in 0..1_200_usize, orphans in 0..50_usize) {
        let own = (0..own).map(|i| pod(&format!("own-{i}")));
        let orphans = (0..orphans).map(|i| pod(&format!("orphan-{i}")).orphan());
        let mut pods: Vec<_> = own.chain(orphans).map(|pod| Arc::new(pod.0)).collect();
        let mut rounds = 0;
        loop {
            let world = Observed { pods: pods.clone(), related: pods.clone(), ..observed(replicas, []) };
            let actions = plan(&world);
            if actions.is_empty() {
                break;
            }
            rounds += 1;
            prop_assert!(rounds < 10, "still acting after {} rounds", rounds);
            for action in actions {
                match action {
                    Action::Claim(Claim::Adopt, adopted) => {
                        pods.retain(|pod| pod.uid() != adopted.uid());
                        pods.push(Arc::new(pod(&adopted.name_any()).0));
                    }
                    Action::Claim(Claim::Release, released) => pods.retain(|pod| pod.uid() != released.uid()),
                    Action::Create { count, .. } => {
                        pods.extend((0..count).map(|i| Arc::new(pod(&format!("new-{rounds}-{i}")).0)));
                    }
                    Action::Delete(deleted) => pods.retain(|pod| pod.uid() != deleted.uid()),
                }
            }
        }
        prop_assert_eq!(pods.len(), replicas);
    }
}
