//! What a quota's status should say. No I/O.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use quota::{Amount, Amounts, Evaluator, Selector};
use serde_json::Value;

#[cfg(test)]
mod tests;

/// For how long a charge may be for an object that is not seen yet: between the two are one commit of the API server
/// and the way of the watch event.
pub const IN_FLIGHT: SignedDuration = SignedDuration::from_secs(5);

/// A quota's status.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// `status.hard`.
    pub hard: Amounts,
    /// `status.used`.
    pub used: Amounts,
}

/// A quota and what there is in its namespace.
#[derive(Debug)]
pub struct Observed<'a> {
    /// `spec.hard`.
    pub wanted: &'a Amounts,
    /// Its status now.
    pub status: &'a Status,
    /// What was counted; resources that could not be counted are missing.
    pub counted: &'a Amounts,
    /// What was charged so recently that it may be for objects which the count lacks.
    pub in_flight: &'a Amounts,
}

/// The status that the quota should have; `None` if it has it.
///
/// More than what was charged is written at once. Less is written only as far as it is not [`Observed::in_flight`]:
/// whatever was charged and is not there yet would be given away a second time.
#[must_use]
pub fn plan(observed: &Observed<'_>) -> Option<Status> {
    let Observed { wanted, status, counted, in_flight } = observed;
    let mut used = Amounts::default();
    for name in wanted.names() {
        let before = status.used.get(name);
        let Some(counted) = counted.get(name) else {
            if let Some(before) = before {
                used.set(name, before);
            }
            continue;
        };
        let most = in_flight.get(name).map_or(counted, |charged| counted + charged);
        used.set(
            name,
            match before {
                Some(before) if before.nano > most.nano => most,
                Some(before) if before.nano > counted.nano => before,
                _ => counted,
            },
        );
    }
    let same = status.hard.equals(wanted) && status.used.equals(&used);
    (!same).then(|| Status { hard: (*wanted).clone(), used })
}

/// The types whose objects a quota counts.
pub fn types(wanted: &Amounts) -> BTreeSet<(String, String)> {
    let evaluators = wanted.names().filter_map(Evaluator::of_resource);
    evaluators.map(|e| (e.group.to_owned(), e.resource.to_owned())).collect()
}

/// What the objects of one type use of what a quota is about, those that are not in its scope left out.
pub fn count<'o>(
    evaluator: &Evaluator<'_>,
    objects: impl Iterator<Item = &'o Value>,
    wanted: &Amounts,
    selectors: &[Selector],
    now: Timestamp,
) -> Amounts {
    let mut sum = nothing(evaluator, wanted);
    for object in objects.filter(|object| evaluator.fits_all(selectors, object)) {
        let usage = evaluator.usage(object, now);
        sum.add_all(&usage.only(|name| wanted.get(name).is_some()));
    }
    sum
}

/// As [`count`], for types of which only the number counts.
pub fn count_all(
    evaluator: &Evaluator<'_>,
    n_objects: i64,
    wanted: &Amounts,
    selectors: &[Selector],
) -> Amounts {
    let mut sum = nothing(evaluator, wanted);
    if selectors.is_empty() {
        sum.0.values_mut().for_each(|amount| *amount = Amount::of(n_objects.into()));
    }
    sum
}

fn nothing(evaluator: &Evaluator<'_>, wanted: &Amounts) -> Amounts {
    let names = wanted.names().filter(|name| evaluator.tracks(name));
    Amounts(names.map(|name| (name.to_owned(), Amount::default())).collect())
}

/// What was charged to a quota lately, as its versions tell.
#[derive(Debug, Default)]
pub struct Charges {
    /// The newest version that was seen.
    revision: u64,
    used: Amounts,
    lately: Vec<(Timestamp, Amounts)>,
}

impl Charges {
    /// A quota was seen. Of a quota that was not seen before, everything may have been charged just now.
    pub fn see(&mut self, revision: u64, used: &Amounts, now: Timestamp) {
        if revision <= self.revision {
            return;
        }
        let mut more = used.minus(&self.used);
        more.0.retain(|_, amount| amount.nano > 0);
        if !more.is_empty() {
            self.lately.push((now, more));
        }
        self.wrote(revision, used);
    }

    /// The controller has written this; it is no charge.
    pub fn wrote(&mut self, revision: u64, used: &Amounts) {
        self.revision = revision;
        self.used = used.clone();
    }

    /// What was charged within [`IN_FLIGHT`].
    pub fn in_flight(&mut self, now: Timestamp) -> Amounts {
        self.lately.retain(|(then, _)| now.duration_since(*then) < IN_FLIGHT);
        let mut sum = Amounts::default();
        self.lately.iter().for_each(|(_, charged)| sum.add_all(charged));
        sum
    }
}
