//! IP addresses and address ranges in fields, in upstream's words.
//!
//! Source: upstream's `apimachinery/pkg/util/validation/ip.go`; KEP-4858 (strict addresses).

use std::fmt::Arguments;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::check::{At, Causes};

const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const BAD_RANGE: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// The address, and whether it was written with leading zeros.
fn parse(text: &str) -> Option<(IpAddr, bool)> {
    if let Ok(ip) = text.parse() {
        return Some((ip, false));
    }
    let parts: Vec<&str> = text.split('.').collect();
    let plain = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if parts.len() != 4 || !parts.iter().all(plain) {
        return None;
    }
    let octets: Vec<&str> = parts
        .iter()
        .map(|part| Some(part.trim_start_matches('0')).filter(|p| !p.is_empty()).unwrap_or("0"))
        .collect();
    octets.join(".").parse().ok().map(|ip| (ip, true))
}

/// Whether it is an address that was written with leading zeros.
pub(super) fn is_legacy(text: &str) -> bool {
    parse(text).is_some_and(|(_, zeros)| zeros)
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// An address in any form; the faults if there are any.
pub(super) fn ip(text: &str) -> Result<IpAddr, &'static str> {
    match parse(text) {
        None => Err(BAD_IP),
        Some((_, true)) => Err("must not have leading 0s"),
        Some((ip, _)) if is_mapped(ip) => Err("must not be an IPv4-mapped IPv6 address"),
        Some((ip, _)) => Ok(ip),
    }
}

/// What the text means, ambiguous forms included, and whether there are leading zeros.
fn parse_range(text: &str) -> Option<(IpNet, bool)> {
    let (ip, prefix) = text.split_once('/')?;
    let digits = prefix.bytes().all(|b| b.is_ascii_digit());
    let more_zeros = prefix.len() > 1 && prefix.starts_with('0');
    let (address, zeros) = parse(ip)?;
    let prefix = prefix.parse().ok().filter(|_| digits)?;
    Some((IpNet::new(address, prefix).ok()?, zeros || more_zeros))
}

/// An address range in any form, also in those that [`range`] refuses because they are ambiguous.
pub(super) fn loose_range(text: &str) -> Option<IpNet> {
    parse_range(text).map(|(range, _)| range)
}

/// An address range in any form.
pub(super) fn range(text: &str) -> Result<IpNet, &'static str> {
    let Some((range, zeros)) = parse_range(text) else { return Err(BAD_RANGE) };
    let address = range.addr();
    if zeros {
        Err("must not have leading 0s in IP or prefix length")
    } else if is_mapped(address) {
        Err("must not have an IPv4-mapped IPv6 address")
    } else if range.network() != address {
        Err("must not have bits set beyond the prefix length")
    } else {
        Ok(range)
    }
}

/// Warns of an address that is right, but written in another way than it should be.
pub(super) fn ip_warning(at: Arguments<'_>, text: &str) -> Option<String> {
    let ip = ip(text).ok().filter(|ip| ip.is_ipv6() && ip.to_string() != text)?;
    Some(format!(
        "{at}: IPv6 address {text:?} should be in RFC 5952 canonical format ({:?})",
        ip.to_string()
    ))
}

/// Warns of a range that is right, but written in another way than it should be.
pub(super) fn range_warning(at: Arguments<'_>, text: &str) -> Option<String> {
    let range = range(text).ok().filter(|r| r.addr().is_ipv6() && r.to_string() != text)?;
    Some(format!(
        "{at}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({:?})",
        range.to_string()
    ))
}

impl Causes {
    /// An address in any form that is not ambiguous.
    pub(crate) fn ip(&mut self, at: &At<'_>, value: &Value) -> Option<IpAddr> {
        let text = value.as_str().unwrap_or_default();
        ip(text).map_err(|why| self.invalid(at, &text.into(), why)).ok()
    }

    /// An address in the one form that it should have.
    pub(super) fn canonical_ip(&mut self, at: &At<'_>, value: &Value) -> Option<IpAddr> {
        let ip = self.ip(at, value)?;
        let written = ip.to_string();
        if *value != *written {
            self.invalid(at, value, &format!("must be in canonical form ({written:?})"));
        }
        Some(ip)
    }

    /// An address with the length of its network's prefix, in the one form that it should have.
    pub(super) fn interface_address(&mut self, at: &At<'_>, value: &Value) {
        let Some(range) = loose_range(value.as_str().unwrap_or_default()) else {
            let detail =
                "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
            return self.invalid(at, value, detail);
        };
        let written = range.to_string();
        if *value != *written {
            self.invalid(at, value, &format!("must be in canonical form ({written:?})"));
        }
    }

    /// An address range in any form that is not ambiguous.
    pub(super) fn range(&mut self, at: &At<'_>, value: &Value) -> Option<IpNet> {
        range(value.as_str().unwrap_or_default()).map_err(|why| self.invalid(at, value, why)).ok()
    }

    /// An address range in the one form that it should have.
    pub(super) fn canonical_range(&mut self, at: &At<'_>, value: &Value) -> Option<IpNet> {
        let range = self.range(at, value)?;
        let written = range.to_string();
        if *value != *written {
            self.invalid(at, value, &format!("must be in canonical form ({written:?})"));
        }
        Some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_addresses_are_refused() {
        assert!(ip("10.0.0.1").is_ok() && ip("2001:DB8:0::1").is_ok());
        assert_eq!(ip("010.0.0.1"), Err("must not have leading 0s"));
        assert_eq!(ip("::ffff:1.2.3.4"), Err("must not be an IPv4-mapped IPv6 address"));
        assert_eq!(ip("10.0.0"), Err(BAD_IP));
        assert_eq!(ip("300.0.0.1"), Err(BAD_IP));
    }

    #[test]
    fn ranges_end_at_their_prefix() {
        assert!(
            range("10.0.0.0/8").is_ok() && range("::/0").is_ok() && range("10.1.2.3/32").is_ok()
        );
        assert_eq!(range("10.1.0.0/8"), Err("must not have bits set beyond the prefix length"));
        assert_eq!(range("10.0.0.0/08"), Err("must not have leading 0s in IP or prefix length"));
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "x/8", "::/129"] {
            assert_eq!(range(bad), Err(BAD_RANGE), "{bad}");
        }
    }

    #[test]
    fn other_forms_are_told() {
        assert_eq!(ip_warning(format_args!("a"), "2001:db8::1"), None);
        assert!(
            ip_warning(format_args!("a"), "2001:db8:0::1").unwrap().ends_with("(\"2001:db8::1\")")
        );
        assert!(
            range_warning(format_args!("a"), "2001:db8:0::/64")
                .unwrap()
                .ends_with("(\"2001:db8::/64\")")
        );
        assert_eq!(range_warning(format_args!("a"), "10.0.0.0/8"), None);
    }
}
