//! Requests and limits in the kernel's units. Pure.

use crate::runtime::{Millicores, Resources};

/// Length of a CFS period; quotas are counted in it.
///
/// Source: the kernel's default, and upstream's `QuotaPeriod`.
pub(crate) const CPU_PERIOD_MICROS: u64 = 100_000;

/// Smallest quota that the kernel takes, in microseconds.
const MIN_QUOTA_MICROS: i64 = 1_000;

/// Bounds of `cpu.shares`; 1024 stands for one CPU.
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

/// CPU shares (v1) for a request; none is the least possible weight.
pub(crate) fn cpu_shares(request: Option<Millicores>) -> u64 {
    request.map_or(MIN_SHARES, |Millicores(millis)| {
        (millis * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
    })
}

/// Weight (v2) for shares, as runc converts them: 2..262144 becomes 1..10000.
fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(MIN_SHARES, MAX_SHARES) - MIN_SHARES) * 9_999 / (MAX_SHARES - MIN_SHARES)
}

/// CFS quota in microseconds per [`CPU_PERIOD_MICROS`]; -1 is no limit.
pub(crate) fn cpu_quota(limit: Option<Millicores>) -> i64 {
    match limit {
        None | Some(Millicores(0)) => -1,
        Some(Millicores(millis)) => i64::try_from(millis * CPU_PERIOD_MICROS / 1000)
            .unwrap_or(i64::MAX)
            .max(MIN_QUOTA_MICROS),
    }
}

/// (controller, file, value) for a v1 group, in the order of writing.
pub(super) fn v1(resources: &Resources) -> Vec<(&'static str, &'static str, String)> {
    let memory = resources.memory_limit.map_or("-1".to_owned(), |limit| limit.0.to_string());
    let pids = resources.pids_limit.map_or("max".to_owned(), |limit| limit.to_string());
    vec![
        ("cpu", "cpu.shares", cpu_shares(resources.cpu_request).to_string()),
        ("cpu", "cpu.cfs_period_us", CPU_PERIOD_MICROS.to_string()),
        ("cpu", "cpu.cfs_quota_us", cpu_quota(resources.cpu_limit).to_string()),
        ("memory", "memory.limit_in_bytes", memory),
        ("pids", "pids.max", pids),
    ]
}

/// (file, value) for a v2 group, in the order of writing.
pub(super) fn v2(resources: &Resources) -> Vec<(&'static str, String)> {
    let quota = match cpu_quota(resources.cpu_limit) {
        -1 => "max".to_owned(),
        quota => quota.to_string(),
    };
    vec![
        ("cpu.weight", cpu_weight(cpu_shares(resources.cpu_request)).to_string()),
        ("cpu.max", format!("{quota} {CPU_PERIOD_MICROS}")),
        (
            "memory.max",
            resources.memory_limit.map_or("max".to_owned(), |limit| limit.0.to_string()),
        ),
        ("pids.max", resources.pids_limit.map_or("max".to_owned(), |limit| limit.to_string())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Bytes;

    #[test]
    fn shares_stay_in_the_kernels_bounds() {
        assert_eq!(cpu_shares(None), 2);
        assert_eq!(cpu_shares(Some(Millicores(1))), 2);
        assert_eq!(cpu_shares(Some(Millicores(100))), 102);
        assert_eq!(cpu_shares(Some(Millicores(1000))), 1024);
        assert_eq!(cpu_shares(Some(Millicores(10_000_000))), 262_144);
    }

    #[test]
    fn weights_span_their_range() {
        assert_eq!(cpu_weight(2), 1);
        assert_eq!(cpu_weight(1024), 39);
        assert_eq!(cpu_weight(262_144), 10_000);
    }

    #[test]
    fn quotas_are_at_least_a_millisecond() {
        assert_eq!(cpu_quota(None), -1);
        assert_eq!(cpu_quota(Some(Millicores(1))), 1_000);
        assert_eq!(cpu_quota(Some(Millicores(500))), 50_000);
        assert_eq!(cpu_quota(Some(Millicores(2500))), 250_000);
    }

    #[test]
    fn limits_become_files() {
        let resources = Resources {
            cpu_request: Some(Millicores(250)),
            cpu_limit: Some(Millicores(500)),
            memory_limit: Some(Bytes(64 << 20)),
            pids_limit: None,
        };
        let v1: Vec<_> =
            v1(&resources).iter().map(|(_, file, value)| format!("{file}={value}")).collect();
        assert_eq!(
            v1.join(" "),
            "cpu.shares=256 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 memory.limit_in_bytes=67108864 pids.max=max"
        );
        let v2: Vec<_> =
            v2(&resources).iter().map(|(file, value)| format!("{file}={value}")).collect();
        assert_eq!(
            v2.join("; "),
            "cpu.weight=10; cpu.max=50000 100000; memory.max=67108864; pids.max=max"
        );
    }
}
