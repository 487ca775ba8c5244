//! Affinity and anti-affinity between pods: who wants whom in the same place, or out of it.
//!
//! A *place* is a topology key with a value: all nodes that carry this label.
//!
//! Source: kubernetes.io, "Assigning Pods to Nodes", "Inter-pod affinity and anti-affinity".

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Affinity, Pod, PodAffinityTerm, WeightedPodAffinityTerm};
use kube::ResourceExt;
use kube::core::{Expression, Selector, SelectorExt};

use super::filter::Reason;
use crate::world::{NodeInfo, PodInfo, World};

/// What a required affinity of a pod that already stands adds to the score of its place.
///
/// Source: `DefaultHardPodAffinityWeight` upstream.
const HARD_WEIGHT: i64 = 1;

/// One term: which pods, and by which label places are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Pods meant; without it, none are.
    selector: Option<Selector>,
    namespaces: Vec<String>,
    namespace_selector: Option<Selector>,
    topology_key: String,
}

/// The terms of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    affinity: Vec<Term>,
    anti: Vec<Term>,
    /// With their weights, negative for anti-affinity.
    preferred: Vec<(Term, i64)>,
}

impl Terms {
    /// Reads the terms of `pod`.
    pub fn of(pod: &Pod) -> Self {
        let Some(affinity) = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()) else {
            return Self::default();
        };
        let Affinity { pod_affinity: near, pod_anti_affinity: far, .. } = affinity;
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<Term> {
            terms.into_iter().flatten().map(|t| Term::of(t, pod)).collect()
        };
        let weighted =
            |terms: Option<&Vec<WeightedPodAffinityTerm>>, sign: i64| -> Vec<(Term, i64)> {
                let term = |t: &WeightedPodAffinityTerm| {
                    (Term::of(&t.pod_affinity_term, pod), sign * i64::from(t.weight))
                };
                terms.into_iter().flatten().map(term).collect()
            };
        let mut preferred = weighted(
            near.as_ref()
                .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            1,
        );
        preferred.extend(weighted(
            far.as_ref()
                .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            -1,
        ));
        Self {
            affinity: required(
                near.as_ref()
                    .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            anti: required(
                far.as_ref()
                    .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred,
        }
    }

    /// Whether the pod says nothing about other pods.
    pub fn is_empty(&self) -> bool {
        self.affinity.is_empty() && self.anti.is_empty() && self.preferred.is_empty()
    }
}

impl Term {
    fn of(term: &PodAffinityTerm, pod: &Pod) -> Self {
        let mut selector = term.label_selector.clone().and_then(|s| Selector::try_from(s).ok());
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.extend(pod.namespace());
        }
        let own = |keys: &Option<Vec<String>>| -> Vec<(String, BTreeSet<String>)> {
            let pair = |key: &String| Some((key.clone(), [pod.labels().get(key)?.clone()].into()));
            keys.iter().flatten().filter_map(pair).collect()
        };
        if let Some(selector) = &mut selector {
            selector
                .extend(own(&term.match_label_keys).into_iter().map(|(k, v)| Expression::In(k, v)));
            selector.extend(
                own(&term.mismatch_label_keys).into_iter().map(|(k, v)| Expression::NotIn(k, v)),
            );
        }
        Self {
            selector,
            namespaces,
            namespace_selector: term
                .namespace_selector
                .clone()
                .and_then(|s| Selector::try_from(s).ok()),
            topology_key: term.topology_key.clone(),
        }
    }

    fn means(&self, pod: &PodInfo, world: &World) -> bool {
        let in_namespace = || {
            self.namespaces.contains(&pod.namespace)
                || self.namespace_selector.as_ref().is_some_and(|s| {
                    s.selects_all()
                        || world.namespace_labels(&pod.namespace).is_some_and(|l| s.matches(l))
                })
        };
        self.selector.as_ref().is_some_and(|s| s.matches(pod.pod.labels())) && in_namespace()
    }

    fn place<'w>(&'w self, node: &'w NodeInfo) -> Option<Place<'w>> {
        Some((&self.topology_key, node.label(&self.topology_key)?))
    }
}

type Place<'w> = (&'w str, &'w str);

/// Where the pods are that a pod seeks or avoids, and those that avoid it.
pub(super) struct Neighbours<'w> {
    terms: &'w Terms,
    avoided_by: BTreeSet<Place<'w>>,
    avoids: BTreeSet<Place<'w>>,
    /// Places of pods that all affinity terms mean.
    seeks: BTreeSet<Place<'w>>,
    /// The pod meets its own affinity: as the first of its kind it may go anywhere.
    is_first: bool,
}

impl<'w> Neighbours<'w> {
    pub(super) fn gather(pod: &'w PodInfo, world: &'w World) -> Self {
        let terms = &pod.terms;
        let mut found = Self {
            terms,
            avoided_by: BTreeSet::new(),
            avoids: BTreeSet::new(),
            seeks: BTreeSet::new(),
            is_first: false,
        };
        let looks_around = !terms.affinity.is_empty() || !terms.anti.is_empty();
        for node in world.nodes().filter(|n| looks_around || n.n_with_terms > 0) {
            for other in node.pods.values() {
                found.see(pod, other, node, world);
            }
        }
        found.is_first =
            found.seeks.is_empty() && terms.affinity.iter().all(|t| t.means(pod, world));
        found
    }

    fn see(&mut self, pod: &PodInfo, other: &'w PodInfo, node: &'w NodeInfo, world: &World) {
        let avoiding = other.terms.anti.iter().filter(|t| t.means(pod, world));
        self.avoided_by.extend(avoiding.filter_map(|t| t.place(node)));
        let avoided = self.terms.anti.iter().filter(|t| t.means(other, world));
        self.avoids.extend(avoided.filter_map(|t| t.place(node)));
        if self.terms.affinity.iter().all(|t| t.means(other, world)) {
            self.seeks.extend(self.terms.affinity.iter().filter_map(|t| t.place(node)));
        }
    }

    pub(super) fn refusal(&self, node: &NodeInfo) -> Option<Reason> {
        let met = |t: &Term| match t.place(node) {
            Some(place) => self.is_first || self.seeks.contains(&place),
            None => false,
        };
        if !self.terms.affinity.iter().all(met) {
            return Some(Reason::Affinity);
        }
        let in_any = |places: &BTreeSet<Place<'_>>| {
            places.iter().any(|(key, value)| node.label(key) == Some(value))
        };
        if in_any(&self.avoids) {
            return Some(Reason::AntiAffinity);
        }
        in_any(&self.avoided_by).then_some(Reason::ExistingAntiAffinity)
    }
}

/// How much each place is liked, by the pod and by those that stand there.
pub(super) fn likings<'w>(pod: &'w PodInfo, world: &'w World) -> BTreeMap<Place<'w>, i64> {
    let mut likings = BTreeMap::new();
    let mut like = |place: Option<Place<'w>>, weight: i64| {
        if let Some(place) = place {
            *likings.entry(place).or_default() += weight;
        }
    };
    let looks_around = !pod.terms.preferred.is_empty();
    for node in world.nodes().filter(|n| looks_around || n.n_with_terms > 0) {
        for other in node.pods.values() {
            for (term, weight) in pod.terms.preferred.iter().filter(|(t, _)| t.means(other, world))
            {
                like(term.place(node), *weight);
            }
            for (term, weight) in other.terms.preferred.iter().filter(|(t, _)| t.means(pod, world))
            {
                like(term.place(node), *weight);
            }
            for term in other.terms.affinity.iter().filter(|t| t.means(pod, world)) {
                like(term.place(node), HARD_WEIGHT);
            }
        }
    }
    likings
}
