use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn thing() -> Kind {
    Kind { group: "example.com".into(), kind: "Thing".into() }
}

fn cluster_thing() -> Kind {
    Kind { group: "example.com".into(), kind: "ClusterThing".into() }
}

fn graph() -> Graph {
    let mut graph = Graph::default();
    graph.set_kinds([(thing(), true), (cluster_thing(), false)].into());
    graph
}

fn owner(kind: &str, name: &str, block: bool) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": kind, "name": name, "uid": name,
        "blockOwnerDeletion": block})
}

/// An object in namespace `n` whose uid is its name; owners are names, with `!` if it blocks them.
fn thing_named(name: &str, owners: &[&str]) -> Value {
    let refs = owners.iter().map(|o| owner("Thing", o.trim_end_matches('!'), o.ends_with('!')));
    json!({"name": name, "namespace": "n", "uid": name, "resourceVersion": "1",
        "ownerReferences": refs.collect::<Vec<_>>()})
}

fn dying(mut object: Value, finalizers: &[&str]) -> Value {
    object["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    object["finalizers"] = json!(finalizers);
    object
}

fn read(kind: Kind, metadata: &Value) -> Object {
    let metadata: ObjectMeta = serde_json::from_value(metadata.clone()).unwrap();
    Object::new(Arc::new(kind), metadata).unwrap()
}

fn render(action: &Action) -> String {
    let names = |owners: &[OwnerReference]| {
        let name = |o: &OwnerReference| {
            let mark = if o.block_owner_deletion == Some(true) { "!" } else { "" };
            format!(" {}{mark}", o.name)
        };
        owners.iter().map(name).collect::<String>()
    };
    let uids = |uids: &[Uid]| uids.iter().map(|u| format!(" {u}")).collect::<String>();
    match action {
        Action::Keep => "keep".into(),
        Action::LookAgain => "look again".into(),
        Action::Verify(owners) => format!("verify{}", names(owners)),
        Action::UnknownKind(owner) => format!("unknown kind {}", owner.kind),
        Action::Misplaced(owner) => format!("misplaced {}", owner.name),
        Action::Delete(how) => format!("delete {how:?}"),
        Action::SetOwners(owners) => format!("owners{}", names(owners)),
        Action::RemoveFinalizer(finalizer) => format!("remove {finalizer}"),
        Action::Release(dependents) => format!("release{}", uids(dependents)),
        Action::Await(dependents) => format!("await{}", uids(dependents)),
    }
}

/// What to do about the last of `objects`; `gone` were deleted before, `found` the server knows.
#[track_caller]
fn check(objects: &[Value], gone: &[&str], found: &[(&str, bool)], expected: &str) {
    let mut graph = graph();
    for object in objects {
        graph.apply(read(thing(), object));
    }
    for uid in gone {
        graph.remove(uid);
    }
    let verified = found.iter().map(|(uid, exists)| ((*uid).to_owned(), *exists)).collect();
    let last = objects.last().unwrap()["uid"].as_str().unwrap();
    assert_eq!(render(&plan(&graph, last, &verified)), expected);
}

#[test]
fn what_has_an_owner_that_stays_is_kept() {
    check(&[thing_named("a", &[])], &[], &[], "keep");
    check(&[thing_named("a", &[]), thing_named("b", &["a"])], &[], &[], "keep");
}

#[test]
fn an_owner_that_nobody_has_seen_is_asked_for() {
    let orphan = [thing_named("b", &["a"])];
    check(&orphan, &[], &[], "verify a");
    check(&orphan, &[], &[("a", false)], "delete Background");
    check(&orphan, &[], &[("a", true)], "look again");
}

#[test]
fn an_owner_that_was_seen_to_go_is_not_asked_for() {
    let objects = [thing_named("a", &[]), thing_named("b", &["a"])];
    check(&objects, &["a"], &[], "delete Background");
    check(&[thing_named("b", &["a"])], &["a"], &[], "delete Background");
}

#[test]
fn one_owner_that_stays_is_enough_the_others_are_forgotten() {
    let objects = [thing_named("a", &[]), thing_named("c", &[]), thing_named("b", &["a", "c!"])];
    check(&objects, &["a"], &[], "owners c!");
    check(&objects, &["a", "c"], &[], "delete Background");
    let waiting =
        [dying(thing_named("a", &[]), &[FOREGROUND]), objects[1].clone(), objects[2].clone()];
    check(&waiting, &[], &[], "owners c!");
}

#[test]
fn foreground_deletion_goes_from_the_leaves_up() {
    let root = dying(thing_named("a", &[]), &[FOREGROUND]);
    let middle = thing_named("b", &["a!"]);
    let leaf = thing_named("c", &["b!"]);
    check(&[leaf.clone(), middle.clone(), root.clone()], &[], &[], "await b");
    check(&[leaf.clone(), root.clone(), middle.clone()], &[], &[], "delete Foreground");
    let middle_dying = dying(middle.clone(), &[FOREGROUND]);
    check(&[root.clone(), middle_dying.clone(), leaf.clone()], &[], &[], "delete Background");
    check(&[root.clone(), leaf.clone(), middle_dying], &["c"], &[], "remove foregroundDeletion");
    check(&[middle, root], &["b"], &[], "remove foregroundDeletion");
}

#[test]
fn who_does_not_block_is_not_waited_for() {
    let root = dying(thing_named("a", &[]), &[FOREGROUND]);
    check(&[thing_named("b", &["a"]), root], &[], &[], "remove foregroundDeletion");
}

#[test]
fn a_ring_does_not_wait_for_itself() {
    let a = dying(thing_named("a", &["b!"]), &[FOREGROUND]);
    let b = thing_named("b", &["a!"]);
    check(&[a, b], &[], &[], "owners a");
}

#[test]
fn orphans_are_released_before_their_owner_goes() {
    let root = dying(thing_named("a", &[]), &[ORPHAN]);
    let child = thing_named("b", &["a"]);
    check(&[child.clone(), root.clone()], &[], &[], "release b");
    check(&[root.clone(), child.clone()], &[], &[], "keep");
    check(&[child, root], &["b"], &[], "remove orphan");
}

#[test]
fn what_is_being_deleted_is_left_alone() {
    check(&[dying(thing_named("b", &["a"]), &["example.com/mine"])], &["a"], &[], "keep");
}

#[test]
fn references_do_not_cross_namespaces() {
    let mut elsewhere = thing_named("a", &[]);
    elsewhere["namespace"] = json!("other");
    check(&[elsewhere.clone(), thing_named("b", &["a"])], &[], &[], "verify a");
    check(&[elsewhere, thing_named("b", &["a"])], &[], &[("a", false)], "delete Background");
}

#[test]
fn owners_without_namespace_may_own_anything_but_not_the_reverse() {
    let mut graph = graph();
    let mut top = thing_named("top", &[]);
    top.as_object_mut().unwrap().remove("namespace");
    graph.apply(read(cluster_thing(), &top));
    let mut owned = thing_named("b", &[]);
    owned["ownerReferences"] = json!([owner("ClusterThing", "top", false)]);
    graph.apply(read(thing(), &owned));
    assert_eq!(render(&plan(&graph, "b", &Verified::new())), "keep");
    let mut wrong = thing_named("c", &["b"]);
    wrong.as_object_mut().unwrap().remove("namespace");
    graph.apply(read(cluster_thing(), &wrong));
    assert_eq!(render(&plan(&graph, "c", &Verified::new())), "misplaced b");
}

#[test]
fn owners_of_an_unknown_kind_are_given_the_benefit_of_the_doubt() {
    let mut object = thing_named("b", &[]);
    object["ownerReferences"] = json!([owner("Nothing", "a", false)]);
    check(&[object.clone()], &[], &[], "unknown kind Nothing");
    check(&[object], &["a"], &[], "delete Background");
}

#[track_caller]
fn check_looks_at(before: &[Value], change: Result<&Value, &str>, expected: &str) {
    let mut graph = graph();
    for object in before {
        graph.apply(read(thing(), object));
    }
    let looks_at = match change {
        Ok(object) => graph.apply(read(thing(), object)),
        Err(gone) => graph.remove(gone),
    };
    assert_eq!(looks_at.join(" "), expected);
}

#[test]
fn changes_wake_those_whom_they_concern() {
    let (root, child) = (thing_named("a", &[]), thing_named("b", &["a!"]));
    let dying_root = dying(root.clone(), &[FOREGROUND]);
    check_looks_at(&[], Ok(&root), "");
    check_looks_at(std::slice::from_ref(&root), Ok(&child), "b");
    check_looks_at(&[root.clone(), child.clone()], Ok(&child), "");
    check_looks_at(&[root.clone(), child.clone()], Err("a"), "b");
    check_looks_at(&[root.clone(), child.clone()], Ok(&dying_root), "b a");
    check_looks_at(&[dying_root.clone(), child.clone()], Err("b"), "a");
    check_looks_at(&[dying_root.clone(), child.clone()], Ok(&thing_named("b", &[])), "a");
    check_looks_at(&[dying_root, child], Ok(&thing_named("b", &["a"])), "a b");
}

/// A server that does what it is told, and tells the graph.
struct World {
    objects: BTreeMap<String, Value>,
    graph: Graph,
    pending: BTreeSet<Uid>,
}

impl World {
    fn write(&mut self, object: Value) {
        let name = object["name"].as_str().unwrap().to_owned();
        let woken = if object.get("deletionTimestamp").is_some()
            && object["finalizers"].as_array().is_none_or(Vec::is_empty)
        {
            self.objects.remove(&name);
            self.graph.remove(&name)
        } else {
            self.objects.insert(name, object.clone());
            self.graph.apply(read(thing(), &object))
        };
        self.pending.extend(woken);
    }

    fn delete(&mut self, name: &str, how: Propagation) {
        let object = self.objects[name].clone();
        let finalizer = match how {
            Propagation::Background => &[][..],
            Propagation::Foreground => &[FOREGROUND],
            Propagation::Orphan => &[ORPHAN],
        };
        self.write(dying(object, finalizer));
    }

    fn set_owners(&mut self, name: &str, owners: &[OwnerReference]) {
        let mut object = self.objects[name].clone();
        object["ownerReferences"] = json!(owners);
        self.write(object);
    }

    fn step(&mut self) -> bool {
        let Some(uid) = self.pending.pop_first() else { return false };
        let mut verified = Verified::new();
        let action = match plan(&self.graph, &uid, &verified) {
            Action::Verify(owners) => {
                let exists =
                    |o: OwnerReference| (o.uid.clone(), self.objects.contains_key(&o.name));
                verified.extend(owners.into_iter().map(exists));
                plan(&self.graph, &uid, &verified)
            }
            action => action,
        };
        match action {
            Action::Delete(how) => self.delete(&uid, how),
            Action::SetOwners(owners) => self.set_owners(&uid, &owners),
            Action::RemoveFinalizer(_) => {
                let object = self.objects[&*uid].clone();
                self.write(dying(object, &[]));
            }
            Action::Release(dependents) => {
                for dependent in dependents {
                    let owners = owners_without(self.graph.get(&dependent).unwrap(), &uid);
                    self.set_owners(&dependent, &owners);
                }
            }
            Action::Await(dependents) => self.pending.extend(dependents),
            Action::Keep | Action::LookAgain => (),
            Action::Verify(_) | Action::UnknownKind(_) | Action::Misplaced(_) => {
                unreachable!("{action:?}")
            }
        }
        true
    }
}

proptest! {
    /// Whatever owns whatever, and however the first is deleted: it ends, the first is gone, and what is left has an owner or never had one.
    #[test]
    fn collection_ends_and_is_complete(
        owners in proptest::collection::vec(proptest::collection::btree_map(0..12_usize, any::<bool>(), 0..3), 1..12),
        how in prop_oneof![Just(Propagation::Background), Just(Propagation::Foreground), Just(Propagation::Orphan)],
    ) {
        let mut world = World { objects: BTreeMap::new(), graph: graph(), pending: BTreeSet::new() };
        for (i, owners) in owners.iter().enumerate() {
            let names: Vec<_> = owners.iter().map(|(o, block)| format!("{o:02}{}", if *block { "!" } else { "" })).collect();
            world.write(thing_named(&format!("{i:02}"), &names.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        let mut n_steps = 0;
        let mut settle = |world: &mut World| {
            while world.step() {
                n_steps += 1;
                assert!(n_steps < 5000, "does not end: {:?}", world.objects);
            }
        };
        settle(&mut world);
        if world.objects.contains_key("00") {
            let before: BTreeSet<_> = world.objects.keys().cloned().collect();
            world.delete("00", how);
            settle(&mut world);
            prop_assert!(!world.objects.contains_key("00"));
            if how == Propagation::Orphan {
                prop_assert_eq!(world.objects.len(), before.len() - 1);
            }
        }
        for object in world.objects.values() {
            prop_assert!(object.get("deletionTimestamp").is_none(), "stuck: {}", object);
            for owner in object["ownerReferences"].as_array().unwrap() {
                prop_assert!(world.objects.contains_key(owner["name"].as_str().unwrap()), "dangling: {}", object);
            }
        }
    }
}
