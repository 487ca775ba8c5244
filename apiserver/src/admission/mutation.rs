//! What follows from a change that a webhook or policy made.

use std::collections::HashSet;
use std::sync::Arc;

use schema::Schema;
use serde_json::Value;

use super::attributes::Attributes;
use super::matching::kind_for;
use crate::registry::Resource;

/// Which hooks look at an object a second time, because a later one changed it.
///
/// Source: `reinvocationcontext.go` of upstream's `plugin/webhook/mutating` and `plugin/policy/mutating`.
#[derive(Debug, Default)]
pub struct Rounds {
    /// Asked, and willing to be asked again.
    asked: HashSet<String>,
    /// To be asked again.
    due: HashSet<String>,
    /// The object after the last one was asked.
    output: Option<Value>,
}

impl Rounds {
    /// Begins a round; in a second one all are due if something else changed the object since the first.
    pub(super) fn begin(&mut self, is_second: bool, object: &Value) {
        if is_second && self.output.as_ref().is_some_and(|output| output != object) {
            self.changed();
        }
    }

    /// Those that were asked before this change are due again.
    pub(super) fn changed(&mut self) {
        self.due.extend(self.asked.drain());
    }

    pub(super) fn asked(&mut self, hook: &str) {
        self.asked.insert(hook.to_owned());
    }

    pub(super) fn is_due(&self, hook: &str) -> bool {
        self.due.contains(hook)
    }

    pub(super) fn end(&mut self, object: &Value) {
        self.output = Some(object.clone());
    }
}

/// The schema of the objects of a request, seen as one for `resource`.
pub(super) fn schema(attributes: &Attributes<'_>, resource: &Arc<Resource>) -> Option<Arc<Schema>> {
    let kind = kind_for(attributes, resource);
    if kind.kind == resource.kind {
        return resource.schema.get().cloned();
    }
    Schema::for_gvk(kind.group, kind.version, kind.kind).map(Arc::new)
}

/// Decodes and defaults an object that was changed, as if a client had sent it.
///
/// # Errors
/// It is no object of its type any more.
pub(super) fn normalize(
    attributes: &Attributes<'_>,
    resource: &Arc<Resource>,
    object: &mut Value,
) -> Result<(), String> {
    let Some(schema) = schema(attributes, resource) else { return Ok(()) };
    schema.decode(object).map_err(|fault| fault.to_string())?;
    schema.default(object);
    if kind_for(attributes, resource).kind == resource.kind {
        resource.strategy.default(object);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn earlier_hooks_are_due_after_a_change() {
        let mut rounds = Rounds::default();
        rounds.begin(false, &json!(1));
        rounds.asked("a");
        rounds.changed();
        rounds.asked("b");
        rounds.end(&json!(2));
        assert!(rounds.is_due("a") && !rounds.is_due("b"));
        rounds.begin(true, &json!(2));
        assert!(!rounds.is_due("b"));
        rounds.begin(true, &json!(3)); // A plugin in between changed the object.
        assert!(rounds.is_due("b"));
    }
}
