//! What is known of a part of an expression: its type, its cost, and how large it can become.

use super::super::types::Type;
use super::Cost;

/// A type, and the most that finding the value costs.
#[derive(Clone)]
pub(in super::super) struct Checked {
    pub(in super::super) of: Type,
    pub(in super::super) cost: Cost,
    /// How much there is to look at, at most.
    pub(super) size: u64,
    /// Whether it is a part of the object, so that a schema bounds what is in it too.
    pub(super) is_part: bool,
}

impl Checked {
    /// A part of the object.
    pub(super) fn part(of: Type, cost: Cost) -> Self {
        let size = of.most();
        Self { of, cost, size, is_part: true }
    }

    /// What an expression makes: how large that can become, and what is in it, is only known of numbers and the like.
    pub(super) fn made(of: Type, cost: Cost) -> Self {
        let size = if of.is_scalar() { 1 } else { u64::MAX };
        Self { of: of.unbound(), cost, size, is_part: false }
    }

    /// What an expression makes of what is known.
    pub(super) fn known(of: Type, cost: Cost, size: u64) -> Self {
        Self { of: of.sized(size), cost, size, is_part: false }
    }

    pub(super) fn sized(self, size: u64) -> Self {
        Self { of: self.of.sized(size), size, ..self }
    }
}
