//! What a validating policy thinks of a request. Pure.

use schema::cel::{Budget, Value as Cel};

use super::definition::Validation;
use super::{Definition, Invocation};
use crate::admission::attributes::Attributes;
use crate::admission::expressions::{
    Activation, Composed, OUT_OF_BUDGET, PER_POLICY, WithoutAuthorizer,
};

/// Longest text that a `messageExpression` may make, in bytes.
const LONGEST_MESSAGE: usize = 5 * 1024;
/// Longest audit annotation, in bytes.
const LONGEST_ANNOTATION: usize = 10 * 1024;

/// One rule that does not hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// Place of the rule in the policy.
    pub(super) index: usize,
    pub(super) message: String,
    pub(super) reason: String,
    /// Whether the rule could be evaluated, as metrics have it.
    pub(super) error_type: &'static str,
}

/// What a policy says.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) violations: Vec<Violation>,
    /// Keys and values for the audit event.
    pub(super) annotations: Vec<(String, String)>,
    /// Audit annotations that failed, which refuses the request.
    pub(super) faults: Vec<String>,
    /// Of each rule that could not be evaluated without an effect, why, as metrics have it.
    pub(super) ignored: Vec<&'static str>,
}

/// Kinds of errors of expressions, in metrics.
///
/// Source: `ValidationErrorType` in upstream's `plugin/policy/validating/metrics`.
pub(super) const NO_ERROR: &str = "no_error";
pub(super) const INVALID: &str = "invalid_error";
const SPENT: &str = "out_of_budget";

/// What kind of error a fault is.
pub(super) fn error_type(fault: &str) -> &'static str {
    if fault.contains(OUT_OF_BUDGET) { SPENT } else { INVALID }
}

/// Judges a request by one use of a policy.
pub(super) fn judge(invocation: &Invocation<'_>, attributes: &Attributes<'_>) -> Verdict {
    let definition = &*invocation.policy.definition;
    let mut base = Activation::new(attributes, &invocation.subject);
    if let Some(params) = &invocation.params {
        base = base.with_params(Some(params));
    }
    match definition.conditions.hold(&base) {
        Ok(true) => (),
        Ok(false) => return Verdict::default(),
        Err(fault) => return failed(definition, fault),
    }
    let variables = Composed::new(&base, &definition.variables);
    let mut verdict = Verdict::default();
    let mut budget = Budget::new(PER_POLICY);
    for (index, validation) in definition.validations.iter().enumerate() {
        let violated = |message: String, reason: &str, error_type: &'static str| Violation {
            index,
            message,
            reason: reason.to_owned(),
            error_type,
        };
        match validation.rule.run(&variables, &mut budget) {
            None => return failed(definition, OUT_OF_BUDGET.to_owned()),
            Some(Ok(Cel::Bool(true))) => (),
            Some(Ok(_)) => match message(validation, &variables, &mut budget) {
                Some(message) => {
                    verdict.violations.push(violated(message, &validation.reason, NO_ERROR));
                }
                None => {
                    return failed(
                        definition,
                        format!("failed messageExpression: {OUT_OF_BUDGET}"),
                    );
                }
            },
            Some(Err(_)) if definition.fails_open => verdict.ignored.push(INVALID),
            Some(Err(fault)) => verdict.violations.push(violated(fault, "Invalid", INVALID)),
        }
    }
    annotate(definition, &variables, &mut verdict);
    verdict
}

/// The verdict of a policy that failed as a whole.
fn failed(definition: &Definition, message: String) -> Verdict {
    let mut verdict = Verdict::default();
    let error_type = error_type(&message);
    match definition.fails_open {
        true => verdict.ignored.push(error_type),
        false => verdict.violations.push(Violation {
            index: 0,
            message,
            reason: "Invalid".to_owned(),
            error_type,
        }),
    }
    verdict
}

/// Why a rule does not hold, for people; nothing if the budget is used up.
fn message(
    validation: &Validation,
    variables: &Composed<'_>,
    budget: &mut Budget,
) -> Option<String> {
    let made = match &validation.message_expression {
        Some(expression) => expression.run(&WithoutAuthorizer(variables), budget)?,
        None => Err(String::new()),
    };
    let fits =
        |text: &str| !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n');
    let made = match &made {
        Ok(Cel::String(text)) if fits(text.trim()) => Some(text.trim().to_owned()),
        _ => None,
    };
    let fallback = || format!("failed expression: {}", validation.rule.source.trim());
    Some(made.or_else(|| validation.message.clone()).unwrap_or_else(fallback))
}

fn annotate(definition: &Definition, variables: &Composed<'_>, verdict: &mut Verdict) {
    let mut budget = Budget::new(PER_POLICY);
    for (key, expression) in &definition.annotations {
        let fault = match expression.run(&WithoutAuthorizer(variables), &mut budget) {
            None => OUT_OF_BUDGET.to_owned(),
            Some(Ok(Cel::Null)) => continue,
            Some(Ok(Cel::String(text))) => {
                let mut text = text.trim().to_owned();
                let mut end = text.len().min(LONGEST_ANNOTATION);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                text.truncate(end);
                if !text.is_empty() {
                    verdict.annotations.push((key.clone(), text));
                }
                continue;
            }
            Some(Ok(other)) => format!(
                "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                expression.source,
                other.type_of()
            ),
            Some(Err(fault)) => fault,
        };
        if !definition.fails_open {
            verdict.faults.push(fault);
        }
    }
}
