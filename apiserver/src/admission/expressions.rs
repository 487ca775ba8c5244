//! The variables of expressions in webhooks and policies: made from a request, each at its first use.
//!
//! Source: upstream `apiserver/pkg/admission/plugin/cel/{compile,activation,composition}.go`.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use schema::cel::{self, Budget, Fault, Program, Value as Cel, Variables};
use serde_json::Value;

use super::attributes::Attributes;
use super::authorizer;
use super::{matching, review};
use crate::registry::Resource;
use crate::status::ApiError;

/// What all expressions of one policy may cost for one request.
///
/// Source: `RuntimeCELCostBudget` in upstream's `apiserver/pkg/apis/cel/config.go`.
pub(super) const PER_POLICY: u64 = 10_000_000;
/// What the match conditions of one webhook or policy may cost for one request.
///
/// Source: `RuntimeCELCostBudgetMatchConditions`, there.
const PER_CONDITIONS: u64 = 2_500_000;

/// What is said when a budget is used up.
pub(super) const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// An expression: compiled, or why it cannot be.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) source: String,
    program: Result<Arc<Program>, String>,
}

impl Expression {
    pub(super) fn new(source: &str) -> Self {
        Self { source: source.to_owned(), program: cel::compile(source) }
    }

    /// What is wrong with the names of the objects that it makes.
    pub(super) fn misnamed(&self) -> Option<String> {
        self.program.as_ref().ok()?.misnamed()
    }

    /// The value; a failure says which expression failed. Nothing if the budget is used up.
    pub(super) fn run(
        &self,
        variables: &dyn Variables,
        budget: &mut Budget,
    ) -> Option<Result<Cel, String>> {
        let program = match &self.program {
            Ok(program) => program,
            Err(error) => return Some(Err(format!("compilation error: {error}"))),
        };
        let result = program.run(variables, budget);
        if budget.is_spent() {
            return None;
        }
        let about =
            |fault: Fault| format!("expression '{}' resulted in error: {fault}", self.source);
        Some(result.map_err(about))
    }
}

/// The variables that every expression has.
pub(super) struct Activation<'a> {
    object: Lazy,
    old: Lazy,
    request: Lazy,
    namespace: Lazy,
    params: Option<Cel>,
    attributes: &'a Attributes<'a>,
    resource: Arc<Resource>,
}

/// A value that is converted at its first use.
struct Lazy {
    json: Value,
    value: OnceCell<Cel>,
}

impl Lazy {
    fn new(json: Value) -> Self {
        Self { json, value: OnceCell::new() }
    }

    fn get(&self) -> Cel {
        self.value.get_or_init(|| cel::from_json(&self.json)).clone()
    }
}

/// What an activation is made of, gathered before expressions run.
pub(super) struct Subject {
    /// As whose object the request is seen.
    pub(super) resource: Arc<Resource>,
    /// The object in the version of that resource; null on deletions.
    pub(super) object: Value,
    /// The stored object in that version; null on creations.
    pub(super) old: Value,
    /// The namespace of the request; null for cluster-scoped objects.
    pub(super) namespace: Value,
}

impl Subject {
    /// Gathers what expressions may look at.
    ///
    /// # Errors
    /// The namespace is not there.
    pub(super) async fn new(
        attributes: &Attributes<'_>,
        resource: &Arc<Resource>,
        object: &Value,
    ) -> Result<Self, ApiError> {
        let namespace = match attributes.namespace {
            "" => Value::Null,
            name => matching::namespace(attributes, name).await?,
        };
        let old = match attributes.old {
            Some(old) => matching::convert(attributes, resource, old).await?,
            None => Value::Null,
        };
        Ok(Self {
            object: matching::convert(attributes, resource, object).await?,
            old,
            resource: resource.clone(),
            namespace,
        })
    }
}

impl<'a> Activation<'a> {
    pub(super) fn new(attributes: &'a Attributes<'a>, subject: &Subject) -> Self {
        let request = review::request(attributes, &subject.resource, &subject.object);
        Self {
            object: Lazy::new(subject.object.clone()),
            old: Lazy::new(subject.old.clone()),
            request: Lazy::new(Value::Object(request)),
            namespace: Lazy::new(visible(&subject.namespace)),
            params: None,
            attributes,
            resource: subject.resource.clone(),
        }
    }

    /// The same request with the parameters of a binding.
    pub(super) fn with_params(self, params: Option<&Value>) -> Self {
        Self { params: Some(params.map_or(Cel::Null, cel::from_json)), ..self }
    }
}

impl Variables for Activation<'_> {
    fn get(&self, name: &str, _: &mut Budget) -> Option<Result<Cel, Fault>> {
        let value = match name {
            "object" => self.object.get(),
            "oldObject" => self.old.get(),
            "request" => self.request.get(),
            "namespaceObject" => self.namespace.get(),
            "params" => self.params.clone()?,
            "authorizer" => authorizer::of(self.attributes),
            "authorizer.requestResource" => {
                authorizer::of_resource(self.attributes, &self.resource)
            }
            _ => return None,
        };
        Some(Ok(value))
    }
}

/// The fields of a namespace that expressions see: not its owners and managers.
///
/// Source: `CreateNamespaceObject` in upstream's `plugin/cel/condition.go`.
fn visible(namespace: &Value) -> Value {
    let mut seen = namespace.clone();
    if let Some(metadata) = seen.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, _| !matches!(key.as_str(), "managedFields" | "ownerReferences"));
    }
    seen
}

/// The variables of a policy, without those that nest too deep through the variables that they name: their values and
/// the stack that they need would grow without an end.
pub(super) fn bounded(mut variables: Vec<(String, Expression)>) -> Vec<(String, Expression)> {
    /// Deepest nesting of a variable with all that it names.
    const HIGHEST: usize = 200;
    /// What running a variable adds to its own parts.
    const RUN: usize = 4;
    let mut heights: HashMap<String, usize> = HashMap::new();
    for (name, expression) in &mut variables {
        let Ok(program) = &expression.program else { continue };
        let below = program.variables().into_iter().filter_map(|name| heights.get(name));
        let height = program.height() + below.max().map_or(0, |below| below + RUN);
        if height > HIGHEST {
            expression.program = Err("expression nests too deep through variables".to_owned());
        } else {
            heights.entry(format!("variables.{name}")).or_insert(height);
        }
    }
    variables
}

/// The variables of a policy: those of the request, and its own, each computed at most once.
pub(super) struct Composed<'a> {
    base: &'a Activation<'a>,
    own: &'a [(String, Expression)],
    values: RefCell<Vec<Option<Result<Cel, Fault>>>>,
}

impl<'a> Composed<'a> {
    pub(super) fn new(base: &'a Activation<'a>, own: &'a [(String, Expression)]) -> Self {
        Self { base, own, values: RefCell::new(vec![None; own.len()]) }
    }

    /// The value of the first variable of this name among the first `limit` ones: each sees only those before it.
    fn own(&self, name: &str, limit: usize, budget: &mut Budget) -> Option<Result<Cel, Fault>> {
        let at = self.own[..limit].iter().position(|(known, _)| known == name)?;
        if let Some(known) = &self.values.borrow()[at] {
            return Some(known.clone());
        }
        let expression = &self.own[at].1;
        let value = match &expression.program {
            Ok(program) => program.run(&Before { all: self, limit: at }, budget),
            Err(error) => Err(Fault::Failed(format!(
                "composited variable {name:?} fails to compile: {error}"
            ))),
        };
        let value = value.map_err(|fault| match fault {
            Fault::Failed(text) => {
                Fault::Failed(format!("composited variable {name:?} fails to evaluate: {text}"))
            }
            Fault::Cost => Fault::Cost,
        });
        self.values.borrow_mut()[at] = Some(value.clone());
        Some(value)
    }
}

impl Variables for Composed<'_> {
    fn get(&self, name: &str, budget: &mut Budget) -> Option<Result<Cel, Fault>> {
        Before { all: self, limit: self.own.len() }.get(name, budget)
    }
}

/// The variables of expressions that only make texts: they may not ask about rights.
pub(super) struct WithoutAuthorizer<'a>(pub(super) &'a Composed<'a>);

impl Variables for WithoutAuthorizer<'_> {
    fn get(&self, name: &str, budget: &mut Budget) -> Option<Result<Cel, Fault>> {
        if name.starts_with("authorizer") { None } else { self.0.get(name, budget) }
    }
}

/// What an expression sees that stands before the variable number `limit`.
struct Before<'a> {
    all: &'a Composed<'a>,
    limit: usize,
}

impl Variables for Before<'_> {
    fn get(&self, name: &str, budget: &mut Budget) -> Option<Result<Cel, Fault>> {
        match name.strip_prefix("variables.") {
            Some(own) => self.all.own(own, self.limit, budget),
            None => self.all.base.get(name, budget),
        }
    }
}

/// `matchConditions` of a webhook or policy.
#[derive(Debug, Default)]
pub(super) struct Conditions(Vec<(String, Expression)>);

impl Conditions {
    pub(super) fn of(conditions: &Value) -> Self {
        let list = conditions.as_array().into_iter().flatten();
        let read = |condition: &Value| {
            let text = |key: &str| condition[key].as_str().unwrap_or_default();
            (text("name").to_owned(), Expression::new(text("expression")))
        };
        Self(list.map(read).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of them hold. One that is false decides, even if another one fails.
    ///
    /// # Errors
    /// What failed, joined as upstream joins it.
    pub(super) fn hold(&self, variables: &dyn Variables) -> Result<bool, String> {
        let mut budget = Budget::new(PER_CONDITIONS);
        let mut faults = Vec::new();
        for (_, condition) in &self.0 {
            match condition.run(variables, &mut budget) {
                None => return Err(OUT_OF_BUDGET.to_owned()),
                Some(Ok(Cel::Bool(true))) => (),
                Some(Ok(_)) => return Ok(false),
                Some(Err(fault)) => faults.push(fault),
            }
        }
        match faults.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_nest_only_so_deep() {
        let chain = |n: usize, of: &dyn Fn(usize) -> String| -> usize {
            let variables = (0..n).map(|n| (format!("v{n}"), Expression::new(&of(n)))).collect();
            bounded(variables).iter().filter(|(_, one)| one.program.is_err()).count()
        };
        let before = |n: usize| n.saturating_sub(1);
        assert_eq!(chain(20, &|n| format!("[variables.v{}]", before(n))), 0);
        assert_eq!(chain(5_000, &|_| "[object]".to_owned()), 0);
        assert!(chain(5_000, &|n| format!("[variables.v{}]", before(n))) > 0);
    }
}
