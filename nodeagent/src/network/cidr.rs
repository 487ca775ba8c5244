//! An IPv4 network.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network, as `10.42.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: u32,
    prefix: u8,
}

impl Cidr {
    /// Bits of the network part.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The first address that a host can have; the pods' gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.address + 1)
    }

    /// Addresses for pods: without those of the network, the gateway and the broadcast.
    pub(crate) fn n_pods(&self) -> u32 {
        (1u32 << (32 - u32::from(self.prefix))) - 3
    }

    /// The pod address number `index`, counted from 0.
    pub(crate) fn pod(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.address + 2 + index)
    }

    /// Whether the address is in the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.address
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.address), self.prefix)
    }
}

/// Why a text is not a pod network.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 network of /8 to /29, as 10.42.0.0/24")]
pub struct InvalidCidr(String);

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        if !(8..=29).contains(&prefix) {
            return Err(invalid());
        }
        Ok(Self { address: u32::from(address) & mask(prefix), prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_know_their_addresses() {
        let cidr: Cidr = "10.42.3.7/24".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.42.3.0/24");
        assert_eq!(cidr.gateway(), Ipv4Addr::new(10, 42, 3, 1));
        assert_eq!(cidr.n_pods(), 253);
        assert_eq!(cidr.pod(252), Ipv4Addr::new(10, 42, 3, 254));
        assert!(
            cidr.contains(Ipv4Addr::new(10, 42, 3, 255))
                && !cidr.contains(Ipv4Addr::new(10, 42, 4, 0))
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/30", "10.0.0/24", "fd00::/64", "10.0.0.0/33"] {
            assert_eq!(text.parse::<Cidr>(), Err(InvalidCidr(text.to_owned())));
        }
    }
}
