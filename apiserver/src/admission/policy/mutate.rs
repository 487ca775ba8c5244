//! What a mutating policy makes of an object. Pure.

use std::sync::Arc;

use schema::Schema;
use schema::cel::{self, Budget, Value as Cel};
use serde_json::{Value, json};

use super::definition::Mutation;
use super::{Definition, Invocation};
use crate::admission::attributes::Attributes;
use crate::admission::expressions::{
    Activation, Composed, Expression, OUT_OF_BUDGET, PER_POLICY, Subject,
};

/// Whether the policy's conditions hold for the object as it is now.
///
/// # Errors
/// A condition fails.
pub(super) fn applies(
    invocation: &Invocation<'_>,
    attributes: &Attributes<'_>,
    subject: &Subject,
) -> Result<bool, String> {
    let definition = &invocation.policy.definition;
    let base = activation(invocation, attributes, subject);
    definition.conditions.hold(&base)
}

fn activation<'a>(
    invocation: &Invocation<'_>,
    attributes: &'a Attributes<'a>,
    subject: &Subject,
) -> Activation<'a> {
    let base = Activation::new(attributes, subject);
    match &invocation.params {
        Some(params) => base.with_params(Some(params)),
        None => base,
    }
}

/// The object after one mutation.
///
/// # Errors
/// The expression fails, or what it makes does not fit the object.
pub(super) fn apply(
    mutation: &Mutation,
    invocation: &Invocation<'_>,
    attributes: &Attributes<'_>,
    subject: &Subject,
    schema: Option<&Arc<Schema>>,
) -> Result<Value, String> {
    let definition = &*invocation.policy.definition;
    let base = activation(invocation, attributes, subject);
    match mutation {
        Mutation::Apply(expression) => {
            let config = run(expression, definition, &base)?;
            if !matches!(config, Cel::Map(_)) {
                return Err("unsupported return type from ApplyConfiguration expression".to_owned());
            }
            configured(subject, cel::to_json(&config)?, schema)
        }
        Mutation::Patch(expression) => {
            let Cel::List(operations) = run(expression, definition, &base)? else {
                return Err(
                    "type mismatch: JSONPatchType.expression should evaluate to array".to_owned()
                );
            };
            let operations = operations.iter().map(cel::to_json).collect::<Result<Vec<_>, _>>();
            let operations = operations.map_err(|error| {
                format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}")
            })?;
            patched(subject, operations)
        }
    }
}

fn run(
    expression: &Expression,
    definition: &Definition,
    base: &Activation<'_>,
) -> Result<Cel, String> {
    let variables = Composed::new(base, &definition.variables);
    let mut budget = Budget::new(PER_POLICY);
    let value = expression.run(&variables, &mut budget);
    let value = value.unwrap_or_else(|| Err(OUT_OF_BUDGET.to_owned()))?;
    match expression.misnamed() {
        Some(fault) => Err(format!("type mismatch: {fault}")),
        None => Ok(value),
    }
}

fn configured(
    subject: &Subject,
    mut config: Value,
    schema: Option<&Arc<Schema>>,
) -> Result<Value, String> {
    let Some(schema) = schema else {
        return Err("error applying patch: type converter must not be nil".to_owned());
    };
    for key in ["apiVersion", "kind"] {
        config[key] = subject.object[key].clone();
    }
    let mut object = subject.object.clone();
    schema
        .merge_configuration(&mut object, &config)
        .map_err(|error| format!("error applying patch: {error}"))?;
    Ok(object)
}

/// A `test` that does not hold leaves the object as it is.
fn patched(subject: &Subject, operations: Vec<Value>) -> Result<Value, String> {
    let mut object = subject.object.clone();
    for operation in operations {
        let is_test = operation["op"] == "test";
        let text = json!([operation]).to_string();
        match schema::patch::json(&mut object, text.as_bytes()) {
            Ok(()) => (),
            Err(_) if is_test => return Ok(subject.object.clone()),
            Err(error) => return Err(format!("JSON Patch: {error}")),
        }
    }
    Ok(object)
}
