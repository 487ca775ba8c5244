//! Addresses and node ports of services.
//!
//! What is taken is read from the services' watch cache, so that it is right after a restart and after writes by
//! others; what was handed out a moment ago and is not stored yet is remembered beside it. That makes good guesses;
//! what counts are the [claims](super::claims) in the store.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use parking_lot::Mutex;
use rand::Rng as _;
use serde_json::Value;
use store::cache::{Cache, Interest, Kind, Object, Subscription};

use super::claims::Item;
use super::range;
use crate::types::check::{items, text};

/// How long something handed out is kept for a service that never got stored.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why an address or a port cannot be had, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Everything is taken.
    #[error("range is full")]
    Full,
    /// There is no range to take from.
    #[error("allocator not ready")]
    NotReady,
    /// No range has the address.
    #[error("the provided network does not match the current range")]
    Elsewhere,
    /// The range that a dry run looks at has not the address.
    #[error("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}")]
    OutOfRange {
        /// The wanted address.
        ip: IpAddr,
        /// Where it should be.
        range: IpNet,
    },
    /// Somebody has the address.
    #[error("provided IP is already allocated")]
    IpTaken,
    /// Not one of the ports that are for services.
    #[error("provided port is not in the valid range. The range of valid ports is {0}-{1}")]
    PortOutOfRange(u16, u16),
    /// Somebody has the port.
    #[error("provided port is already allocated")]
    PortTaken,
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

/// A service that asks for something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taker<'a> {
    pub(super) uid: &'a str,
    /// Whether it is stored already.
    pub(super) known: bool,
    /// Whether what it gets is its own from then on, so that others cannot get it.
    pub(super) keep: bool,
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

    fn reserve(&mut self, taker: Taker<'_>, item: Item) {
        if !taker.keep {
            return;
        }
        let uid = taker.uid.to_owned();
        let held = self.held.entry(uid.clone()).or_default();
        match item {
            Item::Ip(ip) => {
                held.ips.push(ip);
                self.ips.insert(ip, uid.clone());
            }
            Item::Port(port) => {
                held.ports.push(port);
                self.ports.insert(port, uid.clone());
            }
        }
        if !taker.known {
            self.pending.entry(uid).or_insert_with(Instant::now);
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

    /// An address out of one of the ranges: the wanted one, or any that is free.
    pub(super) fn ip(
        &self,
        taker: Taker<'_>,
        ranges: &[IpNet],
        wanted: Option<IpAddr>,
    ) -> Result<IpAddr, Refusal> {
        let mut state = self.state.lock();
        let taken = &mut state.taken;
        let ip = match wanted {
            Some(ip) if !ranges.iter().any(|r| range::has(*r, ip)) => {
                return Err(Refusal::Elsewhere);
            }
            Some(ip) if taken.ips.get(&ip).is_some_and(|owner| owner != taker.uid) => {
                return Err(Refusal::IpTaken);
            }
            Some(ip) => ip,
            None => {
                let is_free = |ip| !taken.ips.contains_key(&ip);
                let mut drawn = ranges.iter().filter_map(|r| range::draw(*r, is_free));
                drawn.next().ok_or(Refusal::Full)?
            }
        };
        taken.reserve(taker, Item::Ip(ip));
        Ok(ip)
    }

    /// The wanted one of the node ports, both ends included.
    pub(super) fn port(
        &self,
        taker: Taker<'_>,
        (first, last): (u16, u16),
        wanted: i64,
    ) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        let fits = u16::try_from(wanted).ok().filter(|port| (first..=last).contains(port));
        let port = fits.ok_or(Refusal::PortOutOfRange(first, last))?;
        if state.taken.ports.get(&port).is_some_and(|owner| owner != taker.uid) {
            return Err(Refusal::PortTaken);
        }
        state.taken.reserve(taker, Item::Port(port));
        Ok(())
    }

    /// Any node port that is free and none of `others`.
    pub(super) fn any_port(
        &self,
        taker: Taker<'_>,
        (first, last): (u16, u16),
        others: &[i64],
    ) -> Result<u16, Refusal> {
        let mut state = self.state.lock();
        let taken = &mut state.taken;
        let start = rand::rng().random_range(first..=last);
        let is_free =
            |port: &u16| !taken.ports.contains_key(port) && !others.contains(&i64::from(*port));
        let port = (start..=last).chain(first..start).find(is_free).ok_or(Refusal::Full)?;
        taken.reserve(taker, Item::Port(port));
        Ok(port)
    }

    /// Somebody else has this, whom the cache does not show yet.
    pub(super) fn note(&self, item: Item) {
        let taken = &mut self.state.lock().taken;
        let other = format!("{item:?}");
        taken.reserve(Taker { uid: &other, known: false, keep: true }, item);
    }

    /// Gives back what a service that was not stored had got.
    pub(super) fn give_back(&self, uid: &str) {
        let taken = &mut self.state.lock().taken;
        if taken.pending.contains_key(uid) {
            taken.stored(uid, None);
        }
    }
}

fn held_by(service: &Object) -> Held {
    let value: Value = serde_json::from_slice(service.stored()).unwrap_or_default();
    Held::of(&value["spec"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> [IpNet; 2] {
        ["10.96.0.0/28", "10.97.0.0/29"].map(|range| range.parse().unwrap())
    }

    fn taker(uid: &str) -> Taker<'_> {
        Taker { uid, known: false, keep: true }
    }

    #[test]
    fn no_address_is_given_twice() {
        let allocator = Allocator::default();
        let mut seen: Vec<IpAddr> = (0..14 + 6)
            .map(|n| allocator.ip(taker(&format!("u{n}")), &ranges(), None).unwrap())
            .collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 14 + 6);
        assert_eq!(allocator.ip(taker("more"), &ranges(), None), Err(Refusal::Full));
        allocator.give_back("u3");
        assert!(allocator.ip(taker("more"), &ranges(), None).is_ok());
    }

    #[test]
    fn a_wanted_address_is_given_once() {
        let allocator = Allocator::default();
        let ip: IpAddr = "10.97.0.5".parse().unwrap();
        let give = |taker| allocator.ip(taker, &ranges(), Some(ip));
        assert_eq!(give(Taker { keep: false, ..taker("a") }), Ok(ip));
        assert_eq!(give(taker("b")), Ok(ip), "a did not keep it");
        assert_eq!(give(taker("b")), Ok(ip), "its own");
        assert_eq!(give(taker("a")), Err(Refusal::IpTaken));
        let network = "10.96.0.0".parse().unwrap();
        assert_eq!(allocator.ip(taker("a"), &ranges(), Some(network)), Err(Refusal::Elsewhere));
    }

    #[test]
    fn ports_are_given_once() {
        let allocator = Allocator::default();
        let range = (30000, 30001);
        let any = |uid: &str, others: &[i64]| allocator.any_port(taker(uid), range, others);
        assert_eq!(any("a", &[30000]), Ok(30001));
        assert_eq!(any("b", &[30000]), Err(Refusal::Full));
        assert_eq!(any("b", &[]), Ok(30000));
        assert_eq!(any("c", &[]), Err(Refusal::Full));
        let wanted = |uid: &str, port| allocator.port(taker(uid), range, port);
        assert_eq!(wanted("a", 30001), Ok(()));
        assert_eq!(wanted("c", 30001), Err(Refusal::PortTaken));
        assert_eq!(wanted("c", 40000), Err(Refusal::PortOutOfRange(30000, 30001)));
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
        assert!(allocator.ip(taker("b"), &ranges(), Some(ip)).is_err());
        assert!(allocator.port(taker("b"), (30000, 30010), 30007).is_err());
        store.commit(key, Expect::At(revision), None).await.unwrap();
        cache.caught_up().await.unwrap();
        tokio::task::yield_now().await;
        allocator.catch_up(&cache);
        assert!(allocator.ip(taker("b"), &ranges(), Some(ip)).is_ok());
    }
}
