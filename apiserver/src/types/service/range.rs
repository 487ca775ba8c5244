//! Ranges of service addresses: which there are now, and which of their addresses services can have.
//!
//! Source: KEP-1880, "Multiple Service CIDRs".

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rand::Rng as _;
use serde_json::Value;

use super::allocate::Refusal;
use crate::types::check::{items, text};

/// The ranges of a ServiceCIDR that addresses are taken from now. One that nobody has judged counts, since there may
/// be no player that judges.
pub(super) fn usable(service_cidr: &Value) -> Vec<IpNet> {
    let is_ready = items(&service_cidr["status"]["conditions"])
        .iter()
        .find(|condition| text(condition, "type") == "Ready")
        .is_none_or(|condition| text(condition, "status") == "True");
    if !is_ready || !service_cidr["metadata"]["deletionTimestamp"].is_null() {
        return Vec::new();
    }
    let cidrs = items(&service_cidr["spec"]["cidrs"]).iter();
    cidrs.filter_map(|cidr| cidr.as_str()?.parse().ok()).collect()
}

/// Whether services can have an address of a range: not that of the network, and not that of broadcasts.
pub(super) fn has(range: IpNet, ip: IpAddr) -> bool {
    range.contains(&ip) && ip != range.network() && (ip.is_ipv6() || ip != range.broadcast())
}

/// An address of a range that is free, from its upper part if there is one.
pub(super) fn draw(range: IpNet, is_free: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let last = n_hosts(range);
    let first = on_request(range) + 1;
    let start = if first >= last { first } else { rand::rng().random_range(first..=last) };
    let upper = (start..=last).chain(first..start);
    upper.chain(1..first.min(last + 1)).map(|n| at(range, n)).find(|ip| is_free(*ip))
}

/// What a dry run answers: whether the wanted address is in a range, and the network's own address instead of one
/// that somebody else may have had by the time of the real request.
pub(super) fn dry_run(ranges: &[IpNet], wanted: Option<IpAddr>) -> Result<IpAddr, Refusal> {
    let first = ranges.first().ok_or(Refusal::NotReady)?;
    let Some(ip) = wanted else { return Ok(first.network()) };
    match ranges.iter().any(|range| has(*range, ip)) {
        true => Ok(ip),
        false => Err(Refusal::OutOfRange { ip, range: *first }),
    }
}

/// How many addresses services can have.
fn n_hosts(range: IpNet) -> u128 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    let broadcast = u128::from(range.addr().is_ipv4());
    1_u128.checked_shl(bits).unwrap_or(u128::MAX).saturating_sub(1 + broadcast)
}

/// How many addresses at the start are only given on request.
///
/// Source: KEP-3070, "Reserve Service IP Ranges For Dynamic and Static IP Allocation".
fn on_request(range: IpNet) -> u128 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    if bits <= 4 { 0 } else { (1_u128 << bits.min(16) >> 4).clamp(16, 256) }
}

fn at(range: IpNet, offset: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(ip) => {
            let offset = u32::try_from(offset).unwrap_or_default();
            Ipv4Addr::from(u32::from(ip).wrapping_add(offset)).into()
        }
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).wrapping_add(offset)).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn range(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_is_handed_out_without_its_ends() {
        for (cidr, n, first, last) in [
            ("10.96.0.0/28", 14, "10.96.0.1", "10.96.0.14"),
            ("10.96.0.0/27", 30, "10.96.0.1", "10.96.0.30"),
            ("fd00::/124", 15, "fd00::1", "fd00::f"),
        ] {
            let mut taken = BTreeSet::new();
            while let Some(ip) = draw(range(cidr), |ip| !taken.contains(&ip)) {
                assert!(has(range(cidr), ip), "{ip}");
                taken.insert(ip);
            }
            assert_eq!(taken.len(), n, "{cidr}");
            assert_eq!((taken.first(), taken.last()), (Some(&ip(first)), Some(&ip(last))));
        }
        assert!(!has(range("10.96.0.0/28"), ip("10.96.0.0")));
        assert!(!has(range("10.96.0.0/28"), ip("10.96.0.15")));
        assert!(!has(range("10.96.0.0/28"), ip("fd00::1")));
        assert!(draw(range("10.96.0.0/32"), |_| true).is_none());
    }

    #[test]
    fn the_start_of_a_large_range_is_kept_for_requests() {
        for (cidr, n) in [("/16", 256), ("/20", 256), ("/24", 16), ("/27", 16), ("/28", 0)] {
            assert_eq!(on_request(range(&format!("10.96.0.0{cidr}"))), n, "{cidr}");
        }
        assert_eq!(on_request(range("fd00::/64")), 256);
        let drawn = draw(range("fd00::/64"), |_| true).unwrap();
        assert!(drawn > ip("fd00::100"), "{drawn}");
    }

    #[test]
    fn a_range_that_is_not_ready_or_goes_is_not_used() {
        let object = |status: &str| {
            json!({"metadata": {}, "spec": {"cidrs": ["10.0.0.0/24", "fd00::/64"]},
                "status": {"conditions": [{"type": "Ready", "status": status}]}})
        };
        assert_eq!(usable(&object("True")), [range("10.0.0.0/24"), range("fd00::/64")]);
        assert_eq!(usable(&object("False")), []);
        let mut unjudged = object("True");
        unjudged["status"] = json!({});
        assert_eq!(usable(&unjudged).len(), 2);
        unjudged["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(usable(&unjudged), []);
    }

    #[test]
    fn a_dry_run_takes_nothing() {
        let ranges = [range("10.96.0.0/28"), range("10.97.0.0/28")];
        assert_eq!(dry_run(&ranges, None), Ok(ip("10.96.0.0")));
        assert_eq!(dry_run(&ranges, Some(ip("10.97.0.3"))), Ok(ip("10.97.0.3")));
        assert_eq!(
            dry_run(&ranges, Some(ip("10.98.0.3"))).unwrap_err().to_string(),
            "the provided IP (10.98.0.3) is not in the valid range. The range of valid IPs is 10.96.0.0/28"
        );
        assert_eq!(dry_run(&[], None), Err(Refusal::NotReady));
    }
}
