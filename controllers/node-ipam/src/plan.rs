//! Which part of the pods' addresses a new node gets.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Addresses from a power of two on, as `10.244.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: u32,
    prefix: u8,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range such as 10.244.0.0/16");
        let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let ip: Ipv4Addr = ip.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let size = 32_u32.checked_sub(u32::from(prefix)).ok_or_else(wrong)?;
        let mask = u32::MAX.checked_shl(size).unwrap_or(0);
        Ok(Self { first: u32::from(ip) & mask, prefix })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.first), self.prefix)
    }
}

impl Range {
    fn last(self) -> u32 {
        self.first | u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0)
    }
}

/// The cluster's addresses, in parts of one size.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    cluster: Range,
    prefix: u8,
}

impl Parts {
    /// Parts of `cluster` with this many bits fixed.
    ///
    /// # Errors
    /// A part would be larger than the whole, or smaller than an address.
    pub fn new(cluster: Range, prefix: u8) -> Result<Self, String> {
        match prefix >= cluster.prefix && prefix <= 32 {
            true => Ok(Self { cluster, prefix }),
            false => Err(format!("{cluster} has no parts of /{prefix}")),
        }
    }

    /// The first part that overlaps none of `taken`; `None` if there is none left.
    pub fn free(&self, taken: &[Range]) -> Option<Range> {
        let bits = 32 - u32::from(self.prefix);
        let index = |ip: u32| (ip - self.cluster.first).checked_shr(bits).unwrap_or(0);
        let inside = taken.iter().filter(|range| {
            range.first <= self.cluster.last() && range.last() >= self.cluster.first
        });
        let used: BTreeSet<u32> = inside
            .flat_map(|range| {
                let first = range.first.max(self.cluster.first);
                index(first)..=index(range.last().min(self.cluster.last()))
            })
            .collect();
        let free = (0..=index(self.cluster.last())).find(|part| !used.contains(part))?;
        let first = self.cluster.first + free.checked_shl(bits).unwrap_or(0);
        Some(Range { first, prefix: self.prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cluster: &str, prefix: u8, taken: &[&str], expected: &str) {
        let taken: Vec<Range> = taken.iter().map(|text| text.parse().unwrap()).collect();
        let parts = Parts::new(cluster.parse().unwrap(), prefix).unwrap();
        let free = parts.free(&taken).map(|range| range.to_string());
        assert_eq!(free.as_deref().unwrap_or("none"), expected, "{cluster} {taken:?}");
    }

    #[test]
    fn the_first_free_part_is_given() {
        check("10.244.0.0/16", 24, &[], "10.244.0.0/24");
        check("10.244.0.0/16", 24, &["10.244.0.0/24", "10.244.2.0/24"], "10.244.1.0/24");
        // Of other sizes, and from elsewhere.
        check("10.244.0.0/16", 24, &["10.244.0.0/23", "10.0.0.0/24"], "10.244.2.0/24");
        check("10.244.0.0/16", 24, &["10.244.0.128/25"], "10.244.1.0/24");
        check("10.244.0.0/30", 31, &["10.244.0.0/31", "10.244.0.2/31"], "none");
        check("10.244.0.0/16", 24, &["10.0.0.0/8"], "none");
        check("10.244.0.0/32", 32, &[], "10.244.0.0/32");
        check("0.0.0.0/0", 1, &["0.0.0.0/1"], "128.0.0.0/1");
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "fd00::/64"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
        assert!(Parts::new("10.0.0.0/16".parse().unwrap(), 8).is_err());
        assert!(Parts::new("10.0.0.0/16".parse().unwrap(), 33).is_err());
    }
}
