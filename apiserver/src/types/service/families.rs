//! Both names of a service's addresses, and their families.

use std::net::IpAddr;

use schema::Cause;
use serde_json::{Value, json};

use super::{is_headless, kind};
use crate::types::check::{is_empty, items, text};

/// The first address has a field of its own.
pub(super) fn both_names(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    let one = text(spec, "clusterIP").to_owned();
    if !one.is_empty() && items(&spec["clusterIPs"]).is_empty() {
        spec["clusterIPs"] = json!([one]);
    }
}

/// Both names of the addresses, and the families that fit; the cluster has IPv4 only. `old` is there on updates.
pub(super) fn families(spec: &mut Value, old: Option<&Value>) -> Result<(), Vec<Cause>> {
    if kind(spec) == "ExternalName" {
        return Ok(());
    }
    both_names(spec);
    if old.is_some_and(|old| still_prefers(spec, old)) {
        return Ok(());
    }
    let selectorless = is_headless(spec) && is_empty(&spec["selector"]);
    if is_empty(&spec["ipFamilyPolicy"]) {
        let policy = if selectorless { "RequireDualStack" } else { "SingleStack" };
        spec["ipFamilyPolicy"] = policy.into();
    }
    let causes = unfit_lists(spec, old);
    if !causes.is_empty() {
        return Err(causes);
    }
    if is_empty(&spec["ipFamilies"]) {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    if selectorless {
        // Nobody allocates addresses for it, so that it may have families that the cluster does not have.
        if let ([one], false) = (items(&spec["ipFamilies"]), is_single(spec)) {
            let other = if one == "IPv4" { "IPv6" } else { "IPv4" };
            spec["ipFamilies"] = json!([one, other]);
        }
        return Ok(());
    }
    let mut causes = Vec::new();
    for (n, _) in items(&spec["ipFamilies"]).iter().enumerate().filter(|(_, f)| *f == "IPv6") {
        let field = format!("spec.ipFamilies[{n}]");
        causes.push(Cause::invalid(field, &"IPv6".into(), "not configured on this cluster"));
    }
    if text(spec, "ipFamilyPolicy") == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        causes.push(Cause::invalid("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], detail));
    }
    if causes.is_empty() { Ok(()) } else { Err(causes) }
}

fn is_single(spec: &Value) -> bool {
    text(spec, "ipFamilyPolicy") == "SingleStack"
}

/// Whether a service that takes what the cluster has asks for nothing else than before.
fn still_prefers(spec: &Value, old: &Value) -> bool {
    text(spec, "ipFamilyPolicy") == "PreferDualStack"
        && ["ipFamilyPolicy", "clusterIPs", "ipFamilies"]
            .iter()
            .all(|field| spec[*field] == old[*field])
}

/// Addresses and families that do not go with the policy; a single stack lets go of what is second.
fn unfit_lists(spec: &mut Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let single = is_single(spec);
    let policy = spec["ipFamilyPolicy"].clone();
    let mut unfit = |detail: &str| {
        causes.push(Cause::invalid("spec.ipFamilyPolicy", &policy, detail));
    };
    for (list, one, many) in
        [("clusterIPs", "cluster IP", "cluster IPs"), ("ipFamilies", "IP family", "IP families")]
    {
        let n_before = old.map_or(0, |old| items(&old[list]).len());
        if single && n_before > 1 && old.is_some_and(|old| old[list] == spec[list]) {
            spec[list] = json!([spec[list][0]]);
        }
        let n_now = items(&spec[list]).len();
        if !single && n_now > 0 && n_now < n_before {
            unfit(&format!("must be 'SingleStack' to release the secondary {one}"));
        }
        if single && n_now == 2 {
            unfit(&format!(
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple {many} are specified"
            ));
        }
    }
    let n_families = items(&spec["ipFamilies"]).len();
    let is_v6 = |ip: &Value| {
        ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok()).is_some_and(|ip| ip.is_ipv6())
    };
    let unnamed = items(&spec["clusterIPs"]).iter().enumerate().skip(n_families);
    for (n, _) in unnamed.filter(|(_, ip)| is_v6(ip)) {
        let field = format!("spec.clusterIPs[{n}]");
        let detail = "IPv6 is not configured on this cluster";
        causes.push(Cause::invalid(field, &spec["clusterIPs"], detail));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_fit_the_cluster() {
        let mut headless = json!({"clusterIP": "None"});
        families(&mut headless, None).unwrap();
        assert_eq!(
            (&headless["ipFamilies"], &headless["ipFamilyPolicy"]),
            (&json!(["IPv4", "IPv6"]), &json!("RequireDualStack"))
        );
        let mut selected = json!({"clusterIP": "None", "selector": {"a": "b"}});
        families(&mut selected, None).unwrap();
        assert_eq!(
            (&selected["ipFamilies"], &selected["ipFamilyPolicy"]),
            (&json!(["IPv4"]), &json!("SingleStack"))
        );
        let refused = families(&mut json!({"clusterIP": "2001:db8::5"}), None).unwrap_err();
        assert_eq!(
            refused[0].to_string(),
            "spec.clusterIPs[0]: Invalid value: [\"2001:db8::5\"]: IPv6 is not configured on this cluster"
        );
        assert!(families(&mut json!({"ipFamilyPolicy": "RequireDualStack"}), None).is_err());
    }

    #[test]
    fn a_second_family_is_let_go_of_on_purpose() {
        let old = json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilyPolicy": "RequireDualStack",
            "ipFamilies": ["IPv6", "IPv4"]});
        let mut fewer = old.clone();
        fewer["ipFamilies"] = json!(["IPv6"]);
        let refused = families(&mut fewer, Some(&old)).unwrap_err();
        assert_eq!(
            refused[0].to_string(),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary IP family"
        );
        let mut single = old.clone();
        single["ipFamilyPolicy"] = "SingleStack".into();
        families(&mut single, Some(&old)).unwrap();
        assert_eq!(single["ipFamilies"], json!(["IPv6"]));
        let mut one = json!({"clusterIP": "None", "ipFamilies": ["IPv6"]});
        families(&mut one, None).unwrap();
        assert_eq!(one["ipFamilies"], json!(["IPv6", "IPv4"]));
    }
}
