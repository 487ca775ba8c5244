//! What is wrong with requests for devices, with what selects and configures devices, and with what was allocated.

use std::collections::{HashMap, HashSet};

use schema::Cause;
use serde_json::Value;

use super::super::check::{At, Causes, is_empty, items, text};
use super::super::{sources, words};

/// Most entries of most lists of a claim.
const ENTRIES: usize = 32;
/// Most alternatives of a request.
const ALTERNATIVES: usize = 8;
/// Most letters of a CEL expression, and most bytes of a driver's parameters.
const EXPRESSION: usize = 10 * 1024;
/// What a CEL expression may cost, by its estimate.
const COST: u64 = 1_000_000;

const REFERENCE: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// Requests of a claim, by their names, with those of their alternatives.
pub(super) struct Names<'v>(HashMap<&'v str, HashSet<&'v str>>);

impl<'v> Names<'v> {
    pub(super) fn of(devices: &'v Value) -> Self {
        let alternatives = |request: &'v Value| {
            items(&request["firstAvailable"]).iter().map(|sub| text(sub, "name")).collect()
        };
        let requests = items(&devices["requests"]).iter();
        Self(requests.map(|request| (text(request, "name"), alternatives(request))).collect())
    }

    fn has(&self, name: &str) -> bool {
        match name.split_once('/') {
            None => self.0.contains_key(name),
            Some((request, sub)) => self.0.get(request).is_some_and(|subs| subs.contains(sub)),
        }
    }
}

/// Whether a list is short enough for a look at its entries.
pub(super) fn fits(causes: &mut Causes, at: &At<'_>, list: &Value, most: usize) -> bool {
    let n = items(list).len();
    if n > most {
        causes.0.push(Cause::too_many(at.to_string(), n, most as u64));
    }
    n <= most
}

/// Entries of a list that must not come twice.
pub(super) fn unique<'v>(causes: &mut Causes, at: &At<'_>, keys: impl Iterator<Item = &'v str>) {
    let mut seen = HashSet::new();
    for (n, key) in keys.enumerate() {
        if !seen.insert(key) {
            causes.duplicate(&at.index(n), &key.into());
        }
    }
}

/// `spec` of a claim or of a claim template.
pub(super) fn claim(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let devices = &spec["devices"];
    let at = at.field("devices");
    let names = Names::of(devices);
    let list = at.field("requests");
    if fits(causes, &list, &devices["requests"], ENTRIES) {
        for (n, request) in items(&devices["requests"]).iter().enumerate() {
            self::request(causes, &list.index(n), request);
        }
        unique(causes, &list, items(&devices["requests"]).iter().map(|r| text(r, "name")));
    }
    let list = at.field("constraints");
    if fits(causes, &list, &devices["constraints"], ENTRIES) {
        for (n, constraint) in items(&devices["constraints"]).iter().enumerate() {
            self::constraint(causes, &list.index(n), constraint, &names);
        }
    }
    let list = at.field("config");
    if fits(causes, &list, &devices["config"], ENTRIES) {
        for (n, config) in items(&devices["config"]).iter().enumerate() {
            let at = list.index(n);
            references(causes, &at.field("requests"), &config["requests"], &names);
            configuration(causes, &at, config);
        }
    }
}

fn request(causes: &mut Causes, at: &At<'_>, request: &Value) {
    causes.faults(&at.field("name"), text(request, "name"), words::label(text(request, "name")));
    let (exactly, alternatives) = (&request["exactly"], &request["firstAvailable"]);
    match (exactly.is_null(), is_empty(alternatives)) {
        (true, true) => {
            causes.required(at, "exactly one of `exactly` or `firstAvailable` is required");
        }
        (false, false) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            causes.invalid(at, &Value::Null, detail);
        }
        (false, true) => wanted(causes, &at.field("exactly"), exactly),
        (true, false) => {
            let list = at.field("firstAvailable");
            if fits(causes, &list, alternatives, ALTERNATIVES) {
                for (n, sub) in items(alternatives).iter().enumerate() {
                    let at = list.index(n);
                    let name = text(sub, "name");
                    causes.faults(&at.field("name"), name, words::label(name));
                    wanted(causes, &at, sub);
                }
                unique(causes, &list, items(alternatives).iter().map(|sub| text(sub, "name")));
            }
        }
    }
}

/// What devices, and how many of them.
fn wanted(causes: &mut Causes, at: &At<'_>, request: &Value) {
    if causes.present(&at.field("deviceClassName"), &request["deviceClassName"], "") {
        causes.subdomain(&at.field("deviceClassName"), &request["deviceClassName"]);
    }
    selectors(causes, &at.field("selectors"), &request["selectors"]);
    let mode = text(request, "allocationMode");
    let count = request["count"].as_i64().unwrap_or_default();
    match mode {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            causes.invalid(&at.field("count"), &count.into(), detail);
        }
        "ExactCount" if count <= 0 => {
            causes.invalid(&at.field("count"), &count.into(), "must be greater than zero");
        }
        "All" | "ExactCount" => (),
        _ => {
            causes.not_supported(&at.field("allocationMode"), &mode.into(), &["All", "ExactCount"])
        }
    }
    let list = at.field("tolerations");
    for (n, toleration) in items(&request["tolerations"]).iter().enumerate() {
        device_toleration(causes, &list.index(n), toleration);
    }
}

fn device_toleration(causes: &mut Causes, at: &At<'_>, toleration: &Value) {
    let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
    if !key.is_empty() {
        causes.faults(&at.field("key"), key, words::qualified(key));
    }
    let value = text(toleration, "value");
    match operator {
        "Exists" if !value.is_empty() => {
            let detail = "must be empty for operator `Exists`";
            causes.invalid(&at.field("value"), &value.into(), detail);
        }
        "Exists" => (),
        "Equal" => causes.faults(&at.field("value"), value, words::label_value(value)),
        "" => causes.required(&at.field("operator"), ""),
        _ => causes.not_supported(&at.field("operator"), &operator.into(), &["Equal", "Exists"]),
    }
    let effects = ["NoExecute", "NoSchedule", "None"];
    causes.one_of(&at.field("effect"), &toleration["effect"], &effects);
}

/// CEL expressions that choose devices.
pub(super) fn selectors(causes: &mut Causes, at: &At<'_>, selectors: &Value) {
    if !fits(causes, at, selectors, ENTRIES) {
        return;
    }
    for (n, selector) in items(selectors).iter().enumerate() {
        let at = at.index(n);
        let at = at.field("cel");
        if selector["cel"].is_null() {
            causes.required(&at, "");
            continue;
        }
        let expression = text(&selector["cel"], "expression");
        let at = at.field("expression");
        if expression.len() > EXPRESSION {
            causes.0.push(Cause::too_long(at.to_string(), EXPRESSION as u64));
        } else {
            match schema::cel::device_selector(expression) {
                Err(fault) => causes.invalid(&at, &expression.into(), &fault),
                Ok(cost) if cost > COST => {
                    causes.forbidden(&at, "too complex, exceeds cost limit");
                }
                Ok(_) => (),
            }
        }
    }
}

/// What a driver is told, whatever it makes of it.
pub(super) fn configuration(causes: &mut Causes, at: &At<'_>, config: &Value) {
    let opaque = &config["opaque"];
    let at = at.field("opaque");
    if opaque.is_null() {
        return causes.required(&at, "");
    }
    sources::driver_name(causes, &at.field("driver"), &opaque["driver"]);
    raw(causes, &at.field("parameters"), &opaque["parameters"]);
}

/// What only a driver understands: an object that is not too long.
pub(super) fn raw(causes: &mut Causes, at: &At<'_>, data: &Value) {
    if data.is_null() {
        causes.required(at, "");
    } else if data.to_string().len() > EXPRESSION {
        causes.0.push(Cause::too_long(at.to_string(), EXPRESSION as u64));
    } else if !data.is_object() {
        causes.invalid(at, &"<value omitted>".into(), "must be a valid JSON object");
    }
}

fn constraint(causes: &mut Causes, at: &At<'_>, constraint: &Value, names: &Names<'_>) {
    references(causes, &at.field("requests"), &constraint["requests"], names);
    let fields = ["matchAttribute", "distinctAttribute"];
    match fields.into_iter().find_map(|field| Some((field, constraint[field].as_str()?))) {
        Some((field, name)) => fully_qualified(causes, &at.field(field), name),
        None => causes.required(at, "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set"),
    }
}

pub(super) fn references(causes: &mut Causes, at: &At<'_>, references: &Value, names: &Names<'_>) {
    if !fits(causes, at, references, ENTRIES) {
        return;
    }
    let all = || items(references).iter().map(|name| name.as_str().unwrap_or_default());
    for (n, name) in all().enumerate() {
        reference(causes, &at.index(n), name, names);
    }
    unique(causes, at, all());
}

pub(super) fn reference(causes: &mut Causes, at: &At<'_>, name: &str, names: &Names<'_>) {
    let segments: Vec<&str> = name.split('/').collect();
    if segments.len() <= 2 {
        for segment in segments {
            causes.faults(at, segment, words::label(segment));
        }
    }
    if !names.has(name) {
        causes.invalid(at, &name.into(), REFERENCE);
    }
}

/// The name of an attribute or a capacity, with or without the domain of its driver.
pub(super) fn qualified_name(causes: &mut Causes, at: &At<'_>, name: &str) {
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [id] => identifier(causes, at, id),
        [domain, id] => {
            if domain.is_empty() {
                causes.invalid(at, &"".into(), "the domain must not be empty");
            } else {
                sources::driver_name(causes, at, &(*domain).into());
            }
            if id.is_empty() {
                causes.invalid(at, &"".into(), "the name must not be empty");
            } else {
                identifier(causes, at, id);
            }
        }
        _ => (),
    }
}

fn fully_qualified(causes: &mut Causes, at: &At<'_>, name: &str) {
    qualified_name(causes, at, name);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        causes.invalid(at, &name.into(), detail);
    }
}

fn identifier(causes: &mut Causes, at: &At<'_>, id: &str) {
    if id.len() > 32 {
        causes.0.push(Cause::too_long(at.to_string(), 32));
    }
    let starts = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let good = id.bytes().next().is_some_and(starts)
        && id.bytes().all(|b| starts(b) || b.is_ascii_digit());
    if !good {
        let detail = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
        causes.invalid(at, &id.into(), detail);
    }
}

/// The name of a pool of devices.
pub(super) fn pool_name(causes: &mut Causes, at: &At<'_>, name: &Value) {
    if !causes.present(at, name, "") {
        return;
    }
    let name = name.as_str().unwrap_or_default();
    if name.len() > 253 {
        causes.0.push(Cause::too_long(at.to_string(), 253));
    }
    for part in name.split('/') {
        causes.faults(at, part, words::subdomain(part));
    }
}
