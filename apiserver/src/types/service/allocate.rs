//! Addresses and node ports of services.
//!
//! What is taken is read from the services' watch cache, so that it is right after a restart and after writes by
//! others; what was handed out a moment ago and is not stored yet is remembered beside it. That makes good guesses;
//! what counts are the [claims](super::claims) in the store.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng as _;
use serde_json::Value;
use store::cache::{Cache, Interest, Kind, Object, Subscription};

use super::claims::Item;
use crate::types::check::{items, text};

/// How long something handed out is kept for a service that never got stored.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why an address or a port cannot be had; the text is upstream's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) String);

/// A range of IPv4 addresses in CIDR form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    base: u32,
    /// Addresses in the range, the first (network) and the last (broadcast) included.
    size: u32,
    prefix: u32,
}

impl Range {
    /// Parses `10.96.0.0/16`.
    pub(super) fn parse(cidr: &str) -> Option<Range> {
        let (address, prefix) = cidr.split_once('/')?;
        let (address, prefix): (Ipv4Addr, u32) = (address.parse().ok()?, prefix.parse().ok()?);
        if !(4..=31).contains(&prefix) {
            return None;
        }
        let size = 1_u32 << (32 - prefix);
        Some(Range { base: u32::from(address) & !(size - 1), size, prefix })
    }

    fn contains(self, ip: Ipv4Addr) -> bool {
        let offset = u32::from(ip).wrapping_sub(self.base);
        offset > 0 && offset < self.size - 1
    }

    fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + offset)
    }

    /// Addresses at the start that are only given on request.
    ///
    /// Source: KEP-3070, "Reserve Service IP Ranges For Dynamic and Static IP Allocation".
    fn on_request(self) -> u32 {
        let size = self.size.saturating_sub(2);
        if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

/// What a service has for itself alone.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) ips: Vec<IpAddr>,
    pub(super) ports: Vec<u16>,
}

impl Held {
    /// What a service's `spec` says.
    pub(super) fn of(spec: &Value) -> Held {
        let mut ips: Vec<IpAddr> =
            items(&spec["clusterIPs"]).iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
        if let Ok(ip) = text(spec, "clusterIP").parse()
            && !ips.contains(&ip)
        {
            ips.push(ip);
        }
        let numbers = items(&spec["ports"])
            .iter()
            .map(|p| &p["nodePort"])
            .chain([&spec["healthCheckNodePort"]]);
        let ports =
            numbers.filter_map(|n| u16::try_from(n.as_u64()?).ok()).filter(|n| *n > 0).collect();
        Held { ips, ports }
    }
}

/// What is taken, by whom.
#[derive(Default)]
struct Taken {
    /// Services by uid.
    held: HashMap<String, Held>,
    ips: HashMap<IpAddr, String>,
    ports: HashMap<u16, String>,
    /// Services that were not seen in the cache yet.
    pending: HashMap<String, Instant>,
}

impl Taken {
    fn set(&mut self, uid: &str, held: Option<Held>) {
        if let Some(before) = self.held.remove(uid) {
            before.ips.iter().for_each(|ip| {
                self.ips.remove(ip);
            });
            before.ports.iter().for_each(|port| {
                self.ports.remove(port);
            });
        }
        if let Some(held) = held {
            held.ips.iter().for_each(|ip| {
                self.ips.insert(*ip, uid.to_owned());
            });
            held.ports.iter().for_each(|port| {
                self.ports.insert(*port, uid.to_owned());
            });
            self.held.insert(uid.to_owned(), held);
        }
    }

    fn stored(&mut self, uid: &str, held: Option<Held>) {
        self.pending.remove(uid);
        self.set(uid, held);
    }

    fn forget_stale(&mut self, now: Instant) {
        let stale: Vec<String> = self
            .pending
            .iter()
            .filter(|(_, since)| now.duration_since(**since) > PATIENCE)
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in stale {
            self.stored(&uid, None);
        }
    }

    fn reserve_ip(&mut self, uid: &str, ip: IpAddr, known: bool) {
        self.ips.insert(ip, uid.to_owned());
        self.held.entry(uid.to_owned()).or_default().ips.push(ip);
        self.wait(uid, known);
    }

    fn reserve_port(&mut self, uid: &str, port: u16, known: bool) {
        self.ports.insert(port, uid.to_owned());
        self.held.entry(uid.to_owned()).or_default().ports.push(port);
        self.wait(uid, known);
    }

    fn wait(&mut self, uid: &str, known: bool) {
        if !known {
            self.pending.entry(uid.to_owned()).or_insert_with(Instant::now);
        }
    }
}

#[derive(Default)]
struct State {
    changes: Option<Subscription>,
    taken: Taken,
}

/// Hands out addresses and node ports.
#[derive(Default)]
pub(super) struct Allocator {
    state: Mutex<State>,
}

impl Allocator {
    /// Takes in what the services' cache shows.
    pub(super) fn catch_up(&self, services: &Cache) {
        let mut state = self.state.lock();
        let State { changes, taken } = &mut *state;
        let closed = match changes {
            None => true,
            Some(changes) => {
                while let Some(event) = changes.try_recv() {
                    let held = (event.kind != Kind::Deleted).then(|| held_by(&event.object));
                    taken.stored(event.object.uid(), held);
                }
                changes.is_closed()
            }
        };
        if closed {
            let pending = std::mem::take(&mut taken.pending);
            let waiting: Vec<_> = pending
                .keys()
                .filter_map(|uid| Some((uid.clone(), taken.held.get(uid)?.clone())))
                .collect();
            *taken = Taken { pending, ..Taken::default() };
            for (uid, held) in waiting {
                taken.set(&uid, Some(held));
            }
            let (list, subscription) = services.list_and_subscribe(None, Interest::All);
            for object in list.iter() {
                taken.stored(object.uid(), Some(held_by(object)));
            }
            *changes = Some(subscription);
        }
        taken.forget_stale(Instant::now());
    }

    /// An address for a service: the wanted one, or any that is free.
    pub(super) fn ip(
        &self,
        uid: &str,
        range: Range,
        wanted: Option<IpAddr>,
        dry: bool,
    ) -> Result<IpAddr, Refusal> {
        let mut state = self.state.lock();
        let taken = &mut state.taken;
        let ip = match wanted {
            Some(ip) => {
                let fits = matches!(ip, IpAddr::V4(v4) if range.contains(v4));
                if !fits {
                    return Err(Refusal(format!(
                        "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
                    )));
                }
                if taken.ips.get(&ip).is_some_and(|owner| owner != uid) {
                    return Err(Refusal(format!(
                        "failed to allocate IP {ip}: provided IP is already allocated"
                    )));
                }
                ip
            }
            None => free_ip(taken, range).ok_or_else(|| {
                Refusal("failed to allocate a serviceIP: range is full".to_owned())
            })?,
        };
        if !dry {
            taken.reserve_ip(uid, ip, false);
        }
        Ok(ip)
    }

    /// A node port for a service: the wanted one, or any that is free.
    pub(super) fn port(
        &self,
        uid: &str,
        range: (u16, u16),
        wanted: Option<i64>,
        known: bool,
        dry: bool,
    ) -> Result<u16, Refusal> {
        let mut state = self.state.lock();
        let taken = &mut state.taken;
        let port = match wanted {
            Some(port) => {
                let fits = u16::try_from(port).ok().filter(|p| (range.0..=range.1).contains(p));
                let Some(port) = fits else {
                    return Err(Refusal(format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        range.0, range.1
                    )));
                };
                if taken.ports.get(&port).is_some_and(|owner| owner != uid) {
                    return Err(Refusal("provided port is already allocated".to_owned()));
                }
                port
            }
            None => free_port(taken, range).ok_or_else(|| {
                Refusal("failed to allocate a nodePort: range is full".to_owned())
            })?,
        };
        if !dry {
            taken.reserve_port(uid, port, known);
        }
        Ok(port)
    }

    /// Somebody else has this, whom the cache does not show yet.
    pub(super) fn note(&self, item: Item) {
        let taken = &mut self.state.lock().taken;
        let other = format!("{item:?}");
        match item {
            Item::Ip(ip) => taken.reserve_ip(&other, ip, false),
            Item::Port(port) => taken.reserve_port(&other, port, false),
        }
    }

    /// Gives back what a service that was not stored had got.
    pub(super) fn give_back(&self, uid: &str) {
        let taken = &mut self.state.lock().taken;
        if taken.pending.contains_key(uid) {
            taken.stored(uid, None);
        }
    }
}

fn free_ip(taken: &Taken, range: Range) -> Option<IpAddr> {
    let last = range.size.saturating_sub(2);
    let first = range.on_request() + 1;
    let start = if first > last { first } else { rand::rng().random_range(first..=last) };
    let upper = (start..=last).chain(first..start);
    let lower = 1..first;
    upper.chain(lower).map(|n| IpAddr::V4(range.at(n))).find(|ip| !taken.ips.contains_key(ip))
}

fn free_port(taken: &Taken, (first, last): (u16, u16)) -> Option<u16> {
    let start = rand::rng().random_range(first..=last);
    (start..=last).chain(first..start).find(|port| !taken.ports.contains_key(port))
}

fn held_by(service: &Object) -> Held {
    let value: Value = serde_json::from_slice(service.stored()).unwrap_or_default();
    Held::of(&value["spec"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> Range {
        Range::parse("10.96.0.0/28").unwrap()
    }

    #[test]
    fn a_range_is_handed_out_without_its_ends() {
        let allocator = Allocator::default();
        let mut seen: Vec<IpAddr> = (0..14)
            .map(|n| allocator.ip(&format!("u{n}"), range(), None, false).unwrap())
            .collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 14);
        assert_eq!(
            (seen[0].to_string(), seen[13].to_string()),
            ("10.96.0.1".into(), "10.96.0.14".into())
        );
        assert!(allocator.ip("more", range(), None, false).is_err());
        allocator.give_back("u3");
        assert!(allocator.ip("more", range(), None, false).is_ok());
    }

    #[test]
    fn a_wanted_address_is_given_once() {
        let allocator = Allocator::default();
        let ip: IpAddr = "10.96.0.5".parse().unwrap();
        assert_eq!(allocator.ip("a", range(), Some(ip), true), Ok(ip), "a dry run takes nothing");
        assert_eq!(allocator.ip("a", range(), Some(ip), false), Ok(ip));
        assert_eq!(allocator.ip("a", range(), Some(ip), false), Ok(ip), "its own");
        let refusal = allocator.ip("b", range(), Some(ip), false).unwrap_err();
        assert_eq!(refusal.0, "failed to allocate IP 10.96.0.5: provided IP is already allocated");
        let outside =
            allocator.ip("b", range(), Some("10.96.0.0".parse().unwrap()), false).unwrap_err();
        assert!(outside.0.contains("not in the valid range"), "{}", outside.0);
    }

    #[test]
    fn ports_are_given_once() {
        let allocator = Allocator::default();
        let range = (30000, 30001);
        let first = allocator.port("a", range, None, false, false).unwrap();
        let second = allocator.port("b", range, None, false, false).unwrap();
        assert_ne!(first, second);
        assert!(allocator.port("c", range, None, false, false).is_err());
        assert_eq!(allocator.port("a", range, Some(i64::from(first)), false, false), Ok(first));
        assert!(allocator.port("c", range, Some(40000), false, false).is_err());
    }

    #[test]
    fn the_start_of_a_large_range_is_kept_for_requests() {
        assert_eq!(Range::parse("10.96.0.0/16").unwrap().on_request(), 256);
        assert_eq!(Range::parse("10.96.0.0/24").unwrap().on_request(), 16);
        assert_eq!(Range::parse("10.96.0.0/28").unwrap().on_request(), 0);
        assert!(Range::parse("fd00::/108").is_none() && Range::parse("10.96.0.0").is_none());
    }

    #[tokio::test]
    async fn what_is_stored_is_taken() {
        use std::sync::Arc;
        use store::cache::{Decoder, Limits};
        use store::{Expect, MemoryStore, Store};
        let store = MemoryStore::new();
        let service = |uid: &str, ip: &str| {
            Some(format!(r#"{{"metadata":{{"uid":"{uid}"}},"spec":{{"clusterIP":"{ip}","ports":[{{"nodePort":30007}}]}}}}"#).into())
        };
        let prefix = "/registry/core/services/";
        let key = "/registry/core/services/ns/a";
        let revision = store.commit(key, Expect::Absent, service("a", "10.96.0.5")).await.unwrap();
        let cache = Cache::start(
            Arc::new(store.clone()),
            prefix,
            Decoder::default().into(),
            Limits::default(),
        )
        .await
        .unwrap();
        let allocator = Allocator::default();
        let ip = "10.96.0.5".parse().unwrap();
        allocator.catch_up(&cache);
        assert!(allocator.ip("b", range(), Some(ip), false).is_err());
        assert!(allocator.port("b", (30000, 30010), Some(30007), false, false).is_err());
        store.commit(key, Expect::At(revision), None).await.unwrap();
        cache.caught_up().await.unwrap();
        tokio::task::yield_now().await;
        allocator.catch_up(&cache);
        assert!(allocator.ip("b", range(), Some(ip), false).is_ok());
    }
}
