//! What is known of a resize: what is asked for, and how far what is allotted is carried out.

use std::sync::Arc;

use super::{Failure, Observed, Wanted};
use crate::pods::allotment::Allotment;

/// Resources that the API asks for and the node has not allotted yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The resources.
    pub allotment: Allotment,
    /// What the node has said; `None` before it was asked.
    pub answer: Option<Refusal>,
}

/// Why a resize is not allotted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not all pods of the node are known yet.
    TooEarly,
    /// It does not fit now.
    Deferred {
        /// For people.
        message: String,
        /// `metadata.generation` that was judged.
        generation: Option<i64>,
    },
}

/// How far an allotted resize is carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resizing {
    /// `metadata.generation` of the allotment; `None` when nothing is left to report.
    pub generation: Option<i64>,
    /// It is being applied.
    pub busy: bool,
    /// Why it could not be applied.
    pub failure: Option<Failure>,
}

impl Observed {
    /// Takes a new version of the pod. Other resources than those allotted are only asked for.
    pub fn want(&mut self, new: Arc<Wanted>) {
        let generation = |w: &Wanted| w.pod.metadata.generation;
        if self.asked.is_none()
            && generation(&new).is_some()
            && generation(&new) == generation(&self.wanted)
        {
            self.wanted = new; // No specification has changed.
            return;
        }
        let allotted = Allotment::of(&self.wanted.pod);
        let allotment = Allotment::of(&new.pod);
        if allotment.agrees_with(&allotted) {
            self.asked = None;
            self.wanted = new;
            return;
        }
        let known = self.asked.take().filter(|a| a.allotment.agrees_with(&allotment));
        let answer = known.and_then(|a| a.answer);
        self.asked = Some(Asked { allotment, answer });
        self.wanted = Arc::new(Wanted::new(Arc::new(allotted.put_into(&new.pod))));
    }

    /// Gives the pod what it asks for.
    pub fn allot(&mut self) {
        let Some(asked) = self.asked.take() else { return };
        let pod = asked.allotment.put_into(&self.wanted.pod);
        self.resizing.generation = pod.metadata.generation;
        self.resizing.failure = None;
        self.wanted = Arc::new(Wanted::new(Arc::new(pod)));
    }
}
