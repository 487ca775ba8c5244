//! Device rules, and the node's devices for privileged containers.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde_json::{Value, json};

/// Character devices that every container may use: (major, minor); no minor means all.
///
/// null, full, zero, random, urandom, tty, console, ptmx, pts.
const ALWAYS: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// Folders of /dev that every container has of its own.
const OWN_FOLDERS: [&str; 5] = ["pts", "shm", "mqueue", "fd", "console"];

/// The device cgroup's rules.
pub(super) fn rules(privileged: bool) -> Value {
    if privileged {
        return json!([{"allow": true, "access": "rwm"}]);
    }
    let mut rules = vec![
        json!({"allow": false, "access": "rwm"}),
        json!({"allow": true, "type": "c", "access": "m"}), // Making nodes is harmless where opening is refused.
        json!({"allow": true, "type": "b", "access": "m"}),
    ];
    rules.extend(ALWAYS.iter().map(|(major, minor)| match minor {
        Some(minor) => {
            json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"})
        }
        None => json!({"allow": true, "type": "c", "major": major, "access": "rwm"}),
    }));
    json!(rules)
}

/// All device nodes of the node, in the runtime specification's form.
pub(crate) fn host_devices() -> Vec<Value> {
    let mut devices = Vec::new();
    collect(Path::new("/dev"), &mut devices);
    devices
}

fn collect(folder: &Path, devices: &mut Vec<Value>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let kind = metadata.file_type();
        if kind.is_dir() && !OWN_FOLDERS.iter().any(|own| entry.file_name() == *own) {
            collect(&path, devices);
        }
        let letter = match (kind.is_char_device(), kind.is_block_device()) {
            (true, _) if path == Path::new("/dev/console") => continue,
            (true, _) => "c",
            (_, true) => "b",
            _ => continue,
        };
        devices.push(json!({
            "path": path,
            "type": letter,
            "major": nix::sys::stat::major(metadata.rdev()),
            "minor": nix::sys::stat::minor(metadata.rdev()),
            "fileMode": metadata.mode() & 0o7777,
            "uid": metadata.uid(),
            "gid": metadata.gid(),
        }));
    }
}
