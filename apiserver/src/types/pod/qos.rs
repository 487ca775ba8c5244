//! Quality-of-service classes.

use serde_json::Value;

use crate::types::check::{items, members, nano};

/// Resources that count for the class.
const COUNTED: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed` if every container has equal requests and limits of CPU and memory, `BestEffort` if none has any,
/// else `Burstable`. Resources of the whole pod stand in for those of its containers.
///
/// Source: kubernetes.io, "Pod Quality of Service Classes".
pub(crate) fn class(spec: &Value) -> &'static str {
    let whole = &spec["resources"];
    if members(&whole["requests"]).next().is_some() || members(&whole["limits"]).next().is_some() {
        return of(&[whole]);
    }
    let containers: Vec<&Value> = items(&spec["initContainers"])
        .iter()
        .chain(items(&spec["containers"]))
        .map(|c| &c["resources"])
        .collect();
    of(&containers)
}

fn of(resources: &[&Value]) -> &'static str {
    let amount = |r: &Value, part: &str, name: &str| nano(&r[part][name]);
    let mut any = false;
    let mut equal = true;
    for resource in resources {
        for name in COUNTED {
            let (request, limit) =
                (amount(resource, "requests", name), amount(resource, "limits", name));
            any |= request > 0 || limit > 0;
            equal &= limit > 0 && (request == limit || resource["requests"][name].is_null());
        }
    }
    match (any, equal) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}});
        let half = json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}});
        for (containers, class) in [
            (vec![json!({})], "BestEffort"),
            (vec![full.clone()], "Guaranteed"),
            (vec![full.clone(), json!({})], "Burstable"),
            (vec![half], "Burstable"),
            (vec![json!({"requests": {"example.com/x": "1"}})], "BestEffort"),
        ] {
            let containers: Vec<Value> =
                containers.into_iter().map(|r| json!({"resources": r})).collect();
            assert_eq!(super::class(&json!({"containers": containers})), class);
        }
        assert_eq!(super::class(&json!({"resources": full, "containers": [{}]})), "Guaranteed");
    }
}
