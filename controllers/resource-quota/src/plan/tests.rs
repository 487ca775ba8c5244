use serde_json::json;

use super::*;

fn amounts(list: Value) -> Amounts {
    Amounts::read(&list)
}

/// The planned `used` of a quota for five pods; `None` if the status stays.
#[track_caller]
fn used(before: Value, counted: Value, in_flight: Value, expected: Option<&str>) {
    let wanted = amounts(json!({"pods": 5}));
    let status = Status { hard: wanted.clone(), used: amounts(before) };
    let (counted, in_flight) = (amounts(counted), amounts(in_flight));
    let observed =
        Observed { wanted: &wanted, status: &status, counted: &counted, in_flight: &in_flight };
    let planned = plan(&observed).map(|status| status.used.to_string());
    assert_eq!(planned.as_deref(), expected);
}

#[test]
fn what_is_counted_is_what_is_used() {
    used(json!({}), json!({"pods": 0}), json!({}), Some("pods=0"));
    used(json!({"pods": 1}), json!({"pods": 3}), json!({}), Some("pods=3"));
    used(json!({"pods": 3}), json!({"pods": 1}), json!({}), Some("pods=1"));
    used(json!({"pods": 3}), json!({"pods": 3}), json!({}), None);
}

#[test]
fn what_is_in_flight_is_not_given_away_twice() {
    used(json!({"pods": 3}), json!({"pods": 2}), json!({"pods": 1}), None);
    used(json!({"pods": 4}), json!({"pods": 2}), json!({"pods": 1}), Some("pods=3"));
    used(json!({"pods": 3}), json!({"pods": 3}), json!({"pods": 2}), None);
    used(json!({"pods": 1}), json!({"pods": 3}), json!({"pods": 1}), Some("pods=3"));
}

#[test]
fn what_cannot_be_counted_stays() {
    used(json!({"pods": 2}), json!({}), json!({}), None);
    let wanted = amounts(json!({"count/widgets.example.com": 5, "pods": 1}));
    let counted = amounts(json!({"pods": 0}));
    let (status, none) = (Status::default(), Amounts::default());
    let observed =
        Observed { wanted: &wanted, status: &status, counted: &counted, in_flight: &none };
    let planned = plan(&observed).unwrap();
    assert_eq!(planned.used.to_string(), "pods=0", "nothing is said of what is unknown");
    assert!(planned.hard.equals(&wanted));
}

#[test]
fn a_new_limit_is_taken_over() {
    let (old, new) = (amounts(json!({"pods": 5, "services": 1})), amounts(json!({"pods": 9})));
    let status = Status { hard: old, used: amounts(json!({"pods": 2, "services": 1})) };
    let counted = amounts(json!({"pods": 2}));
    let none = Amounts::default();
    let observed = Observed { wanted: &new, status: &status, counted: &counted, in_flight: &none };
    let planned = plan(&observed).unwrap();
    assert_eq!(
        (planned.hard.to_string(), planned.used.to_string()),
        ("pods=9".to_owned(), "pods=2".to_owned())
    );
}

#[test]
fn charges_are_told_from_own_writes() {
    let at = |seconds: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
    let mut charges = Charges::default();
    charges.see(1, &amounts(json!({"pods": 2})), at(0));
    assert_eq!(charges.in_flight(at(1)).to_string(), "pods=2", "all of it, at first");
    charges.see(2, &amounts(json!({"pods": 3})), at(4));
    charges.see(2, &amounts(json!({"pods": 3})), at(4));
    assert_eq!(charges.in_flight(at(4)).to_string(), "pods=3");
    assert_eq!(charges.in_flight(at(6)).to_string(), "pods=1", "the first is old");
    charges.wrote(3, &amounts(json!({"pods": 1})));
    charges.see(2, &amounts(json!({"pods": 3})), at(7));
    charges.see(4, &amounts(json!({"pods": 2})), at(7));
    assert_eq!(
        charges.in_flight(at(8)).to_string(),
        "pods=2",
        "one before our write, one after it"
    );
    assert!(charges.in_flight(at(20)).is_empty());
}

#[test]
fn scopes_choose_what_is_counted() {
    let wanted = amounts(json!({"pods": 5, "requests.cpu": 5, "services": 1}));
    let container = json!({"resources": {"requests": {"cpu": "1"}}});
    let ends = json!({"spec": {"activeDeadlineSeconds": 1, "containers": [container]}});
    let stays = json!({"spec": {"containers": [container]}});
    let over = json!({"status": {"phase": "Succeeded"}});
    let count = |scopes: Value| {
        let selectors = Selector::of_quota(&json!({ "scopes": scopes }));
        let pods = [&ends, &stays, &over];
        let evaluator = Evaluator::new("", "pods");
        super::count(&evaluator, pods.into_iter(), &wanted, &selectors, Timestamp::UNIX_EPOCH)
            .to_string()
    };
    assert_eq!(count(json!([])), "pods=2,requests.cpu=2");
    assert_eq!(count(json!(["Terminating"])), "pods=1,requests.cpu=1");
    assert_eq!(count(json!(["BestEffort", "NotTerminating"])), "pods=0,requests.cpu=0");
}

#[test]
fn types_follow_from_the_names() {
    let wanted = amounts(
        json!({"count/jobs.batch": 1, "limits.cpu": 1, "pods": 1, "secrets": 1, "unheard": 1}),
    );
    let types: Vec<String> =
        types(&wanted).into_iter().map(|(group, resource)| format!("{resource}.{group}")).collect();
    assert_eq!(types, ["pods.", "secrets.", "jobs.batch"]);
    let evaluator = Evaluator::new("", "secrets");
    let wanted = amounts(json!({"count/secrets": 9, "secrets": 9}));
    assert_eq!(count_all(&evaluator, 3, &wanted, &[]).to_string(), "count/secrets=3,secrets=3");
    let scoped = Selector::of_quota(&json!({"scopes": ["BestEffort"]}));
    assert_eq!(count_all(&evaluator, 3, &wanted, &scoped).to_string(), "count/secrets=0,secrets=0");
}
