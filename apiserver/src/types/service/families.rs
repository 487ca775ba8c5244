//! Both names of a service's addresses, and their families.

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

/// The families that fit. `served` are the families that the cluster's services can
/// have, the usual one first; `old` is there on updates.
///
/// Source: KEP-563, "IPv4/IPv6 Dual-stack Networking".
pub(super) fn families(
    spec: &mut Value,
    old: Option<&Value>,
    served: &[&str],
) -> Result<(), Vec<Cause>> {
    if kind(spec) == "ExternalName" {
        return Ok(());
    }
    if old.is_some_and(|old| still_prefers(spec, old)) {
        return Ok(());
    }
    let selectorless = is_headless(spec) && is_empty(&spec["selector"]);
    if is_empty(&spec["ipFamilyPolicy"]) {
        let policy = if selectorless { "RequireDualStack" } else { "SingleStack" };
        spec["ipFamilyPolicy"] = policy.into();
    }
    let mut causes = unfit_lists(spec, old);
    causes.extend(infer(spec, served));
    if !causes.is_empty() {
        return Err(causes);
    }
    // Nobody allocates addresses for one without a selector, so that it may have families that the cluster has not.
    if !selectorless {
        let causes = unserved(spec, served);
        if !causes.is_empty() {
            return Err(causes);
        }
    }
    if is_empty(&spec["ipFamilies"]) {
        spec["ipFamilies"] = json!([served[0]]);
    }
    if let ([one], false) = (items(&spec["ipFamilies"]), is_single(spec))
        && (selectorless || served.len() == 2)
    {
        let other = if one == "IPv4" { "IPv6" } else { "IPv4" };
        spec["ipFamilies"] = json!([one, other]);
    }
    Ok(())
}

fn is_single(spec: &Value) -> bool {
    text(spec, "ipFamilyPolicy") == "SingleStack"
}

/// Whether a service that takes what the cluster has asks for nothing else than before.
fn still_prefers(spec: &Value, old: &Value) -> bool {
    text(spec, "ipFamilyPolicy") == "PreferDualStack"
        && kind(spec) == kind(old)
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
    causes
}

/// Adds the families of addresses that were given without; answers those that the cluster does not have.
fn infer(spec: &mut Value, served: &[&str]) -> Vec<Cause> {
    let (mut families, mut causes) = (items(&spec["ipFamilies"]).to_vec(), Vec::new());
    for (n, ip) in items(&spec["clusterIPs"]).iter().filter_map(Value::as_str).enumerate() {
        if n < families.len() || ip == "None" {
            continue;
        }
        let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
        if served.contains(&family) {
            families.push(family.into());
        } else {
            let (field, why) = (
                format!("spec.clusterIPs[{n}]"),
                format!("{family} is not configured on this cluster"),
            );
            causes.push(Cause::invalid(field, &spec["clusterIPs"], &why));
        }
    }
    if !families.is_empty() {
        spec["ipFamilies"] = families.into();
    }
    causes
}

/// What a service asks for that the cluster does not have.
fn unserved(spec: &Value, served: &[&str]) -> Vec<Cause> {
    let mut causes = Vec::new();
    if text(spec, "ipFamilyPolicy") == "RequireDualStack" && served.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        causes.push(Cause::invalid("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], why));
    }
    for (n, family) in items(&spec["ipFamilies"]).iter().enumerate() {
        if !family.as_str().is_some_and(|family| served.contains(&family)) {
            let field = format!("spec.ipFamilies[{n}]");
            causes.push(Cause::invalid(field, family, "not configured on this cluster"));
        }
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINGLE: [&str; 1] = ["IPv4"];
    const DUAL: [&str; 2] = ["IPv6", "IPv4"];

    /// The families that a new service gets, or why it is refused.
    fn of(spec: Value, served: &[&str]) -> Result<Value, String> {
        let mut spec = spec;
        both_names(&mut spec);
        families(&mut spec, None, served).map_err(|causes| causes[0].to_string())?;
        Ok(spec["ipFamilies"].clone())
    }

    #[test]
    fn families_fit_the_cluster() {
        let mut headless = json!({"clusterIP": "None"});
        families(&mut headless, None, &SINGLE).unwrap();
        assert_eq!(
            (&headless["ipFamilies"], &headless["ipFamilyPolicy"]),
            (&json!(["IPv4", "IPv6"]), &json!("RequireDualStack"))
        );
        let mut selected = json!({"clusterIP": "None", "selector": {"a": "b"}});
        families(&mut selected, None, &SINGLE).unwrap();
        assert_eq!(
            (&selected["ipFamilies"], &selected["ipFamilyPolicy"]),
            (&json!(["IPv4"]), &json!("SingleStack"))
        );
        assert_eq!(
            of(json!({"clusterIP": "2001:db8::5"}), &SINGLE).unwrap_err(),
            "spec.clusterIPs[0]: Invalid value: [\"2001:db8::5\"]: IPv6 is not configured on this cluster"
        );
        let required = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]});
        assert_eq!(
            of(required.clone(), &SINGLE).unwrap_err(),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
        );
        let prefers = json!({"ipFamilyPolicy": "PreferDualStack"});
        assert_eq!(of(prefers.clone(), &SINGLE), Ok(json!(["IPv4"])));
        assert_eq!(of(prefers, &DUAL), Ok(json!(["IPv6", "IPv4"])));
        assert_eq!(of(json!({}), &DUAL), Ok(json!(["IPv6"])));
        assert_eq!(of(json!({"clusterIP": "10.96.0.7"}), &DUAL), Ok(json!(["IPv4"])));
        assert_eq!(of(required, &DUAL), Ok(json!(["IPv6", "IPv4"])));
        assert!(of(json!({"ipFamilies": ["IPv4", "IPv6"]}), &DUAL).is_err(), "a single stack");
        let both = json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
            "ipFamilyPolicy": "PreferDualStack"});
        assert_eq!(of(both, &DUAL), Ok(json!(["IPv4", "IPv6"])));
    }

    #[test]
    fn a_second_family_is_let_go_of_on_purpose() {
        let old = json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilyPolicy": "RequireDualStack",
            "ipFamilies": ["IPv6", "IPv4"]});
        let mut fewer = old.clone();
        fewer["ipFamilies"] = json!(["IPv6"]);
        let refused = families(&mut fewer, Some(&old), &SINGLE).unwrap_err();
        assert_eq!(
            refused[0].to_string(),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary IP family"
        );
        let mut single = old.clone();
        single["ipFamilyPolicy"] = "SingleStack".into();
        families(&mut single, Some(&old), &SINGLE).unwrap();
        assert_eq!(single["ipFamilies"], json!(["IPv6"]));
        let one = json!({"clusterIP": "None", "ipFamilies": ["IPv6"]});
        assert_eq!(of(one, &SINGLE), Ok(json!(["IPv6", "IPv4"])));
    }
}
