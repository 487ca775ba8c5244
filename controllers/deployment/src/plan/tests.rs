//! Tables through one `check`, and whole rollouts on a fake world.

use k8s_openapi::{
    api::{
        apps::v1::{
            DeploymentSpec, DeploymentStatus, DeploymentStrategy, ReplicaSetSpec, ReplicaSetStatus,
        },
        core::v1::{Container, PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time},
};
use proptest::{prop_assert, prop_assert_eq, proptest, test_runner::Config as ProptestConfig};

use super::{
    Strategy,
    revision::{DESIRED, MAX},
    *,
};

const NOW: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), "web".to_owned())])
}

fn template(image: &str) -> PodTemplateSpec {
    let container =
        Container { name: "web".into(), image: Some(image.into()), ..Container::default() };
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels()), ..ObjectMeta::default() }),
        spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
    }
}

/// A ReplicaSet of the Deployment, named after its image and created in the order of those names.
struct Rs(ReplicaSet);

fn rs(image: &str, revision: i64, replicas: i32, available: i32) -> Rs {
    let owner =
        OwnerReference { uid: "d".into(), controller: Some(true), ..OwnerReference::default() };
    let age = i64::from(image.bytes().last().unwrap_or_default());
    let annotations = [(REVISION, revision), (DESIRED, 10), (MAX, 13)];
    Rs(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("web-{image}")),
            uid: Some(image.into()),
            generation: Some(1),
            labels: Some(labels()),
            annotations: Some(annotations.map(|(k, v)| (k.to_owned(), v.to_string())).into()),
            creation_timestamp: Some(Time(at(age))),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            template: Some(template(image)),
            min_ready_seconds: Some(0),
            ..ReplicaSetSpec::default()
        }),
        status: Some(ReplicaSetStatus {
            replicas,
            ready_replicas: Some(available),
            available_replicas: Some(available),
            observed_generation: Some(1),
            ..ReplicaSetStatus::default()
        }),
    })
}

impl Rs {
    fn sized_for(mut self, desired: i32, max: i32) -> Self {
        let annotations = self.0.annotations_mut();
        annotations.insert(DESIRED.into(), desired.to_string());
        annotations.insert(MAX.into(), max.to_string());
        self
    }
}

/// Ten replicas of image `v9`, at most three more and two less, revision told.
fn observed<const N: usize>(sets: [Rs; N]) -> Observed {
    let spec = DeploymentSpec {
        replicas: Some(10),
        template: template("v9"),
        selector: LabelSelector { match_labels: Some(labels()), ..LabelSelector::default() },
        ..DeploymentSpec::default()
    };
    let deployment = Deployment {
        metadata: ObjectMeta {
            name: Some("web".into()),
            uid: Some("d".into()),
            generation: Some(1),
            annotations: Some(BTreeMap::from([(REVISION.to_owned(), "9".to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    };
    Observed {
        selector: selector(&deployment).unwrap(),
        deployment: Arc::new(deployment),
        uid: "d".into(),
        replicas: 10,
        strategy: Strategy::RollingUpdate { max_surge: 3, max_unavailable: 2 },
        deadline: Some(Duration::from_secs(600)),
        history_limit: Some(2),
        replica_sets: sets.into_iter().map(|rs| Arc::new(rs.0)).collect(),
        old_pods_remain: false,
        now: at(NOW),
    }
}

fn edit(observed: &mut Observed, edit: impl FnOnce(&mut Deployment)) {
    edit(Arc::make_mut(&mut observed.deployment));
}

fn pause(observed: &mut Observed) {
    edit(observed, |d| d.spec.get_or_insert_default().paused = Some(true));
}

fn render(actions: &[Action]) -> String {
    let line = |action: &Action| match action {
        Action::Claim(Claim::Adopt, rs) => format!("adopt {}", rs.name_any()),
        Action::Claim(Claim::Release, rs) => format!("release {}", rs.name_any()),
        Action::Create(rs) => format!("create {}", replicas_of(rs)),
        Action::Update(update) => match update.replicas {
            Some(replicas) => format!("{} {replicas}", update.replica_set.name_any()),
            None => format!("annotate {}", update.replica_set.name_any()),
        },
        Action::Delete(rs) => format!("delete {}", rs.name_any()),
        Action::SetRevision(revision) => format!("revision {revision}"),
    };
    actions.iter().map(line).collect::<Vec<_>>().join(", ")
}

#[track_caller]
fn check(observed: &Observed, expected: &str) {
    assert_eq!(render(&plan(observed)), expected);
}

#[test]
fn the_first_replica_set_gets_everything() {
    check(&observed([]), "create 10, revision 1");
}

#[test]
fn a_settled_deployment_does_nothing() {
    check(&observed([rs("v9", 9, 10, 10)]), "");
    check(&observed([rs("v8", 8, 0, 0), rs("v9", 9, 10, 10)]), "");
}

#[test]
fn a_new_template_surges_while_the_old_one_makes_room() {
    check(&observed([rs("v8", 8, 10, 10)]), "create 3, web-v8 8");
}

#[test]
fn rolling_goes_on_within_the_bounds() {
    // 11 of 13 are there: two more.
    check(&observed([rs("v8", 8, 8, 8), rs("v9", 9, 3, 0)]), "web-v9 5");
    // 13 of 13, but none of the new ones is available, and 8 are the least.
    check(&observed([rs("v8", 8, 8, 8), rs("v9", 9, 5, 0)]), "");
    check(&observed([rs("v8", 8, 8, 8), rs("v9", 9, 5, 3)]), "web-v8 5");
    check(&observed([rs("v8", 8, 1, 1), rs("v9", 9, 10, 9)]), "web-v8 0");
}

#[test]
fn unhealthy_old_pods_go_first() {
    // Six of the ten are broken: they may all go although nothing new is available.
    check(&observed([rs("v7", 7, 6, 0), rs("v8", 8, 4, 4), rs("v9", 9, 3, 0)]), "web-v7 4");
    check(&observed([rs("v8", 8, 4, 4), rs("v9", 9, 10, 4)]), "");
    check(
        &observed([rs("v7", 7, 4, 4), rs("v8", 8, 4, 4), rs("v9", 9, 5, 5)]),
        "web-v7 0, web-v8 3",
    );
}

#[test]
fn a_template_that_was_there_before_becomes_the_newest_revision() {
    let mut observed = observed([rs("v9", 3, 0, 0), rs("v8", 9, 10, 10)]);
    check(&observed, "web-v9 3, revision 10");
    let actions = plan(&observed);
    let Some(Action::Update(update)) = actions.first() else { panic!("{actions:?}") };
    let annotation = |name: &str| update.annotations.get(name).map(String::as_str);
    assert_eq!(annotation(REVISION), Some("10"));
    assert_eq!(annotation("deployment.kubernetes.io/revision-history"), Some("3"));
    pause(&mut observed);
    check(&observed, "annotate web-v9, revision 10");
}

#[test]
fn annotations_are_copied_but_not_those_of_machines() {
    let mut observed = observed([]);
    edit(&mut observed, |d| {
        d.annotations_mut().insert("kubernetes.io/change-cause".into(), "why".into());
        d.annotations_mut()
            .insert("kubectl.kubernetes.io/last-applied-configuration".into(), "{}".into());
    });
    let actions = plan(&observed);
    let Some(Action::Create(rs)) = actions.first() else { panic!("{actions:?}") };
    let mut names: Vec<_> = rs.annotations().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, [DESIRED, MAX, REVISION, "kubernetes.io/change-cause"]);
    let hash = rs.labels().get("pod-template-hash").unwrap();
    assert_eq!(rs.name_any(), format!("web-{hash}"));
    assert!(
        rs.spec
            .as_ref()
            .unwrap()
            .selector
            .match_labels
            .as_ref()
            .unwrap()
            .contains_key("pod-template-hash")
    );
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut observed = observed([rs("v8", 8, 10, 10)]);
    pause(&mut observed);
    check(&observed, "");
    observed.replicas = 4;
    check(&observed, "web-v8 4");
}

#[test]
fn scaling_a_settled_deployment_scales_its_replica_set() {
    let mut up = observed([rs("v9", 9, 10, 10)]);
    up.replicas = 20;
    check(&up, "web-v9 20");
    up.replicas = 0;
    check(&up, "web-v9 0");
}

#[test]
fn scaling_during_a_rollout_is_proportional() {
    let middle = || [rs("v8", 8, 8, 8), rs("v9", 9, 5, 3)];
    let mut up = observed(middle());
    up.replicas = 20;
    up.strategy = Strategy::RollingUpdate { max_surge: 6, max_unavailable: 4 };
    check(&up, "web-v8 16, web-v9 10");
    let mut down = observed(middle());
    down.replicas = 5;
    down.strategy = Strategy::RollingUpdate { max_surge: 2, max_unavailable: 1 };
    check(&down, "web-v8 4, web-v9 3");
    let mut none = observed(middle());
    none.replicas = 0;
    check(&none, "web-v8 0, web-v9 0");
}

#[test]
fn recreate_waits_until_all_old_pods_are_gone() {
    let recreate = |sets: Vec<Rs>, old_pods_remain| Observed {
        strategy: Strategy::Recreate,
        old_pods_remain,
        replica_sets: sets.into_iter().map(|rs| Arc::new(rs.0)).collect(),
        ..observed([])
    };
    check(&recreate(vec![rs("v8", 8, 10, 10)], false), "web-v8 0");
    check(&recreate(vec![rs("v8", 8, 0, 0)], true), "");
    check(&recreate(vec![rs("v8", 8, 0, 0)], false), "create 10");
    check(&recreate(vec![rs("v8", 8, 0, 0), rs("v9", 9, 0, 0)], false), "web-v9 10");
}

#[test]
fn old_history_is_deleted_when_the_rollout_is_done() {
    let sets = || {
        [
            rs("v5", 7, 0, 0),
            rs("v6", 5, 0, 0),
            rs("v7", 6, 0, 0),
            rs("v8", 8, 0, 0),
            rs("v9", 9, 10, 10),
        ]
    };
    let mut done = observed(sets());
    check(&done, "");
    edit(&mut done, |d| {
        d.status = Some(DeploymentStatus {
            replicas: Some(10),
            updated_replicas: Some(10),
            available_replicas: Some(10),
            observed_generation: Some(1),
            ..DeploymentStatus::default()
        });
    });
    check(&done, "delete web-v6, delete web-v7");
    done.history_limit = None;
    check(&done, "");
}

#[test]
fn orphans_are_adopted_and_strangers_left_alone() {
    let mut orphan = rs("v9", 9, 10, 10);
    orphan.0.metadata.owner_references = None;
    let mut foreign = rs("v8", 8, 10, 10);
    for owner in foreign.0.owner_references_mut() {
        owner.uid = "other".into();
    }
    check(&observed([orphan, foreign]), "adopt web-v9");
    let mut relabelled = rs("v9", 9, 10, 10);
    relabelled.0.metadata.labels = None;
    check(&observed([relabelled]), "release web-v9");
}

#[test]
fn bounds_are_resolved_as_documented() {
    let resolved = |surge: IntOrString, unavailable: IntOrString, replicas| {
        let mut deployment =
            Deployment { spec: Some(DeploymentSpec::default()), ..Deployment::default() };
        let rolling = k8s_openapi::api::apps::v1::RollingUpdateDeployment {
            max_surge: Some(surge),
            max_unavailable: Some(unavailable),
        };
        deployment.spec.get_or_insert_default().strategy = Some(DeploymentStrategy {
            rolling_update: Some(rolling),
            type_: Some("RollingUpdate".into()),
        });
        strategy(&deployment, replicas)
    };
    let percent = |text: &str| IntOrString::String(text.into());
    let bounds =
        |max_surge, max_unavailable| Ok(Strategy::RollingUpdate { max_surge, max_unavailable });
    assert_eq!(resolved(percent("25%"), percent("25%"), 10), bounds(3, 2));
    assert_eq!(resolved(percent("25%"), percent("25%"), 1), bounds(1, 0));
    assert_eq!(resolved(IntOrString::Int(0), percent("25%"), 3), bounds(0, 1));
    assert_eq!(resolved(IntOrString::Int(2), IntOrString::Int(5), 3), bounds(2, 3));
    assert!(resolved(percent("many"), percent("25%"), 3).is_err());
}

fn reason(status: &DeploymentStatus, type_: &str) -> String {
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == type_);
    condition
        .map_or("-".into(), |c| format!("{} {}", c.status, c.reason.as_deref().unwrap_or_default()))
}

fn next(observed: &mut Observed, outcome: &Outcome) -> String {
    let status = status(observed, outcome);
    let reasons = format!("{}; {}", reason(&status, "Progressing"), reason(&status, "Available"));
    edit(observed, |d| d.status = Some(status));
    reasons
}

#[test]
fn conditions_follow_a_rollout() {
    let set = |observed: &mut Observed, sets: Vec<Rs>| {
        observed.replica_sets = sets.into_iter().map(|rs| Arc::new(rs.0)).collect();
    };
    let o = &mut observed([]);
    let created = Outcome { created: Some("web-v9".into()), create_failed: None };
    let none = &Outcome::default();
    assert_eq!(next(o, &created), "True NewReplicaSetCreated; False MinimumReplicasUnavailable");
    set(o, vec![rs("v9", 1, 10, 0)]);
    assert_eq!(next(o, none), "True ReplicaSetUpdated; False MinimumReplicasUnavailable");
    set(o, vec![rs("v9", 1, 10, 8)]);
    assert_eq!(next(o, none), "True ReplicaSetUpdated; True MinimumReplicasAvailable");
    set(o, vec![rs("v9", 1, 10, 10)]);
    assert_eq!(next(o, none), "True NewReplicaSetAvailable; True MinimumReplicasAvailable");
    assert_eq!(recheck_after(o), None);
    // A pod is lost later: that is no rollout.
    set(o, vec![rs("v9", 1, 10, 9)]);
    assert_eq!(next(o, none), "True NewReplicaSetAvailable; True MinimumReplicasAvailable");
}

#[test]
fn a_rollout_that_stands_still_times_out() {
    let o = &mut observed([rs("v9", 1, 10, 0)]);
    let none = &Outcome::default();
    assert_eq!(next(o, none), "True ReplicaSetUpdated; False MinimumReplicasUnavailable");
    o.now = at(NOW + 600);
    assert_eq!(recheck_after(o), Some(Duration::from_secs(1)));
    assert_eq!(next(o, none), "True ReplicaSetUpdated; False MinimumReplicasUnavailable");
    o.now = at(NOW + 601);
    assert_eq!(next(o, none), "False ProgressDeadlineExceeded; False MinimumReplicasUnavailable");
    assert_eq!(recheck_after(o), None);
    o.deadline = None;
    assert_eq!(next(o, none), "-; False MinimumReplicasUnavailable");
}

#[test]
fn pausing_and_failing_are_told() {
    let o = &mut observed([rs("v8", 1, 10, 10)]);
    let failed = Outcome { created: None, create_failed: Some("quota".into()) };
    assert_eq!(next(o, &failed), "False ReplicaSetCreateError; True MinimumReplicasAvailable");
    pause(o);
    assert_eq!(
        next(o, &Outcome::default()),
        "Unknown DeploymentPaused; True MinimumReplicasAvailable"
    );
    edit(o, |d| d.spec.get_or_insert_default().paused = None);
    assert_eq!(
        next(o, &Outcome::default()),
        "Unknown DeploymentResumed; True MinimumReplicasAvailable"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// From any mixture of ReplicaSets a rollout ends in the wanted state, and while it lasts there
    /// are never more pods, and never fewer available ones, than allowed (once they were enough).
    #[test]
    fn rollouts_converge_within_their_bounds(
        replicas in 1..30_i32,
        sizes in (0..30_i32, 0..30_i32, 0..30_i32),
        surge in 0..8_i32,
        unavailable in 0..8_i32,
        pace in 1..7_i32,
    ) {
        let max_unavailable = if surge == 0 { unavailable.max(1) } else { unavailable }.min(replicas);
        let sized = |image, revision, size| rs(image, revision, size, size).sized_for(replicas, replicas + surge);
        let mut world = observed([sized("v7", 7, sizes.0), sized("v8", 8, sizes.1), sized("v9", 9, sizes.2)]);
        world.replicas = replicas;
        world.strategy = Strategy::RollingUpdate { max_surge: surge, max_unavailable };
        let most = (replicas + surge).max(sizes.0 + sizes.1 + sizes.2);
        let mut was_enough = false;
        for round in 0.. {
            prop_assert!(round < 1_000, "still acting");
            let actions = plan(&world);
            let mut moved = false;
            for action in actions {
                if let Action::Update(update) = action {
                    moved = true;
                    let index = world.replica_sets.iter().position(|rs| rs.uid() == update.replica_set.uid()).unwrap();
                    let rs = Arc::make_mut(&mut world.replica_sets[index]);
                    rs.annotations_mut().extend(update.annotations);
                    if let Some(replicas) = update.replicas {
                        rs.spec.get_or_insert_default().replicas = Some(replicas);
                        let status = rs.status.get_or_insert_default();
                        status.available_replicas = Some(status.available_replicas.unwrap_or(0).min(replicas));
                    }
                }
            }
            // Some pods become available.
            for rs in &mut world.replica_sets {
                let rs = Arc::make_mut(rs);
                let wanted = replicas_of(rs);
                let status = rs.status.get_or_insert_default();
                let before = status.available_replicas.unwrap_or(0);
                let after = (before + pace).min(wanted);
                moved |= before != after;
                status.available_replicas = Some(after);
                status.replicas = wanted;
            }
            let total: i32 = world.replica_sets.iter().map(|rs| replicas_of(rs)).sum();
            prop_assert!(total <= most, "{} pods, at most {}", total, most);
            let available: i32 = world.replica_sets.iter().map(|rs| available_of(rs)).sum();
            was_enough |= available >= replicas - max_unavailable;
            if was_enough {
                prop_assert!(available >= replicas - max_unavailable, "only {} available", available);
            }
            if !moved {
                break;
            }
        }
        let sizes: Vec<_> = world.replica_sets.iter().map(|rs| replicas_of(rs)).collect();
        prop_assert_eq!(sizes, [0, 0, replicas]);
    }
}
