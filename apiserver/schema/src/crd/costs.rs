//! What the rules of a definition may cost, alone and together.

use crate::cause::Cause;
use crate::cel::estimate::{PER_RULE, PER_SCHEMA, exceeds};

/// Rules that are named when all of them together cost too much.
const NAMED: usize = 4;

/// The costs of the rules so far.
#[derive(Default)]
pub(super) struct Costs {
    total: u64,
    /// Costs and places of the rules that matter.
    expensive: Vec<(u64, String)>,
}

impl Costs {
    /// Notes what a rule costs at most; refuses one that costs too much by itself.
    pub(super) fn note(&mut self, field: String, cost: u64) -> Option<Cause> {
        self.total = self.total.saturating_add(cost);
        let is_message = field.ends_with(".messageExpression");
        let what = if is_message { "messageExpression" } else { "rule" };
        let refused = (cost > PER_RULE).then(|| {
            let what = format!("estimated {what} cost");
            Cause::forbidden(field.clone(), &exceeds(&what, cost, PER_RULE))
        });
        if cost >= PER_SCHEMA / 100 {
            self.expensive.push((cost, field));
        }
        refused
    }

    /// Refuses rules that cost too much together, and names those that cost most.
    pub(super) fn finish(mut self, path: &str) -> Vec<Cause> {
        if self.total <= PER_SCHEMA {
            return Vec::new();
        }
        self.expensive.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        let contributed = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        let named = self.expensive.into_iter().take(NAMED);
        let mut causes: Vec<Cause> =
            named.map(|(_, field)| Cause::forbidden(field, contributed)).collect();
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        causes.push(Cause::forbidden(path, &exceeds(what, self.total, PER_SCHEMA)));
        causes
    }
}
