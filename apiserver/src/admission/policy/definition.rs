//! Policies and bindings, compiled once when they change.

use serde_json::Value;

use crate::admission::attributes::Attributes;
use crate::admission::expressions::{Conditions, Expression, bounded};
use crate::admission::matching::Criteria;

/// A `ValidatingAdmissionPolicy` or `MutatingAdmissionPolicy`.
#[derive(Debug)]
pub(in crate::admission) struct Definition {
    pub(in crate::admission) name: String,
    pub(super) criteria: Result<Criteria, String>,
    pub(super) conditions: Conditions,
    pub(super) variables: Vec<(String, Expression)>,
    pub(super) param_kind: Option<ParamKind>,
    /// A policy that fails is as good as one that allows.
    pub(super) fails_open: bool,
    pub(super) validations: Vec<Validation>,
    /// Key and value of audit annotations.
    pub(super) annotations: Vec<(String, Expression)>,
    pub(super) mutations: Vec<Mutation>,
    /// Wants to look again if a later policy changes the object.
    pub(super) again: bool,
}

/// The kind of a policy's parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ParamKind {
    pub(super) api_version: String,
    pub(super) kind: String,
}

/// One rule of a validating policy.
#[derive(Debug)]
pub(super) struct Validation {
    pub(super) rule: Expression,
    pub(super) message: Option<String>,
    pub(super) message_expression: Option<Expression>,
    /// Reason of the refusal.
    pub(super) reason: String,
}

/// One change of a mutating policy.
#[derive(Debug)]
pub(super) enum Mutation {
    /// Makes a configuration that is applied.
    Apply(Expression),
    /// Makes the operations of a JSON patch.
    Patch(Expression),
}

/// A binding: where a policy counts, with which parameters, and what then happens.
#[derive(Debug)]
pub(in crate::admission) struct Binding {
    pub(super) name: String,
    pub(super) policy: String,
    criteria: Result<Criteria, String>,
    pub(super) param_ref: Value,
    /// As written, for audit annotations.
    pub(super) actions: Value,
}

impl Definition {
    pub(in crate::admission) fn compile(object: &Value) -> Self {
        let spec = &object["spec"];
        let list = |key: &str| spec[key].as_array().into_iter().flatten();
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let pair = |value: &Value, key: &str, expression: &str| {
            (text(value, key), Expression::new(&text(value, expression)))
        };
        let param_kind = &spec["paramKind"];
        Self {
            name: text(&object["metadata"], "name"),
            criteria: Criteria::of_policy(&spec["matchConstraints"]),
            conditions: Conditions::of(&spec["matchConditions"]),
            variables: bounded(list("variables").map(|v| pair(v, "name", "expression")).collect()),
            param_kind: param_kind.is_object().then(|| ParamKind {
                api_version: text(param_kind, "apiVersion"),
                kind: text(param_kind, "kind"),
            }),
            fails_open: spec["failurePolicy"] == "Ignore",
            validations: list("validations").map(Validation::compile).collect(),
            annotations: list("auditAnnotations")
                .map(|a| pair(a, "key", "valueExpression"))
                .collect(),
            mutations: list("mutations").map(Mutation::compile).collect(),
            again: spec["reinvocationPolicy"] == "IfNeeded",
        }
    }
}

impl Validation {
    fn compile(validation: &Value) -> Self {
        let text = |key: &str| validation[key].as_str().filter(|text| !text.trim().is_empty());
        Self {
            rule: Expression::new(text("expression").unwrap_or_default()),
            message: text("message").map(|text| text.trim().to_owned()),
            message_expression: text("messageExpression").map(Expression::new),
            reason: text("reason").unwrap_or("Invalid").to_owned(),
        }
    }
}

impl Mutation {
    fn compile(mutation: &Value) -> Self {
        let expression =
            |key: &str| Expression::new(mutation[key]["expression"].as_str().unwrap_or_default());
        match mutation["patchType"].as_str() {
            Some("JSONPatch") => Self::Patch(expression("jsonPatch")),
            _ => Self::Apply(expression("applyConfiguration")),
        }
    }
}

impl Binding {
    /// Whether `action` is to be done about violations.
    pub(super) fn wants(&self, action: &str) -> bool {
        self.actions.as_array().is_some_and(|actions| actions.iter().any(|a| a == action))
    }

    pub(in crate::admission) fn compile(object: &Value) -> Self {
        let spec = &object["spec"];
        Self {
            name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            policy: spec["policyName"].as_str().unwrap_or_default().to_owned(),
            criteria: Criteria::of_policy(&spec["matchResources"]),
            param_ref: spec["paramRef"].clone(),
            actions: spec["validationActions"].clone(),
        }
    }

    pub(super) async fn matches(
        &self,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<bool, String> {
        let criteria = self.criteria.as_ref().map_err(String::clone)?;
        let matched = criteria.matches(attributes, object).await;
        matched.map(|matched| matched.is_some()).map_err(|error| error.to_string())
    }
}
