//! What is wrong with the status of claims: what was allocated, for whom, and what drivers say of it.

use std::collections::HashSet;

use schema::Cause;
use serde_json::Value;
use uuid::Uuid;

use super::super::check::{At, Causes, items, part, remove, text};
use super::super::{pod, sources, words};
use super::request::{Names, configuration, fits, pool_name, raw, reference, references, unique};
use super::slice::binding;

/// Most entries of a list of results.
const ENTRIES: usize = 32;
/// Most users of a claim.
const USERS: usize = 256;

/// `status` of a claim that takes the place of another.
pub(super) fn status(causes: &mut Causes, new: &Value, old: &Value) {
    let at = At::new("status");
    let (status, before) = (&new["status"], &old["status"]);
    let users = &status["reservedFor"];
    let list = at.field("reservedFor");
    if fits(causes, &list, users, USERS) {
        for (n, user) in items(users).iter().enumerate() {
            let at = list.index(n);
            for field in ["resource", "name", "uid"] {
                causes.present(&at.field(field), &user[field], "");
            }
        }
        unique(causes, &list, items(users).iter().map(|user| text(user, "uid")));
    }
    let (allocation, allocated) = (&status["allocation"], &before["allocation"]);
    if !items(users).is_empty() {
        let added = || has_new(items(users), items(&before["reservedFor"]));
        if allocation.is_null() {
            causes.forbidden(&list, "may not be specified when `allocated` is not set");
        } else if !new["metadata"]["deletionTimestamp"].is_null() && added() {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            causes.forbidden(&list, detail);
        }
    }
    if status["devices"] != before["devices"] {
        devices(causes, &at.field("devices"), status);
    }
    let at = at.field("allocation");
    if !allocation.is_null() && !allocated.is_null() {
        causes.immutable(&at, allocation, allocated);
    } else if !allocation.is_null() {
        self::allocation(causes, &at, allocation, &Names::of(&new["spec"]["devices"]));
    }
}

/// What drivers say of devices that were allocated.
fn devices(causes: &mut Causes, at: &At<'_>, status: &Value) {
    const CONDITIONS: usize = 8;
    let allocated = identities(&status["allocation"]);
    let mut seen = HashSet::new();
    for (n, device) in items(&status["devices"]).iter().enumerate() {
        let at = at.index(n);
        sources::driver_name(causes, &at.field("driver"), &device["driver"]);
        pool_name(causes, &at.field("pool"), &device["pool"]);
        let name = text(device, "device");
        causes.faults(&at.field("device"), name, words::label(name));
        share(causes, &at.field("shareID"), &device["shareID"]);
        let key = identity(device);
        if !allocated.contains(&key) {
            causes.invalid(&at, device, "must be an allocated device in the claim");
        }
        if !seen.insert(key) {
            causes.duplicate(&at, device);
        }
        let conditions = at.field("conditions");
        fits(causes, &conditions, &device["conditions"], CONDITIONS);
        causes.conditions(&conditions, &device["conditions"]);
        if !device["data"].is_null() {
            raw(causes, &at.field("data"), &device["data"]);
        }
        network(causes, &at.field("networkData"), &device["networkData"]);
    }
}

fn allocation(causes: &mut Causes, at: &At<'_>, allocation: &Value, names: &Names<'_>) {
    let devices = &allocation["devices"];
    let devices_at = at.field("devices");
    let list = devices_at.field("results");
    if fits(causes, &list, &devices["results"], ENTRIES) {
        for (n, result) in items(&devices["results"]).iter().enumerate() {
            let at = list.index(n);
            reference(causes, &at.field("request"), text(result, "request"), names);
            sources::driver_name(causes, &at.field("driver"), &result["driver"]);
            pool_name(causes, &at.field("pool"), &result["pool"]);
            causes.label(&at.field("device"), &result["device"]);
            binding(causes, &at, result);
            share(causes, &at.field("shareID"), &result["shareID"]);
        }
    }
    let list = devices_at.field("config");
    if fits(causes, &list, &devices["config"], 2 * ENTRIES) {
        for (n, config) in items(&devices["config"]).iter().enumerate() {
            let at = list.index(n);
            let source = &config["source"];
            if causes.present(&at.field("source"), source, "") {
                causes.one_of(&at.field("source"), source, &["FromClaim", "FromClass"]);
            }
            references(causes, &at.field("requests"), &config["requests"], names);
            configuration(causes, &at, config);
        }
    }
    if !allocation["nodeSelector"].is_null() {
        pod::node_selector(causes, &at.field("nodeSelector"), &allocation["nodeSelector"]);
    }
}

/// What tells a device, or a share of one, from all others.
fn identity(device: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|field| text(device, field))
}

/// The devices of an allocation.
fn identities(allocation: &Value) -> HashSet<[&str; 4]> {
    items(&allocation["devices"]["results"]).iter().map(identity).collect()
}

/// Whether a list has users that another does not have.
fn has_new(users: &[Value], before: &[Value]) -> bool {
    let before: HashSet<&Value> = before.iter().collect();
    users.iter().any(|user| !before.contains(user))
}

/// What drivers said of devices goes when these are no longer allocated.
pub(super) fn drop_freed_devices(new: &mut Value, old: &Value) {
    let allocation = new["status"]["allocation"].clone();
    let (before, now) = (identities(&old["status"]["allocation"]), identities(&allocation));
    let Some(status) = part(new, "status") else { return };
    let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) else { return };
    devices.retain(|device| {
        let device = identity(device);
        now.contains(&device) || !before.contains(&device)
    });
    if devices.is_empty() {
        remove(status, "devices");
    }
}

/// The identity of a share: a UUID as it is usually written.
fn share(causes: &mut Causes, at: &At<'_>, id: &Value) {
    let Some(text) = id.as_str() else { return };
    const WRITTEN: usize = 36;
    match text.len() {
        32 | WRITTEN | 38 | 45 if Uuid::parse_str(text).is_ok() => {
            if text.len() != WRITTEN || text.chars().any(|c| c.is_ascii_uppercase()) {
                causes.invalid(at, id, "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters");
            }
        }
        32 | WRITTEN | 38 | 45 => {
            causes.invalid(at, id, "error validating uid: invalid UUID format");
        }
        other => {
            let detail = format!("error validating uid: invalid UUID length: {other}");
            causes.invalid(at, id, &detail);
        }
    }
}

/// Addresses that a network device has.
fn network(causes: &mut Causes, at: &At<'_>, data: &Value) {
    const MOST: [(&str, usize); 2] = [("interfaceName", 256), ("hardwareAddress", 128)];
    const ADDRESSES: usize = 16;
    for (field, most) in MOST {
        if text(data, field).len() > most {
            causes.0.push(Cause::too_long(at.field(field).to_string(), most as u64));
        }
    }
    let list = at.field("ips");
    let ips = items(&data["ips"]);
    if fits(causes, &list, &data["ips"], ADDRESSES) {
        for (n, ip) in ips.iter().enumerate() {
            causes.interface_address(&list.index(n), ip);
        }
        unique(causes, &list, ips.iter().map(|ip| ip.as_str().unwrap_or_default()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MANY: usize = 50_000;

    fn claim(devices: &[Value]) -> Value {
        json!({"spec": {}, "status": {"devices": devices,
            "allocation": {"devices": {"results": devices}}}})
    }

    #[test]
    fn long_lists_take_no_longer_than_they_are_long() {
        let device = |n: usize| json!({"driver": "d", "pool": "p", "device": format!("d{n}")});
        let devices: Vec<Value> = (0..MANY).map(device).collect();
        let mut causes = Causes::default();
        self::devices(&mut causes, &At::new("devices"), &claim(&devices)["status"]);
        assert_eq!(causes.0.len(), 0);
        let mut freed = claim(&devices);
        freed["status"]["allocation"]["devices"]["results"] = json!(devices[MANY - 1..]);
        drop_freed_devices(&mut freed, &claim(&devices));
        assert_eq!(freed["status"]["devices"], json!(devices[MANY - 1..]));
        assert!(has_new(&devices, &devices[..MANY - 1]));
        assert!(!has_new(&devices[1..], &devices));
    }
}
