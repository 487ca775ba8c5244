//! Loops: what their variables are, and what all their turns cost.

use std::num::Saturating;

use super::super::ast::{Expr, Loop};
use super::super::types::Type;
use super::{Checked, Checker, ONE};

impl<'a> Checker<'a, '_> {
    pub(super) fn repeat(&mut self, inner: &'a Loop) -> Checked {
        let range = self.check(&inner.range);
        let n = range.size;
        let (item, second) = self.entries(&range, inner);
        let init = self.check(&inner.init);
        let before = self.locals.len();
        self.locals.push((inner.accumulator.to_string(), init.clone()));
        self.locals.push((inner.item.to_string(), item));
        if let Some(name) = &inner.second {
            self.locals.push((name.to_string(), second));
        }
        let condition = self.check(&inner.condition);
        let step = self.check(&inner.step);
        self.locals.truncate(before);
        // What is gathered has as many entries as there were turns at most.
        let gathers = matches!(inner.init, Expr::List(_) | Expr::Map(_));
        let gathered = if gathers { step.of.sized(n) } else { init.of };
        let gathered = Checked { of: gathered, ..init };
        self.locals.push((inner.accumulator.to_string(), gathered));
        let result = self.check(&inner.result);
        self.locals.pop();
        let turns = Saturating(n) * (condition.cost + step.cost);
        let cost = turns + range.cost + init.cost + result.cost;
        let size = if gathers { n } else { 1 };
        Checked::known(result.of, cost, size)
    }

    /// The variables of a loop: an entry, or a key or an index and what is there.
    fn entries(&mut self, range: &Checked, inner: &'a Loop) -> (Checked, Checked) {
        let root = self.root();
        let entry = |of: Type| match range.is_part {
            true => Checked::part(of, ONE),
            false => Checked::made(of, ONE).sized(root),
        };
        match range.of.clone() {
            Type::List(item, _) if inner.second.is_some() => {
                (Checked::made(Type::Int, ONE), entry(*item))
            }
            Type::List(item, _) => (entry(*item), entry(Type::Dyn)),
            Type::Map(types, _) => {
                let [key, value] = *types;
                (entry(key), entry(value))
            }
            Type::Dyn | Type::Free => (entry(Type::Dyn), entry(Type::Dyn)),
            other => {
                let text = format!(
                    "expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)",
                    other.shown()
                );
                self.wrong(&inner.range, text);
                (entry(Type::Dyn), entry(Type::Dyn))
            }
        }
    }
}
