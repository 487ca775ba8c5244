//! Amounts of resources: what a pod asks for and what a node has.
//!
//! Quantities become integers once, when an object enters the world, so that a decision only compares numbers.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

type List = BTreeMap<String, Quantity>;

/// CPU that scoring counts for a pod that asks for none, in thousandths of a core.
///
/// Source: `DefaultMilliCPURequest` in upstream `pkg/scheduler/util/pod_resources.go`.
const SCORED_MILLI_CPU: i64 = 100;

/// Memory that scoring counts for a pod that asks for none, in bytes.
///
/// Source: `DefaultMemoryRequest` in the same file.
const SCORED_MEMORY: i64 = 200 * 1024 * 1024;

/// A resource that can run out, named as in `Insufficient …`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Processor time.
    Cpu,
    /// Memory.
    Memory,
    /// Local disk.
    EphemeralStorage,
    /// Anything a device plugin or an administrator advertises, huge pages too.
    Extended(String),
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Extended(name) => name,
        })
    }
}

/// An amount of every resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// By name, in the resource's own unit; never zero.
    pub extended: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list; `pods` is not an amount that pods ask for and is left out.
    pub fn from_list(list: &List) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list {
            match name.as_str() {
                "cpu" => resources.milli_cpu = milli_value(quantity),
                "memory" => resources.memory = value(quantity),
                "ephemeral-storage" => resources.ephemeral_storage = value(quantity),
                "pods" => (),
                _ => match value(quantity) {
                    0 => (),
                    amount => _ = resources.extended.insert(name.clone(), amount),
                },
            }
        }
        resources
    }

    /// Adds every amount of `other`.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes away every amount of `other`.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
        self.extended.retain(|_, amount| *amount != 0);
    }

    /// Raises every amount to that of `other` where that is larger.
    pub fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }
}

/// What a pod asks for: the larger of its running containers together and of each init container
/// beside the sidecars started before it, and the overhead of its runtime class.
///
/// Requests that stand for the pod as a whole replace the sum. While a resize is under way, the
/// larger of the wanted and the allocated amount counts.
///
/// Source: kubernetes.io, "Sidecar Containers", "Resource sharing within containers".
pub fn requested(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut total = containers_together(pod, spec, Resources::from_list);
    if let Some(whole) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let whole = Resources::from_list(whole);
        total.milli_cpu = if whole.milli_cpu > 0 { whole.milli_cpu } else { total.milli_cpu };
        total.memory = if whole.memory > 0 { whole.memory } else { total.memory };
        total.extended.extend(whole.extended);
    }
    add_overhead(&mut total, spec);
    total
}

/// CPU (thousandths of a core) and memory (bytes) that scoring counts, with a floor for containers
/// that ask for nothing, so that they spread as well.
pub fn scored(pod: &Pod) -> (i64, i64) {
    let Some(spec) = &pod.spec else { return (0, 0) };
    let mut total = containers_together(pod, spec, |list| {
        let mut resources = Resources::from_list(list);
        if !list.contains_key("cpu") {
            resources.milli_cpu = SCORED_MILLI_CPU;
        }
        if !list.contains_key("memory") {
            resources.memory = SCORED_MEMORY;
        }
        resources
    });
    add_overhead(&mut total, spec);
    (total.milli_cpu, total.memory)
}

fn add_overhead(total: &mut Resources, spec: &PodSpec) {
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::from_list(overhead));
    }
}

fn containers_together(pod: &Pod, spec: &PodSpec, read: impl Fn(&List) -> Resources) -> Resources {
    let empty = List::new();
    let ask = |container: &Container| {
        let mut resources = read(requests(container.resources.as_ref()).unwrap_or(&empty));
        if let Some(allocated) = allocated(pod, &container.name) {
            resources.raise_to(&Resources::from_list(allocated));
        }
        resources
    };
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&ask(container));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut now = ask(container);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&now);
            sidecars.add(&now);
            starting.raise_to(&sidecars);
        } else {
            now.add(&sidecars);
            starting.raise_to(&now);
        }
    }
    running.raise_to(&starting);
    running
}

fn requests(resources: Option<&ResourceRequirements>) -> Option<&List> {
    resources?.requests.as_ref()
}

fn allocated<'a>(pod: &'a Pod, container: &str) -> Option<&'a List> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.filter(|s| s.name == container).find_map(|s| s.allocated_resources.as_ref())
}

/// The quantity in whole units, rounded up. What cannot be read counts as zero: the API server
/// has refused it long before.
pub fn value(quantity: &Quantity) -> i64 {
    parse(&quantity.0, 0).unwrap_or(0)
}

/// The quantity in thousandths, rounded up.
pub fn milli_value(quantity: &Quantity) -> i64 {
    parse(&quantity.0, 3).unwrap_or(0)
}

/// `text` in units of 10^-`digits`, rounded away from zero.
fn parse(text: &str, digits: i32) -> Option<i64> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // More digits than an i128 holds cannot matter: cut the fraction, which only rounds.
    let fraction = &fraction[..fraction.len().min(18)];
    let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let (exponent, factor) = unit(suffix)?;
    let exponent = exponent + digits - i32::try_from(fraction.len()).ok()?;
    let mantissa = mantissa.checked_mul(factor)?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    let scaled =
        if exponent >= 0 { mantissa.saturating_mul(power) } else { (mantissa + power - 1) / power };
    Some(i64::try_from(scaled).unwrap_or(i64::MAX) * sign)
}

/// A suffix as a power of ten and a factor.
fn unit(suffix: &str) -> Option<(i32, i128)> {
    Some(match suffix {
        "" => (0, 1),
        "n" => (-9, 1),
        "u" => (-6, 1),
        "m" => (-3, 1),
        "k" => (3, 1),
        "M" => (6, 1),
        "G" => (9, 1),
        "T" => (12, 1),
        "P" => (15, 1),
        "E" => (18, 1),
        "Ki" => (0, 1 << 10),
        "Mi" => (0, 1 << 20),
        "Gi" => (0, 1 << 30),
        "Ti" => (0, 1 << 40),
        "Pi" => (0, 1 << 50),
        "Ei" => (0, 1 << 60),
        _ => (suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|e| (-30..=30).contains(e))?, 1),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(text: &str, whole: i64, thousandths: i64) {
        let quantity = Quantity(text.into());
        assert_eq!((value(&quantity), milli_value(&quantity)), (whole, thousandths), "{text}");
    }

    #[test]
    fn quantities_round_up() {
        check("0", 0, 0);
        check("2", 2, 2000);
        check("100m", 1, 100);
        check("1.5", 2, 1500);
        check(".5", 1, 500);
        check("0.5Gi", 512 << 20, 512_000 << 20);
        check("128Mi", 128 << 20, 128_000 << 20);
        check("1e3", 1000, 1_000_000);
        check("12E-1", 2, 1200);
        check("5k", 5000, 5_000_000);
        check("1n", 1, 1);
        check("-2", -2, -2000);
        check("16Ei", i64::MAX, i64::MAX);
    }

    #[test]
    fn nonsense_is_zero() {
        for text in ["", "m", "1x", "one", ".", "1e99"] {
            check(text, 0, 0);
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn asks(cpu: &str) -> serde_json::Value {
        json!({"name": format!("c{cpu}"), "resources": {"requests": {"cpu": cpu}}})
    }

    fn sidecar(cpu: &str) -> serde_json::Value {
        let mut container = asks(cpu);
        container["restartPolicy"] = json!("Always");
        container
    }

    #[track_caller]
    fn check_cpu(spec: serde_json::Value, expected: i64) {
        assert_eq!(requested(&pod(spec)).milli_cpu, expected);
    }

    #[test]
    fn containers_add_up_and_init_containers_do_not() {
        check_cpu(json!({"containers": [asks("1"), asks("2")]}), 3000);
        check_cpu(
            json!({"containers": [asks("1")], "initContainers": [asks("2"), asks("3")]}),
            3000,
        );
        check_cpu(
            json!({"containers": [asks("1")], "initContainers": [sidecar("2"), asks("3")]}),
            5000,
        );
        check_cpu(
            json!({"containers": [asks("4")], "initContainers": [asks("3"), sidecar("2")]}),
            6000,
        );
    }

    #[test]
    fn overhead_and_pod_level_requests_count() {
        check_cpu(json!({"containers": [asks("1")], "overhead": {"cpu": "250m"}}), 1250);
        check_cpu(
            json!({"containers": [asks("1")], "resources": {"requests": {"cpu": "4"}}}),
            4000,
        );
    }

    #[test]
    fn a_pending_resize_counts_the_larger_amount() {
        let mut shrinking = pod(json!({"containers": [asks("1")]}));
        shrinking.status = serde_json::from_value(json!({"containerStatuses": [{
            "name": "c1", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResources": {"cpu": "3"}}]}))
        .unwrap();
        assert_eq!(requested(&shrinking).milli_cpu, 3000);
    }

    #[test]
    fn scoring_has_a_floor() {
        assert_eq!(
            scored(&pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}))),
            (200, 400 << 20)
        );
        assert_eq!(scored(&pod(json!({"containers": [asks("1")]}))), (1000, 200 << 20));
    }
}
