//! What is wrong with the mounts and devices of a container.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::volume::Known;
use crate::types::check::{At, Causes, flag, items, text};

/// What a list of mounts or of devices calls its volumes, and where it puts them.
fn places<'v>(list: &'v Value, path: &str) -> HashMap<&'v str, &'v str> {
    let places = items(list).iter();
    places.map(|m| (text(m, "name"), m[path].as_str().unwrap_or_default())).collect()
}

/// `volumeMounts` and `volumeDevices` of a container.
pub(super) fn all(causes: &mut Causes, at: &At<'_>, container: &Value, volumes: &Known<'_>) {
    mounts(causes, &at.field("volumeMounts"), container, volumes);
    devices(causes, &at.field("volumeDevices"), container, volumes);
}

fn mounts(causes: &mut Causes, list: &At<'_>, container: &Value, volumes: &Known<'_>) {
    let devices = places(&container["volumeDevices"], "devicePath");
    let mut paths = HashSet::new();
    for (n, mount) in items(&container["volumeMounts"]).iter().enumerate() {
        let at = list.index(n);
        let (name_at, path_at) = (at.field("name"), at.field("mountPath"));
        let (name, path) = (text(mount, "name"), text(mount, "mountPath"));
        causes.present(&name_at, &mount["name"], "");
        if !volumes.contains(name) {
            causes.not_found(&name_at, &name.into());
        }
        causes.present(&path_at, &mount["mountPath"], "");
        if !paths.insert(path) {
            causes.invalid(&path_at, &path.into(), "must be unique");
        }
        if devices.contains_key(name) {
            causes.invalid(&name_at, &name.into(), "must not already exist in volumeDevices");
        }
        if devices.values().any(|device| *device == path) {
            let detail = "must not already exist as a path in volumeDevices";
            causes.invalid(&path_at, &path.into(), detail);
        }
        sub_path(causes, list, &at, mount);
        propagation(causes, list, mount, container);
    }
}

/// Upstream tells most faults of a mount without its index.
fn sub_path(causes: &mut Causes, list: &At<'_>, at: &At<'_>, mount: &Value) {
    let (path, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
    causes.local_path(&list.field("subPath"), path);
    if !expression.is_empty() {
        if !path.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            causes.invalid(&at.field("subPathExpr"), &expression.into(), detail);
        }
        causes.local_path(&list.field("subPathExpr"), expression);
    }
}

fn propagation(causes: &mut Causes, list: &At<'_>, mount: &Value, container: &Value) {
    let propagation = &mount["mountPropagation"];
    let at = list.field("mountPropagation");
    causes.one_of(&at, propagation, &["Bidirectional", "HostToContainer", "None"]);
    if propagation == "Bidirectional" && !flag(&container["securityContext"], "privileged") {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        causes.forbidden(&at, detail);
    }
    let at = list.field("recursiveReadOnly");
    let recursive = &mount["recursiveReadOnly"];
    causes.one_of(&at, recursive, &["Disabled", "Enabled", "IfPossible"]);
    if matches!(recursive.as_str(), Some("Enabled" | "IfPossible")) {
        if !flag(mount, "readOnly") {
            causes.forbidden(&at, "may only be specified when readOnly is true");
        }
        if propagation.as_str().is_some_and(|p| p != "None") {
            let detail = "may only be specified when mountPropagation is None or not specified";
            causes.forbidden(&at, detail);
        }
    }
}

fn devices(causes: &mut Causes, list: &At<'_>, container: &Value, volumes: &Known<'_>) {
    let mounts = places(&container["volumeMounts"], "mountPath");
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    for (n, device) in items(&container["volumeDevices"]).iter().enumerate() {
        let at = list.index(n);
        let (name_at, path_at) = (at.field("name"), at.field("devicePath"));
        let (name, path) = (text(device, "name"), text(device, "devicePath"));
        causes.present(&name_at, &device["name"], "");
        if !name.is_empty() && !names.insert(name) {
            causes.invalid(&name_at, &name.into(), "must be unique");
        }
        if !volumes.contains(name) {
            causes.not_found(&name_at, &name.into());
        } else if !volumes.is_claim(name) {
            causes.invalid(&name_at, &name.into(), "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode");
        }
        causes.present(&path_at, &device["devicePath"], "");
        if paths.contains(path) {
            causes.invalid(&path_at, &path.into(), "must be unique");
        }
        if path.split('/').any(|part| part == "..") {
            causes.invalid(&path_at, &path.into(), "can not contain backsteps ('..')");
        } else {
            paths.insert(path);
        }
        if mounts.contains_key(name) {
            causes.invalid(&name_at, &name.into(), "must not already exist in volumeMounts");
        }
        if mounts.values().any(|mount| *mount == path) {
            let detail = "must not already exist as a path in volumeMounts";
            causes.invalid(&path_at, &path.into(), detail);
        }
    }
}
