//! What has to be done about one object, given who owns whom.
//!
//! Source: kubernetes.io, "Garbage Collection" and "Owners and Dependents".

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::graph::{FOREGROUND, Graph, Kind, Life, ORPHAN, Object, Uid};

/// What the server said about owners of one object that the graph does not show: by uid, whether
/// such an object exists under the name that the reference gives.
pub type Verified = HashMap<String, bool>;

/// How the dependents of a deleted object are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted before.
    Foreground,
    /// They stay.
    Orphan,
}

/// What to do about an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It is as it should be.
    Keep,
    /// Ask the server whether these owners exist; then plan again.
    Verify(Vec<OwnerReference>),
    /// It names an owner that exists, but of which the graph does not know yet: look again later.
    LookAgain,
    /// Nothing can be said, since the server does not serve the kind of this owner: look again later.
    UnknownKind(OwnerReference),
    /// It names an owner in a namespace, although it is in none itself: it is left alone.
    Misplaced(OwnerReference),
    /// Delete it.
    Delete(Propagation),
    /// Write these owners, which leave out those that are gone.
    SetOwners(Vec<OwnerReference>),
    /// Remove a finalizer of ours.
    RemoveFinalizer(&'static str),
    /// Let these dependents go; once there are none, its finalizer goes too.
    Release(Vec<Uid>),
    /// It waits for these to be deleted.
    Await(Vec<Uid>),
}

/// What to do about the object with this uid.
pub fn plan(graph: &Graph, uid: &str, verified: &Verified) -> Action {
    let Some(object) = graph.get(uid) else { return Action::Keep };
    match object.life {
        Life::Deleting => Action::Keep,
        Life::Orphaning => {
            let dependents: Vec<_> = graph.dependents(uid).map(|d| Arc::clone(&d.uid)).collect();
            if dependents.is_empty() {
                Action::RemoveFinalizer(ORPHAN)
            } else {
                Action::Release(dependents)
            }
        }
        Life::DeletingDependents => {
            let blocks = |d: &&Object| {
                let reference = d.reference_to(uid).filter(|_| *d.uid != *uid); // Not for itself.
                reference.is_some_and(|o| o.block_owner_deletion == Some(true))
            };
            let blocking: Vec<_> =
                graph.dependents(uid).filter(blocks).map(|d| Arc::clone(&d.uid)).collect();
            if blocking.is_empty() {
                Action::RemoveFinalizer(FOREGROUND)
            } else {
                Action::Await(blocking)
            }
        }
        Life::Alive => plan_alive(graph, object, verified),
    }
}

/// The object's owners without the one of this uid.
pub fn owners_without(object: &Object, owner: &str) -> Vec<OwnerReference> {
    object.owners.iter().filter(|o| o.uid != owner).cloned().collect()
}

/// The kind that a reference names.
pub fn kind_of(owner: &OwnerReference) -> Kind {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    Kind { group: group.to_owned(), kind: owner.kind.clone() }
}

enum Standing {
    /// It is there and stays.
    Solid,
    /// It is there and stays, says the server; the graph does not show it.
    Unseen,
    /// It is there until its dependents are gone.
    WaitsForDependents,
    Gone,
    /// Only the server can tell.
    Unclear,
    UnknownKind,
    Misplaced,
}

fn plan_alive(graph: &Graph, object: &Object, verified: &Verified) -> Action {
    let mut stay = Vec::new();
    let mut unclear = Vec::new();
    let (mut n_waiting, mut unseen) = (0, false);
    for owner in &object.owners {
        match standing(graph, object, owner, verified) {
            Standing::Solid => stay.push(owner.clone()),
            Standing::Unseen => {
                unseen = true;
                stay.push(owner.clone());
            }
            Standing::WaitsForDependents => n_waiting += 1,
            Standing::Gone => (),
            Standing::Unclear => unclear.push(owner.clone()),
            Standing::UnknownKind => return Action::UnknownKind(owner.clone()),
            Standing::Misplaced => return Action::Misplaced(owner.clone()),
        }
    }
    if !unclear.is_empty() {
        return Action::Verify(unclear);
    }
    if stay.len() == object.owners.len() {
        return if unseen { Action::LookAgain } else { Action::Keep };
    }
    if !stay.is_empty() {
        return Action::SetOwners(stay);
    }
    if n_waiting > 0 && graph.dependents(&object.uid).next().is_some() {
        return delete_in_foreground(graph, object);
    }
    Action::Delete(match object.finalizer {
        Some(ORPHAN) => Propagation::Orphan,
        Some(FOREGROUND) => Propagation::Foreground,
        _ => Propagation::Background,
    })
}

/// A ring of objects that wait for each other would wait for ever: this one then stops to block.
fn delete_in_foreground(graph: &Graph, object: &Object) -> Action {
    let in_ring = graph.dependents(&object.uid).any(|d| d.life == Life::DeletingDependents);
    let blocks = object.owners.iter().any(|o| o.block_owner_deletion == Some(true));
    if in_ring && blocks {
        let unblocked = object.owners.iter().cloned();
        let unblocked =
            unblocked.map(|o| OwnerReference { block_owner_deletion: Some(false), ..o });
        return Action::SetOwners(unblocked.collect());
    }
    Action::Delete(Propagation::Foreground)
}

fn standing(
    graph: &Graph,
    object: &Object,
    owner: &OwnerReference,
    verified: &Verified,
) -> Standing {
    let kind = kind_of(owner);
    let namespaced = graph.is_namespaced(&kind);
    if namespaced == Some(true) && object.namespace.is_none() {
        return Standing::Misplaced;
    }
    // An owner of the right uid elsewhere is not meant: references do not cross namespaces.
    let is_meant = |found: &&Object| {
        found.name.as_ref() == owner.name
            && *found.kind == kind
            && (found.namespace.is_none() || found.namespace == object.namespace)
    };
    match graph.get(&owner.uid).filter(is_meant) {
        Some(found) if found.life == Life::DeletingDependents => Standing::WaitsForDependents,
        Some(_) => Standing::Solid,
        None if graph.is_absent(&owner.uid) => Standing::Gone,
        None => match verified.get(&owner.uid) {
            Some(true) => Standing::Unseen,
            Some(false) => Standing::Gone,
            None if namespaced.is_none() => Standing::UnknownKind,
            None => Standing::Unclear,
        },
    }
}
