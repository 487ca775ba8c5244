//! Ranges of service addresses, and the addresses that are taken.

use schema::Cause;
use schema::print::{Fields, Shown};
use serde_json::{Value, json};

use super::super::check::{At, Causes, is_empty, items};
use super::super::{Ctx, Strategy, addresses};
use crate::status::ApiError;

/// Strategy of `servicecidrs`.
pub(crate) struct Ranges;

impl Strategy for Ranges {
    fn kept_by_status(&self) -> &'static [&'static str] {
        &super::super::METADATA
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({});
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let at = At::new("spec");
        let at = at.field("cidrs");
        let now = &obj["spec"]["cidrs"];
        let Some(before) = old.map(|old| &old["spec"]["cidrs"]) else {
            ranges(&mut causes, &at, &obj["spec"]);
            return causes.0;
        };
        match (items(before).len(), items(now).len()) {
            (a, b) if a == b || (a, b) == (1, 2) => {
                for (n, (now, before)) in items(now).iter().zip(items(before)).enumerate() {
                    causes.immutable(&at.index(n), now, before);
                }
                if a != b {
                    ranges(&mut causes, &at, &obj["spec"]);
                }
            }
            _ => causes.invalid(&at, now, "field is immutable"),
        }
        causes.0
    }
}

fn ranges(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let list = items(&spec["cidrs"]);
    match list.len() {
        0 => return causes.required(at, "at least one CIDR required"),
        1 | 2 => (),
        _ => return causes.invalid(at, spec, "may only hold up to 2 values"),
    }
    let parsed: Vec<_> = list
        .iter()
        .enumerate()
        .filter_map(|(n, range)| causes.canonical_range(&at.index(n), range))
        .collect();
    if let [one, other] = parsed.as_slice()
        && one.addr().is_ipv4() == other.addr().is_ipv4()
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        causes.invalid(at, &spec["cidrs"], detail);
    }
}

/// Strategy of `ipaddresses`.
pub(crate) struct Addresses;

impl Strategy for Addresses {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let at = At::new("spec");
        let at = at.field("parentRef");
        let parent = &obj["spec"]["parentRef"];
        if let Some(old) = old {
            const PARENT: Fields = &[
                ("group", Shown::Text),
                ("resource", Shown::Text),
                ("namespace", Shown::Text),
                ("name", Shown::Text),
            ];
            causes.immutable_part(&at, PARENT, parent, &old["spec"]["parentRef"]);
        }
        if parent.is_null() {
            causes.required(&at, "");
            return causes.0;
        }
        if !is_empty(&parent["group"]) {
            causes.subdomain(&at.field("group"), &parent["group"]);
        }
        for field in ["resource", "name"] {
            if causes.present(&at.field(field), &parent[field], "") {
                causes.path_segment(&at.field(field), &parent[field]);
            }
        }
        causes.path_segment(&at.field("namespace"), &parent["namespace"]);
        causes.0
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        match addresses::ip(name) {
            Ok(ip) if ip.to_string() == name => Vec::new(),
            Ok(ip) => vec![format!("must be in canonical form ({:?})", ip.to_string())],
            Err(fault) => vec![fault.to_owned()],
        }
    }
}

#[test]
fn ranges_only_grow() {
    let range = |cidrs: Value| json!({"spec": {"cidrs": cidrs}});
    let check = |new: Value, old: Option<Value>| -> Vec<String> {
        let old = old.map(range);
        Ranges.validate(&range(new), old.as_ref(), None).into_iter().map(|c| c.field).collect()
    };
    assert_eq!(check(json!(["10.0.0.0/8", "2001:db8::/64"]), None), [""; 0]);
    assert_eq!(check(json!(["10.0.0.0/8", "11.0.0.0/8"]), None), ["spec.cidrs"]);
    assert_eq!(check(json!(["10.0.0.0/8", "2001:db8::/64"]), Some(json!(["10.0.0.0/8"]))), [""; 0]);
    assert_eq!(check(json!(["10.0.0.0/8"]), Some(json!(["10.0.0.0/16"]))), ["spec.cidrs[0]"]);
    assert_eq!(check(json!([]), Some(json!(["10.0.0.0/16"]))), ["spec.cidrs"]);
}
