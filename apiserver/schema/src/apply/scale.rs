//! Who owns the replicas of an object, as its Scale shows it.
//!
//! Source: KEP-2155 and `scalehandler.go` in upstream's `apimachinery/pkg/util/managedfields`.

use serde_json::Value;

use super::managers::{self, Entry, Operation};
use super::set::FieldSet;

/// `autoscaling/v1`, the version of every Scale.
pub const SCALE_VERSION: &str = "autoscaling/v1";
const REPLICAS_OF_SCALE: [&str; 2] = ["spec", "replicas"];

/// The `managedFields` of the Scale of `object`, whose replicas are at `path`.
#[must_use]
pub fn scale_owners(object: &Value, path: &[String]) -> Value {
    let mut owners = managers::read(object).unwrap_or_default();
    owners.retain_mut(|owner| owner.set().has(path));
    for owner in &mut owners {
        owner.api_version = SCALE_VERSION.to_owned();
        *owner.set() = FieldSet::of_path(&REPLICAS_OF_SCALE);
    }
    owners.into_iter().map(Entry::into_json).collect()
}

/// Takes over into `object` what a write to its Scale made of that record.
///
/// Whoever wrote without a time is new there, and upstream gives it none.
pub fn take_scale_owners(object: &mut Value, scale: &Value, path: &[String], api_version: &str) {
    let mut new = managers::read(scale).unwrap_or_default();
    let mut owners = managers::read(object).unwrap_or_default();
    for owner in owners.iter_mut().filter_map(|owner| owner.set().has(path).then_some(owner)) {
        let stays = new.iter().position(|entry| {
            let is_same = (&entry.manager, entry.operation, &entry.subresource)
                == (&owner.manager, owner.operation, &owner.subresource);
            is_same && (entry.operation == Operation::Apply || entry.time == owner.time)
        });
        match stays {
            Some(at) => _ = new.remove(at),
            None => owner.set().subtract(&FieldSet::of_path(path)),
        }
    }
    new.retain_mut(|owner| owner.set().has(&REPLICAS_OF_SCALE));
    for mut owner in new {
        owner.api_version = api_version.to_owned();
        owner.time.clear();
        *owner.set() = FieldSet::of_path(path);
        owners.push(owner);
    }
    managers::write(object, owners);
}
