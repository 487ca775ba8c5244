//! The ranges of service addresses that a server is started with.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// One range of service addresses, or one of each family, in CIDR form with a comma between them. The first one's
/// family is that of services that ask for none.
///
/// Source: KEP-563, "IPv4/IPv6 Dual-stack Networking"; upstream's `--service-cluster-ip-range`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRanges(Vec<IpNet>);

impl ServiceRanges {
    /// The ranges, the one of the first family first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = IpNet> {
        self.0.iter().copied()
    }

    /// The families of services, the first one first: `IPv4`, `IPv6`.
    pub(crate) fn families(&self) -> Vec<&'static str> {
        self.iter().map(|range| family(range.addr())).collect()
    }

    /// The address of the `kubernetes` Service: the first one after the network's own.
    pub(crate) fn first_address(&self) -> IpAddr {
        self.address(1)
    }

    /// The address at which pods look for DNS, by kubeadm's convention: the tenth after the network's own.
    pub fn dns_address(&self) -> IpAddr {
        self.address(10)
    }

    /// The address that stands `offset` after the network's own in the first range.
    fn address(&self, offset: u32) -> IpAddr {
        match self.0[0].network() {
            IpAddr::V4(ip) => IpAddr::V4(u32::from(ip).wrapping_add(offset).into()),
            IpAddr::V6(ip) => IpAddr::V6(u128::from(ip).wrapping_add(offset.into()).into()),
        }
    }
}

/// The name of an address's family.
pub(crate) fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

impl Default for ServiceRanges {
    /// `10.96.0.0/16`.
    fn default() -> Self {
        Self(vec![IpNet::new_assert([10, 96, 0, 0].into(), 16)])
    }
}

impl fmt::Display for ServiceRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(IpNet::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

/// Why a text does not say which addresses services have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceRangesError {
    /// Not an address, a slash and the length of a prefix.
    #[error("{0:?} is not a range in CIDR form, as 10.96.0.0/16 or fd00:10:96::/112")]
    Malformed(String),
    /// Three ranges or more.
    #[error("there may be one range of each family, and these are {0}")]
    TooMany(usize),
    /// Two ranges of one family.
    #[error("both ranges are of {0} addresses; the second one has to be of the other family")]
    SameFamily(&'static str),
    /// Hardly any address.
    #[error("the range {0} must have at least 8 addresses")]
    TooSmall(IpNet),
    /// More addresses than upstream hands out.
    #[error("the range {0} is too large: the prefix of an IPv6 range must be /64 or longer")]
    TooLarge(IpNet),
}

impl FromStr for ServiceRanges {
    type Err = ServiceRangesError;

    fn from_str(text: &str) -> Result<Self, ServiceRangesError> {
        let ranges: Vec<IpNet> = text.split(',').map(range).collect::<Result<_, _>>()?;
        match *ranges.as_slice() {
            [_] => Ok(Self(ranges)),
            [one, other] if one.addr().is_ipv4() != other.addr().is_ipv4() => Ok(Self(ranges)),
            [one, _] => Err(ServiceRangesError::SameFamily(family(one.addr()))),
            _ => Err(ServiceRangesError::TooMany(ranges.len())),
        }
    }
}

fn range(text: &str) -> Result<IpNet, ServiceRangesError> {
    let malformed = |_| ServiceRangesError::Malformed(text.to_owned());
    let range = text.parse::<IpNet>().map_err(malformed)?.trunc();
    match range.max_prefix_len() - range.prefix_len() {
        0..3 => Err(ServiceRangesError::TooSmall(range)),
        65.. => Err(ServiceRangesError::TooLarge(range)),
        _ => Ok(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_range_of_a_family() {
        let parse = |text: &str| text.parse::<ServiceRanges>();
        let dual = parse("fd00:10:96::7/112,10.96.0.0/16").unwrap();
        assert_eq!(dual.to_string(), "fd00:10:96::/112,10.96.0.0/16");
        assert_eq!(dual.families(), ["IPv6", "IPv4"]);
        assert_eq!(dual.first_address().to_string(), "fd00:10:96::1");
        assert_eq!(dual.dns_address().to_string(), "fd00:10:96::a");
        assert_eq!(parse("10.96.0.0/16").unwrap(), ServiceRanges::default());
        assert_eq!(parse("10.0.0.0/8,11.0.0.0/8"), Err(ServiceRangesError::SameFamily("IPv4")));
        assert_eq!(parse("10.0.0.0/8,fd::/64,::/64"), Err(ServiceRangesError::TooMany(3)));
        for (bad, why) in [
            ("", "is not a range"),
            ("10.96.0.0", "is not a range"),
            ("10.96.0.0/16,", "is not a range"),
            ("10.96.0.0/30", "at least 8"),
            ("fd00::/63", "/64 or longer"),
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
