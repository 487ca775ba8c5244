//! Service ports as nftables rules.
//!
//! [`rules`] says what the table must hold, [`script`] what `nft` must do to get there, [`apply`] runs it.
//! Each connection meets one look-up in a verdict map, however many Services there are.

pub mod apply;
pub mod rules;
pub mod script;

/// Address family: each has a table of its own, because nftables' maps hold one address type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family's keyword in rules: it names tables and header fields alike.
    #[must_use]
    pub fn keyword(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6 => "ipv6_addr",
        }
    }

    fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.0/8",
            Self::V6 => "::1",
        }
    }

    /// Whether `ip` is an address of this family.
    #[must_use]
    pub fn holds(self, ip: std::net::IpAddr) -> bool {
        ip.is_ipv4() == (self == Self::V4)
    }
}
