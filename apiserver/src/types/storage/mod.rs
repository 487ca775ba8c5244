//! Persistent volumes, their claims and classes, and what CSI drivers tell of themselves.

mod claim;
mod class;
mod csi;
mod volume;

use serde_json::Value;

use super::check::{At, Causes, items, members};

pub(super) use claim::{Claims, claim_spec, claim_warnings, template_default};
pub(super) use class::{AttributesClasses, Classes};
pub(super) use csi::{Attachments, Capacities, DriverNodes, Drivers};
pub(super) use volume::Volumes;

const ACCESS_MODES: [&str; 4] =
    ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

/// Access modes of a volume or a claim.
fn access_modes(causes: &mut Causes, at: &At<'_>, modes: &Value, detail: &str) {
    let modes = items(modes);
    if modes.is_empty() {
        causes.required(at, detail);
    }
    for mode in modes {
        causes.one_of(at, mode, &ACCESS_MODES);
    }
    let one_pod = |mode: &&Value| *mode == "ReadWriteOncePod";
    let others = modes.iter().filter(|mode| !one_pod(mode));
    let mut others = others.filter_map(Value::as_str).filter(|mode| ACCESS_MODES.contains(mode));
    if modes.iter().any(|mode| one_pod(&mode)) && others.next().is_some() {
        causes.forbidden(at, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Bytes of all keys and values of a map of texts.
fn bytes(map: &Value) -> usize {
    members(map).map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
}
