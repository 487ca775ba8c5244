//! Resource quantities as numbers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::ledger::Share;
use crate::runtime::{Bytes, Millicores, Resources};

/// A quantity in thousandths, rounded up; `None` if it is not one.
///
/// Source: kubernetes.io, "Quantity".
pub fn thousandths(quantity: &str) -> Option<i128> {
    let text = quantity.trim();
    let end = text
        .char_indices()
        .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && matches!(c, '+' | '-'))))
        .map_or(text.len(), |(i, _)| i);
    let (number, suffix) = text.split_at(end);
    let (mantissa, decimals) = decimal(number)?;
    // The value is mantissa × numerator / denominator, in thousandths.
    let (numerator, denominator): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (10_i128.pow(15), 1),
        "P" => (10_i128.pow(18), 1),
        "E" => (10_i128.pow(21), 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        "Ei" => (1_000 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1_000, power) } else { (power.checked_mul(1_000)?, 1) }
        }
    };
    let denominator = denominator.checked_mul(10_i128.checked_pow(decimals)?)?;
    let product = mantissa.checked_mul(numerator)?;
    Some(product.div_euclid(denominator) + i128::from(product.rem_euclid(denominator) != 0))
}

fn decimal(number: &str) -> Option<(i128, u32)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.trim_start_matches(['+', '-']).is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    Some((digits.parse().ok()?, u32::try_from(fraction.len()).ok()?))
}

/// CPU in thousandths of a core.
pub fn millicores(quantity: &Quantity) -> Option<u64> {
    u64::try_from(thousandths(&quantity.0)?).ok()
}

/// Whole units (bytes, pods), rounded up.
pub fn units(quantity: &Quantity) -> Option<u64> {
    u64::try_from((thousandths(&quantity.0)? + 999).div_euclid(1000)).ok()
}

/// What the kernel is told about one container.
pub fn container_resources(container: &Container) -> Resources {
    let none = ResourceRequirements::default();
    let wanted = container.resources.as_ref().unwrap_or(&none);
    let cpu_limit = get(&wanted.limits, "cpu").and_then(millicores);
    Resources {
        cpu_request: get(&wanted.requests, "cpu")
            .and_then(millicores)
            .or(cpu_limit)
            .map(Millicores),
        cpu_limit: cpu_limit.map(Millicores),
        memory_limit: get(&wanted.limits, "memory").and_then(units).map(Bytes),
        pids_limit: None,
    }
}

/// What the kernel is told about a pod: sums, where every container has a limit.
///
/// Init containers run before the others, so the larger of both counts.
pub fn pod_resources(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    if let Some(whole) = &spec.resources {
        let of_pod = Container { resources: Some(whole.clone()), ..Container::default() };
        return container_resources(&of_pod);
    }
    let is_sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let init = || spec.init_containers.iter().flatten();
    let long: Vec<_> =
        spec.containers.iter().chain(init().filter(is_sidecar)).map(container_resources).collect();
    let short: Vec<_> = init().filter(|c| !is_sidecar(c)).map(container_resources).collect();
    let sum = |field: fn(&Resources) -> Option<u64>, all: bool| -> Option<u64> {
        if all && long.iter().chain(&short).any(|r| field(r).is_none()) {
            return None;
        }
        let total: u64 = long.iter().filter_map(field).sum();
        let most = short.iter().filter_map(field).max().unwrap_or(0);
        Some(total.max(most))
    };
    Resources {
        cpu_request: sum(|r| r.cpu_request.map(|m| m.0), false).map(Millicores),
        cpu_limit: sum(|r| r.cpu_limit.map(|m| m.0), true).map(Millicores),
        memory_limit: sum(|r| r.memory_limit.map(|b| b.0), true).map(Bytes),
        pids_limit: None,
    }
}

/// What a pod reserves on its node: what its containers need together, or more, if one of them needs more while it
/// initialises beside the sidecars before it; and what its runtime needs for itself.
///
/// Source: KEP-753 (sidecars), KEP-2837 (pod-level resources).
pub fn pod_requests(pod: &Pod) -> Share {
    let Some(spec) = &pod.spec else { return Share::default() };
    let mut together = Share::default();
    for container in &spec.containers {
        together = together.plus(requested(container.resources.as_ref()));
    }
    let (mut sidecars, mut starting) = (Share::default(), Share::default());
    for container in spec.init_containers.iter().flatten() {
        let own = requested(container.resources.as_ref());
        let now = sidecars.plus(own);
        if container.restart_policy.as_deref() == Some("Always") {
            together = together.plus(own);
            sidecars = now;
        }
        starting = starting.at_least(now);
    }
    let mut total = together.at_least(starting);
    if let Some(whole) = &spec.resources {
        let whole = requested(Some(whole));
        total.cpu = if whole.cpu > 0 { whole.cpu } else { total.cpu };
        total.memory = if whole.memory > 0 { whole.memory } else { total.memory };
    }
    total.plus(share(&spec.overhead))
}

fn requested(resources: Option<&ResourceRequirements>) -> Share {
    resources.map(|r| share(&r.requests)).unwrap_or_default()
}

fn share(list: &Option<BTreeMap<String, Quantity>>) -> Share {
    Share {
        cpu: get(list, "cpu").and_then(millicores).unwrap_or(0),
        memory: get(list, "memory").and_then(units).unwrap_or(0),
    }
}

fn get<'a>(map: &'a Option<BTreeMap<String, Quantity>>, name: &str) -> Option<&'a Quantity> {
    map.as_ref()?.get(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_reserves_what_it_needs_at_its_worst_moment() {
        let c = |cpu: &str, policy: &str| {
            serde_json::json!({"name": "c", "restartPolicy": policy,
                "resources": {"requests": {"cpu": cpu, "memory": "1Ki"}}})
        };
        let of = |spec: serde_json::Value| {
            let pod = serde_json::json!({"spec": spec});
            let share = pod_requests(&serde_json::from_value(pod).unwrap());
            (share.cpu, share.memory)
        };
        let main = [c("1", ""), c("500m", "")];
        assert_eq!(of(serde_json::json!({"containers": main})), (1500, 2048));
        let init = [c("100m", "Always"), c("2", ""), c("100m", "Always")];
        let spec = serde_json::json!({"containers": main, "initContainers": init});
        assert_eq!(of(spec.clone()), (2100, 4096));
        let mut spec = spec;
        spec["resources"] = serde_json::json!({"requests": {"cpu": "3"}});
        spec["overhead"] = serde_json::json!({"cpu": "1m"});
        assert_eq!(of(spec), (3001, 4096));
    }

    #[test]
    fn quantities_are_rounded_up_to_thousandths() {
        let check = |text: &str, expected| assert_eq!(thousandths(text), expected, "{text}");
        check("100m", Some(100));
        check("1", Some(1000));
        check("1.5", Some(1500));
        check("0.5m", Some(1));
        check("1n", Some(1));
        check("64Mi", Some(64 * 1024 * 1024 * 1000));
        check("1e3", Some(1_000_000));
        check("25e-1", Some(2500));
        check("1.5Gi", Some(3 * 512 * 1024 * 1024 * 1000));
        check("2E", Some(2 * 10_i128.pow(21)));
        check("", None);
        check("Mi", None);
        check("1x", None);
    }
}
