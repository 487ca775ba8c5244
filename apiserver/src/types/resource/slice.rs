//! What is wrong with slices of a pool of devices.

use std::sync::LazyLock;

use regex::Regex;
use schema::Cause;
use serde_json::Value;

use super::super::check::{At, Causes, flag, is_empty, items, members, text};
use super::super::words;
use super::super::{pod, sources};
use super::policy::policy;
use super::request::{fits, pool_name, qualified_name, unique};

/// Most devices of a slice, and of one that has taints or counters.
const DEVICES: (usize, usize) = (128, 64);
/// Most attributes and capacities of a device.
const ATTRIBUTES: usize = 32;
/// Most sets of counters of a slice, and most counters of one.
const COUNTERS: (usize, usize) = (8, 32);
/// Most taints of a device.
const TAINTS: usize = 16;
/// Most sets of counters that a device takes from.
const CONSUMED: usize = 2;
/// Most conditions that a binding waits for, or fails by.
const CONDITIONS: usize = 4;
/// Most letters of an attribute's value.
const VALUE: u64 = 64;

/// Ways to say which nodes have the devices.
const NODES: [&str; 4] = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];

/// `spec` of a slice.
pub(super) fn spec(causes: &mut Causes, spec: &Value, old: Option<&Value>) {
    let at = At::new("spec");
    sources::driver_name(causes, &at.field("driver"), &spec["driver"]);
    pool(causes, &at.field("pool"), &spec["pool"]);
    if let Some(old) = old {
        let pool = at.field("pool");
        causes.immutable(&pool.field("name"), &spec["pool"]["name"], &old["pool"]["name"]);
        for field in ["driver", "nodeName"] {
            causes.immutable(&at.field(field), &spec[field], &old[field]);
        }
    }
    nodes(
        causes,
        &at,
        spec,
        &NODES,
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
    );
    if !spec["sharedCounters"].is_null() && !spec["devices"].is_null() {
        let detail = "only one of `sharedCounters` or `devices` is allowed";
        causes.invalid(&at, &"".into(), detail);
    }
    let devices = &spec["devices"];
    let advanced = |d: &Value| !is_empty(&d["taints"]) || !is_empty(&d["consumesCounters"]);
    let most = if items(devices).iter().any(advanced) { DEVICES.1 } else { DEVICES.0 };
    let list = at.field("devices");
    if fits(causes, &list, devices, most) {
        for (n, device) in items(devices).iter().enumerate() {
            self::device(causes, &list.index(n), device, flag(spec, "perDeviceNodeSelection"));
        }
        unique(causes, &list, items(devices).iter().map(|device| text(device, "name")));
    }
    let list = at.field("sharedCounters");
    if fits(causes, &list, &spec["sharedCounters"], COUNTERS.0) {
        for (n, set) in items(&spec["sharedCounters"]).iter().enumerate() {
            counters(causes, &list.index(n), set, "name");
        }
        unique(causes, &list, items(&spec["sharedCounters"]).iter().map(|set| text(set, "name")));
    }
}

fn pool(causes: &mut Causes, at: &At<'_>, pool: &Value) {
    pool_name(causes, &at.field("name"), &pool["name"]);
    let number = |field: &str| pool[field].as_i64().unwrap_or_default();
    let count = number("resourceSliceCount");
    if count <= 0 {
        let at = at.field("resourceSliceCount");
        causes.invalid(&at, &count.into(), "must be greater than zero");
    }
    let generation = number("generation");
    if generation < 0 {
        let detail = "must be greater than or equal to zero";
        causes.invalid(&at.field("generation"), &generation.into(), detail);
    }
}

/// Exactly one of the `ways` to say which nodes have a device.
fn nodes(causes: &mut Causes, at: &At<'_>, spec: &Value, ways: &[&str], needed: &str) {
    let mut set = Vec::new();
    for way in ways.iter().filter(|way| !spec[**way].is_null()) {
        let value = &spec[*way];
        let field = at.field(way);
        match *way {
            "nodeName" if is_empty(value) => {
                let detail = "must be either unset or set to a non-empty string";
                causes.invalid(&field, value, detail);
                continue;
            }
            "nodeName" => causes.subdomain(&field, value),
            "nodeSelector" => {
                pod::node_selector(causes, &field, value);
                if items(&value["nodeSelectorTerms"]).len() != 1 {
                    let detail = "must have exactly one node selector term";
                    let terms = field.field("nodeSelectorTerms");
                    causes.invalid(&terms, &value["nodeSelectorTerms"], detail);
                }
            }
            _ if *value == false => {
                causes.invalid(&field, value, "must be either unset or set to true");
                continue;
            }
            _ => (),
        }
        set.push(format!("`{way}`"));
    }
    match set.len() {
        0 => causes.required(at, needed),
        1 => (),
        _ => {
            let shown = format!("{{{}}}", set.join(", "));
            let why = match ways.len() == NODES.len() {
                true => format!("{needed}, but multiple fields are set"),
                false => needed.to_owned(),
            };
            causes.invalid(at, &shown.into(), &why);
        }
    }
}

fn device(causes: &mut Causes, at: &At<'_>, device: &Value, selects_nodes: bool) {
    causes.label(&at.field("name"), &device["name"]);
    let (attributes, capacity) = (&device["attributes"], &device["capacity"]);
    let n = members(attributes).count() + members(capacity).count();
    if n > ATTRIBUTES {
        let why =
            format!("the total number of attributes and capacities must not exceed {ATTRIBUTES}");
        causes.invalid(at, &n.into(), &why);
    }
    let map = at.field("attributes");
    for (name, attribute) in members(attributes) {
        qualified_name(causes, &map, name);
        self::attribute(causes, &map.key(name), attribute);
    }
    let map = at.field("capacity");
    for (name, amount) in members(capacity) {
        qualified_name(causes, &map, name);
        let limits = &amount["requestPolicy"];
        let at = map.key(name);
        let at = at.field("requestPolicy");
        if limits.is_null() {
            continue;
        } else if flag(device, "allowMultipleAllocations") {
            policy(causes, &at, limits, &amount["value"]);
        } else {
            causes.forbidden(&at, "allowMultipleAllocations must be true");
        }
    }
    let list = at.field("taints");
    let taints = items(&device["taints"]);
    if fits(causes, &list, &device["taints"], TAINTS) {
        for (n, taint) in taints.iter().enumerate() {
            self::taint(causes, &list.index(n), taint);
        }
    }
    let list = at.field("consumesCounters");
    let consumed = items(&device["consumesCounters"]);
    if fits(causes, &list, &device["consumesCounters"], CONSUMED) {
        for (n, set) in consumed.iter().enumerate() {
            counters(causes, &list.index(n), set, "counterSet");
        }
        unique(causes, &list, consumed.iter().map(|set| text(set, "counterSet")));
    }
    if selects_nodes {
        nodes(
            causes,
            at,
            device,
            &NODES[..3],
            "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
        );
    } else if NODES[..3].iter().any(|way| !device[*way].is_null()) {
        causes.invalid(at, &Value::Null, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec");
    }
    binding(causes, at, device);
}

/// What must have come true before a pod is bound, and what means that it will not.
pub(super) fn binding(causes: &mut Causes, at: &At<'_>, device: &Value) {
    const FIELDS: [&str; 2] = ["bindingConditions", "bindingFailureConditions"];
    let lists = FIELDS.map(|field| items(&device[field]));
    let mut fit = true;
    for (field, list) in FIELDS.iter().zip(lists) {
        let at = at.field(field);
        if !fits(causes, &at, &device[*field], CONDITIONS) {
            fit = false;
            continue;
        }
        for (n, condition) in list.iter().enumerate() {
            let condition = condition.as_str().unwrap_or_default();
            causes.faults(&at.index(n), condition, words::qualified(condition));
        }
    }
    if fit {
        distinct(causes, at, FIELDS, lists);
    }
    for (field, other, own, others) in
        [(FIELDS[0], FIELDS[1], lists[0], lists[1]), (FIELDS[1], FIELDS[0], lists[1], lists[0])]
    {
        if own.is_empty() && !others.is_empty() {
            let detail = format!("{field} are required to use {other}");
            causes.invalid(&at.field(field), &device[field], &detail);
        }
    }
}

/// No condition comes twice, in one list or in both.
fn distinct(causes: &mut Causes, at: &At<'_>, fields: [&str; 2], lists: [&[Value]; 2]) {
    for (own, field) in fields.iter().enumerate() {
        let at = at.field(field);
        for (n, condition) in lists[own].iter().enumerate() {
            if lists[own][..n].contains(condition) {
                causes.duplicate(&at.index(n), condition);
            }
            if own == 1 && lists[0].contains(condition) {
                let detail = "bindingFailureConditions must not overlap with bindingConditions";
                causes.invalid(&at.index(n), condition, detail);
            }
        }
    }
}

fn taint(causes: &mut Causes, at: &At<'_>, taint: &Value) {
    let (key, value) = (text(taint, "key"), text(taint, "value"));
    causes.faults(&at.field("key"), key, words::qualified(key));
    causes.faults(&at.field("value"), value, words::label_value(value));
    if causes.present(&at.field("effect"), &taint["effect"], "") {
        let effects = ["NoExecute", "NoSchedule", "None"];
        causes.one_of(&at.field("effect"), &taint["effect"], &effects);
    }
}

fn counters(causes: &mut Causes, at: &At<'_>, set: &Value, name: &str) {
    if causes.present(&at.field(name), &set[name], "") {
        causes.label(&at.field(name), &set[name]);
    }
    let counters = &set["counters"];
    let map = at.field("counters");
    causes.present(&map, counters, "");
    let n = members(counters).count();
    if n > COUNTERS.1 {
        causes.0.push(Cause::too_many(map.to_string(), n, COUNTERS.1 as u64));
    }
    for (name, _) in members(counters) {
        causes.label(&map, &name.as_str().into());
    }
}

fn attribute(causes: &mut Causes, at: &At<'_>, attribute: &Value) {
    static VERSION: LazyLock<Regex> = LazyLock::new(|| {
        let number = r"(0|[1-9]\d*)";
        let pre = r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)";
        let build = "[0-9a-zA-Z-]+";
        let pattern =
            format!(r"^{number}\.{number}\.{number}(-{pre}(\.{pre})*)?(\+{build}(\.{build})*)?$");
        schema::regexps::compile(&pattern).expect("the pattern is right")
    });
    const ONE: &str = "exactly one value must be specified";
    let mut value = |at: &At<'_>, kind: &str, value: &Value| {
        let Some(text) = value.as_str() else { return };
        if kind.starts_with("version") && !VERSION.is_match(text) {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            causes.invalid(at, value, detail);
        }
        if text.len() as u64 > VALUE {
            causes.0.push(Cause::too_long(at.to_string(), VALUE));
        }
    };
    let given: Vec<_> = members(attribute).filter(|(_, value)| !value.is_null()).collect();
    for (kind, one) in &given {
        let at = at.field(kind);
        value(&at, kind, one);
        for (n, entry) in items(one).iter().enumerate() {
            value(&at.index(n), kind, entry);
        }
    }
    match given.len() {
        0 => causes.invalid(at, &"".into(), ONE),
        1 => (),
        _ => causes.invalid(at, attribute, ONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_of_conditions_are_not_compared() {
        let many: Vec<String> = (0..300_000).map(|n| n.to_string()).collect();
        let device =
            serde_json::json!({"bindingConditions": many, "bindingFailureConditions": many});
        let mut causes = Causes::default();
        binding(&mut causes, &At::new("device"), &device);
        let fields: Vec<&str> = causes.0.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(fields, ["device.bindingConditions", "device.bindingFailureConditions"]);
    }
}
