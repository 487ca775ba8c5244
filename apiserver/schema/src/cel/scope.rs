//! Checks the expressions of webhooks, policies and device selectors: whether they fit what they may name.

use std::collections::HashSet;

use super::ast::Expr;
use super::check::Globals;
use super::compile;
use super::estimate::checked;
use super::known;
use super::types::Type;
use crate::Schema;

/// What the expressions of a webhook or policy may name. The variables of a policy are declared in their order, each
/// once, so that the work is linear in their number and none speaks of itself or of a later one.
#[derive(Debug, Clone)]
pub struct Scope {
    names: Globals,
    /// The variables that only pick a part of another, by their whole names.
    plain: HashSet<String>,
}

impl Scope {
    /// What every expression may name. The type of `object` and `oldObject` is none if it is known only when the
    /// expression runs.
    #[must_use]
    pub fn new(object: Option<&Schema>) -> Self {
        // Metadata is shown as a whole to policies.
        let object = object.map_or(Type::Dyn, |schema| Type::of(&schema.root, false));
        let known = [
            ("request", known::REQUEST),
            ("namespaceObject", known::NAMESPACE),
            ("object", object.clone()),
            ("oldObject", object),
        ];
        let names = known.map(|(name, of)| (name.to_owned(), of));
        Self { names: names.into(), plain: HashSet::new() }
    }

    /// With `params`, if the policy has a kind of them.
    #[must_use]
    pub fn with_params(self, has_params: bool) -> Self {
        if has_params { self.with("params") } else { self }
    }

    /// With `authorizer`.
    #[must_use]
    pub fn with_authorizer(self) -> Self {
        self.with("authorizer").with("authorizer.requestResource")
    }

    /// Without `authorizer`; variables that speak of it stay.
    #[must_use]
    pub fn without_authorizer(mut self) -> Self {
        for name in ["authorizer", "authorizer.requestResource"] {
            self.names.remove(name);
        }
        self
    }

    /// With `variables`, of which there are none yet.
    #[must_use]
    pub fn with_variables(self) -> Self {
        self.with("variables")
    }

    fn with(mut self, name: &str) -> Self {
        self.names.insert(name.to_owned(), Type::Dyn);
        self
    }

    /// Declares a variable for the expressions after it, and checks its own. One that is wrong can be anything.
    ///
    /// # Errors
    /// What is wrong with the expression, with its place.
    pub fn declare(&mut self, name: &str, source: &str) -> Result<(), String> {
        let name = format!("variables.{name}");
        let program = compile(source);
        let is_plain = program.as_ref().is_ok_and(|p| self.is_plain(&p.expression));
        let found = program.and_then(|program| checked(source, &program, &self.names));
        if is_plain {
            self.plain.insert(name.clone());
        } else {
            self.plain.remove(&name);
        }
        let (of, fault) = match found {
            Ok(found) => (found.of.shallow(), Ok(())),
            Err(fault) => (Type::Dyn, Err(fault)),
        };
        self.names.insert(name, of);
        fault
    }

    /// Checks an expression of this scope; `wanted` are the types that it may have, all if there are none.
    ///
    /// # Errors
    /// What is wrong with it, with its place.
    pub fn check(&self, source: &str, wanted: &[&str]) -> Result<(), String> {
        let program = compile(source)?;
        let of = checked(source, &program, &self.names)?.of.to_string();
        // Of functions little is known, so what they make may be what is wanted.
        let is_literal = matches!(&program.expression, Expr::List(entries) if entries.is_empty());
        let is_known = is_literal || self.is_plain(&program.expression);
        let unknown = of.contains("dyn") && !is_known;
        match wanted {
            _ if unknown || wanted.contains(&&*of) => Ok(()),
            [] => Ok(()),
            [one] => Err(format!("must evaluate to {one} but got {of}")),
            many => Err(format!("must evaluate to one of [{}] but got {of}", many.join(" "))),
        }
    }

    /// Whether an expression only picks a part of a variable, so that its type is all that is known of it.
    fn is_plain(&self, expression: &Expr) -> bool {
        match expression {
            Expr::Select { operand, optional: false, .. }
            | Expr::Index { operand, optional: false, .. } => self.is_plain(operand),
            Expr::Var(name) => !name.starts_with("variables.") || self.plain.contains(&**name),
            _ => false,
        }
    }
}

/// Checks an expression that selects devices; answers what it costs at most.
///
/// # Errors
/// What is wrong with it, with its place.
pub fn device_selector(source: &str) -> Result<u64, String> {
    let program = compile(source)?;
    let names = Globals::from([("device".to_owned(), known::DEVICE)]);
    let found = checked(source, &program, &names)?;
    match found.of {
        Type::Dyn | Type::Bool => Ok(found.cost.0),
        other => Err(format!("must evaluate to bool or the unknown type, not {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope::new(None).with_authorizer().with_variables()
    }

    #[test]
    fn variables_speak_of_those_before_them() {
        let mut scope = scope();
        let undefined = |fault: Result<(), String>, name: &str| {
            assert!(fault.unwrap_err().contains(&format!("undefined field '{name}'")));
        };
        undefined(scope.declare("a", "variables.a"), "a");
        undefined(scope.declare("b", "variables.c"), "c");
        assert_eq!(scope.declare("c", "object.spec"), Ok(()));
        assert_eq!(scope.declare("n", "1"), Ok(()));
        // Nothing is known of what is wrong.
        assert_eq!(scope.check("variables.a", &["bool"]), Ok(()));
        assert_eq!(scope.check("variables.b", &["bool"]), Ok(()));
        let fault = |of: &str| Err(format!("must evaluate to bool but got {of}"));
        assert_eq!(scope.check("variables.c", &["bool"]), fault("dyn"));
        assert_eq!(scope.check("variables.n", &["bool"]), fault("int"));
        undefined(scope.check("variables.nope", &[]), "nope");
    }

    #[test]
    fn messages_know_what_variables_ask() {
        let mut scope = scope();
        assert_eq!(scope.declare("is", "authorizer.path('/').check('get').allowed()"), Ok(()));
        let scope = scope.without_authorizer();
        assert_eq!(scope.check("string(variables.is)", &["string"]), Ok(()));
        assert!(scope.check("authorizer.path('/').check('get').reason()", &[]).is_err());
    }

    #[test]
    fn many_variables_are_checked_soon() {
        const MANY: usize = 20_000;
        for step in ["variables.v", "[variables.v", "optional.of(variables.v"] {
            let mut scope = scope();
            assert_eq!(scope.declare("v0", "object"), Ok(()));
            for n in 1..MANY {
                let close =
                    if step.contains('(') { ")" } else { &"]"[..step.matches('[').count()] };
                let source = format!("{step}{}{close}", n - 1);
                assert_eq!(scope.declare(&format!("v{n}"), &source), Ok(()));
            }
            assert_eq!(scope.check(&format!("variables.v{}", MANY - 1), &[]), Ok(()));
        }
    }
}
