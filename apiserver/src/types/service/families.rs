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

/// Both names of the addresses, and the families that fit; the cluster has IPv4 only.
pub(super) fn families(spec: &mut Value) -> Result<(), Vec<Cause>> {
    if kind(spec) == "ExternalName" {
        return Ok(());
    }
    both_names(spec);
    let v6 = items(&spec["clusterIPs"]).iter().position(|ip| {
        ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok()).is_some_and(|ip| ip.is_ipv6())
    });
    if let Some(n) = v6 {
        let field = format!("spec.clusterIPs[{n}]");
        let detail = "IPv6 is not configured on this cluster";
        return Err(vec![Cause::invalid(field, &spec["clusterIPs"], detail)]);
    }
    let headless_without_selector = is_headless(spec) && is_empty(&spec["selector"]);
    if headless_without_selector {
        if is_empty(&spec["ipFamilyPolicy"]) {
            let one = items(&spec["ipFamilies"]).len() == 1;
            spec["ipFamilyPolicy"] = if one { "SingleStack" } else { "RequireDualStack" }.into();
        }
        if items(&spec["ipFamilies"]).is_empty() {
            let single = text(spec, "ipFamilyPolicy") == "SingleStack";
            spec["ipFamilies"] = if single { json!(["IPv4"]) } else { json!(["IPv4", "IPv6"]) };
        }
        return Ok(());
    }
    if items(&spec["ipFamilies"]).len() > 1
        && matches!(text(spec, "ipFamilyPolicy"), "" | "SingleStack")
    {
        let detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
        return Err(vec![Cause::invalid("spec.ipFamilyPolicy", &"SingleStack".into(), detail)]);
    }
    let mut causes = Vec::new();
    if let Some(n) = items(&spec["ipFamilies"]).iter().position(|f| f == "IPv6") {
        let field = format!("spec.ipFamilies[{n}]");
        causes.push(Cause::invalid(field, &"IPv6".into(), "not configured on this cluster"));
    }
    if text(spec, "ipFamilyPolicy") == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        causes.push(Cause::invalid("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], detail));
    }
    if !causes.is_empty() {
        return Err(causes);
    }
    if is_empty(&spec["ipFamilyPolicy"]) {
        spec["ipFamilyPolicy"] = "SingleStack".into();
    }
    if is_empty(&spec["ipFamilies"]) {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_fit_the_cluster() {
        let mut headless = json!({"clusterIP": "None"});
        families(&mut headless).unwrap();
        assert_eq!(
            (&headless["ipFamilies"], &headless["ipFamilyPolicy"]),
            (&json!(["IPv4", "IPv6"]), &json!("RequireDualStack"))
        );
        let mut selected = json!({"clusterIP": "None", "selector": {"a": "b"}});
        families(&mut selected).unwrap();
        assert_eq!(
            (&selected["ipFamilies"], &selected["ipFamilyPolicy"]),
            (&json!(["IPv4"]), &json!("SingleStack"))
        );
        let refused = families(&mut json!({"clusterIP": "2001:db8::5"})).unwrap_err();
        assert_eq!(
            refused[0].to_string(),
            "spec.clusterIPs[0]: Invalid value: [\"2001:db8::5\"]: IPv6 is not configured on this cluster"
        );
        assert!(families(&mut json!({"ipFamilyPolicy": "RequireDualStack"})).is_err());
    }
}
