//! Checks the expressions of webhooks, policies and device selectors: whether they fit what they may name.

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
        Self { names: names.into() }
    }

    /// With `params`, if the policy has a kind of them.
    #[must_use]
    pub fn with_params(self, has_params: bool) -> Self {
        if has_params { self.with("params", Type::Dyn) } else { self }
    }

    /// With `authorizer`.
    #[must_use]
    pub fn with_authorizer(self) -> Self {
        self.with("authorizer", known::AUTHORIZER)
            .with("authorizer.requestResource", known::RESOURCE_CHECK)
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
        self.with("variables", Type::Dyn)
    }

    fn with(mut self, name: &str, of: Type) -> Self {
        self.names.insert(name.to_owned(), of);
        self
    }

    /// Declares a variable for the expressions after it, and checks its own. One that is wrong can be anything.
    ///
    /// # Errors
    /// What is wrong with the expression, with its place.
    pub fn declare(&mut self, name: &str, source: &str) -> Result<(), String> {
        let found = compile(source).and_then(|program| checked(source, &program, &self.names));
        let (of, fault) = match found {
            Ok(found) => (found.of.shallow(), Ok(())),
            Err(fault) => (Type::Dyn, Err(fault)),
        };
        self.names.insert(format!("variables.{name}"), of);
        fault
    }

    /// Checks an expression of this scope; `wanted` are the types that it may have, all if there are none.
    ///
    /// # Errors
    /// What is wrong with it, with its place.
    pub fn check(&self, source: &str, wanted: &[&str]) -> Result<(), String> {
        let program = compile(source)?;
        let of = checked(source, &program, &self.names)?.of.to_string();
        match wanted {
            _ if wanted.contains(&&*of) => Ok(()),
            [] => Ok(()),
            [one] => Err(format!("must evaluate to {one} but got {of}")),
            many => Err(format!("must evaluate to one of [{}] but got {of}", many.join(" "))),
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
        assert_eq!(scope.check("variables.a == variables.b", &["bool"]), Ok(()));
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
