//! What is only read when somebody looks: how full levels were over time, and their virtual time.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Fairness;
use super::mix::Phase;
use super::queues::Served;
use super::utilization::{Meters, Utilization};

/// One level.
#[derive(Debug)]
struct OfLevel {
    name: String,
    meters: Meters,
    virtual_now: f64,
    /// `None` without queues, where nothing is served in virtual time.
    served: Option<Served>,
}

/// All that is read at once.
#[derive(Debug)]
struct Snapshot {
    levels: Vec<OfLevel>,
    mix: Vec<(&'static str, &'static str, Utilization)>,
}

/// Puts what is true now into a registry.
pub fn put_into(fairness: &Fairness, registry: &mut Registry) {
    let table = fairness.table.load();
    let levels = table.levels.values().map(|level| {
        let (virtual_now, served) = level.look(|queues| (queues.virtual_now(), queues.served()));
        OfLevel { name: level.name.clone(), meters: level.meters(), virtual_now, served }
    });
    let phases = [(Phase::Waiting, "waiting"), (Phase::Running, "executing")];
    let kinds = [(false, "readOnly"), (true, "mutating")];
    let mix = phases.into_iter().flat_map(|(phase, of_phase)| {
        kinds.map(|(changes, kind)| (of_phase, kind, fairness.mix.seen(phase, changes)))
    });
    let snapshot = Snapshot { levels: levels.collect(), mix: mix.collect() };
    let registry = registry.sub_registry_with_prefix("apiserver_flowcontrol");
    registry.register_collector(Box::new(snapshot));
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        self.histograms(&mut encoder)?;
        self.gauges(&mut encoder)
    }
}

impl Snapshot {
    fn histograms(&self, out: &mut DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut family =
            |name, help, members: &mut dyn Iterator<Item = Member<'_, Utilization>>| {
                let mut family = out.encode_descriptor(name, help, None, MetricType::Histogram)?;
                for (labels, member) in members {
                    member.encode(family.encode_family(&labels)?)?;
                }
                Ok(())
            };
        family(
            "priority_level_seat_utilization",
            "Nanoseconds by part of the seats in use",
            &mut self.levels.iter().map(|l| {
                (vec![("priority_level", l.name.as_str()), ("phase", "executing")], &l.meters.seats)
            }),
        )?;
        family(
            "priority_level_request_utilization",
            "Nanoseconds by part of the requests that may wait or run",
            &mut self.levels.iter().flat_map(|l| {
                let phases = [("waiting", &l.meters.waiting), ("executing", &l.meters.running)];
                let labels = |phase| vec![("phase", phase), ("priority_level", l.name.as_str())];
                phases.map(|(phase, member)| (labels(phase), member))
            }),
        )?;
        family(
            "demand_seats",
            "Nanoseconds by seats wanted, as part of those that the level has",
            &mut self
                .levels
                .iter()
                .map(|l| (vec![("priority_level", l.name.as_str())], &l.meters.demand)),
        )?;
        family(
            "read_vs_write_current_requests",
            "Nanoseconds by part of the requests that may wait or run",
            &mut self.mix.iter().map(|(phase, kind, member)| {
                (vec![("phase", *phase), ("request_kind", *kind)], member)
            }),
        )
    }

    fn gauges(&self, out: &mut DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut family = |name, help, of: &dyn Fn(&OfLevel) -> Vec<Bounded>| {
            let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for level in &self.levels {
                for (bound, value) in of(level) {
                    let mut labels = vec![("priority_level", level.name.as_str())];
                    labels.extend(bound.map(|bound| ("bound", bound)));
                    family.encode_family(&labels)?.encode_gauge(&value)?;
                }
            }
            Ok(())
        };
        let served = |of: fn(Served) -> Vec<Bounded>| {
            move |level: &OfLevel| level.served.map(of).unwrap_or_default()
        };
        family("current_r", "Virtual time now", &|level| vec![(None, level.virtual_now)])?;
        let at = served(|s| vec![(None, s.at)]);
        family("dispatch_r", "Virtual time of the last service", &at)?;
        let start = served(|s| vec![(None, s.start)]);
        family("latest_s", "Virtual begin of the request served last", &start)?;
        let starts = served(|s| bounds(s.starts));
        family("next_s_bounds", "Virtual begins of the queues' heads", &starts)?;
        let discounted = served(|s| bounds(s.discounted));
        let help = "The same, less the work that is believed to be under way";
        family("next_discounted_s_bounds", help, &discounted)
    }
}

/// Labels and the metric that has them.
type Member<'a, M> = (Vec<(&'a str, &'a str)>, &'a M);

/// A value, and which bound it is if it is one of two.
type Bounded = (Option<&'static str>, f64);

fn bounds((first, last): (f64, f64)) -> Vec<Bounded> {
    vec![(Some("min"), first), (Some("max"), last)]
}
