//! CEL: expressions and their values, with Kubernetes' functions.
//!
//! Expressions come from strangers: their size is bounded before they are parsed, and what they do is
//! counted while they run.

mod ast;
mod check;
mod edges;
pub(crate) mod estimate;
mod eval;
mod functions;
mod known;
mod rules;
mod scope;
mod shape;
mod syntax;
mod types;
mod value;

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use kube_cel::cel::parser::Parser;

pub use eval::{Budget, Fault, PER_CALL, Variables};
pub use functions::{Ask, object};
pub use kube_cel::cel::Value;
pub use scope::{Scope as ExpressionScope, device_selector};
pub use value::{from_json, is_reserved, optional, to_json};

pub(crate) use rules::validate;

use ast::Expr;
use eval::Scope;

/// Longest expression, in bytes.
const MAX_LENGTH: usize = 16 * 1024;

/// A parsed expression.
#[derive(Debug)]
pub struct Program {
    expression: Expr,
    /// Whether it speaks of `oldSelf`.
    pub(crate) is_transition: bool,
}

/// The parsed expression of a text, from a cache that all types share.
///
/// # Errors
/// What is wrong with it, in the parser's words.
pub fn compile(text: &str) -> Result<Arc<Program>, String> {
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = known().programs.get(text) {
        return Ok(program.clone());
    }
    let program = Arc::new(parse(text)?);
    known().keep(text, &program);
    Ok(program)
}

/// Expressions that were parsed.
#[derive(Default)]
struct Known {
    programs: HashMap<Box<str>, Arc<Program>>,
    /// Of all their texts; a program takes some 40 times as much at most, as one that is a long list does.
    bytes: usize,
}

impl Known {
    /// Most text to keep programs of, in bytes.
    const MOST: usize = 1024 * 1024;

    fn keep(&mut self, text: &str, program: &Arc<Program>) {
        if self.bytes + text.len() > Self::MOST {
            *self = Self::default();
        }
        if self.programs.insert(text.into(), program.clone()).is_none() {
            self.bytes += text.len();
        }
    }
}

fn parse(text: &str) -> Result<Program, String> {
    if text.len() > MAX_LENGTH || !shape::is_bounded(text) {
        return Err("expression is too large".to_owned());
    }
    let parsed = catch_unwind(|| Parser::default().enable_optional_syntax(true).parse(text));
    let parsed = match parsed {
        Ok(Ok(expression)) => expression,
        Ok(Err(errors)) => {
            return Err(format!("compilation failed: {}", syntax::faults(text, &errors)));
        }
        Err(_) => return Err("compilation failed: the parser gave up".to_owned()),
    };
    let failed = |error| format!("compilation failed: {}", estimate::placed(text, error));
    if let Some((at, _)) = shape::tokens(text).iter().find(|(_, token)| token.starts_with('`')) {
        let fault = syntax::located(text, "unsupported syntax: '`'", *at);
        return Err(format!("compilation failed: {fault}"));
    }
    let expression = ast::lower(&parsed).map_err(failed)?;
    let mut is_transition = false;
    expression.variables(&mut |name| is_transition |= name == "oldSelf");
    Ok(Program { expression, is_transition })
}

/// Why a literal cannot be what the expression takes it for, such as `int('a')`: upstream finds it before all else.
fn refused(expr: &Expr) -> Option<String> {
    let mut found = None;
    expr.children(&mut |child| found = found.take().or_else(|| refused(child)));
    found.or_else(|| match expr {
        Expr::Call { function, args, .. } if matches!(&**function, "find" | "findAll") => {
            let Some(Expr::Literal(Value::String(pattern))) = args.first() else { return None };
            Some(format!("error parsing regexp: {}", crate::regexps::fault(pattern)?))
        }
        expr => Some(constant(expr)?.err()?.to_string()),
    })
}

/// The value of a conversion of a literal; none for other expressions.
fn constant(expr: &Expr) -> Option<Result<Value, Fault>> {
    let nothing: Vec<(&str, Value)> = Vec::new();
    is_conversion(expr).then(|| run(expr, &nothing, &mut Budget::new(PER_CALL)))
}

/// Whether an expression converts a literal, or what became of one.
fn is_conversion(expr: &Expr) -> bool {
    const CONVERSIONS: [&str; 10] = [
        "bool",
        "bytes",
        "double",
        "dyn",
        "duration",
        "int",
        "string",
        "timestamp",
        "type",
        "uint",
    ];
    let Expr::Call { function, target: None, args } = expr else { return false };
    let [arg] = &args[..] else { return false };
    CONVERSIONS.contains(&&**function) && (matches!(arg, Expr::Literal(_)) || is_conversion(arg))
}

/// Runs an expression.
fn run(expr: &Expr, variables: &dyn Variables, budget: &mut Budget) -> Result<Value, Fault> {
    // The crates that functions come from are not ours; a bug of theirs is this expression's fault.
    budget.call(|budget| {
        let scope = Scope::Root(variables);
        let run = AssertUnwindSafe(|| eval::eval(expr, &scope, budget));
        catch_unwind(run).unwrap_or_else(|_| Err(Fault::Failed("internal error".to_owned())))
    })
}

impl Program {
    /// Runs the expression.
    ///
    /// # Errors
    /// Why it has no value.
    pub fn run(&self, variables: &dyn Variables, budget: &mut Budget) -> Result<Value, Fault> {
        run(&self.expression, variables, budget)
    }

    /// The result of the expression over JSON variables, as JSON.
    ///
    /// # Errors
    /// Why it cannot be evaluated, such as a field that is absent, or that its result has no JSON.
    pub fn evaluate(
        &self,
        variables: &[(&str, &serde_json::Value)],
    ) -> Result<serde_json::Value, String> {
        let variables: Vec<(&str, Value)> =
            variables.iter().map(|(name, json)| (*name, value::from_json(json))).collect();
        let result = self.run(&variables, &mut Budget::new(PER_CALL + 1));
        value::to_json(&result.map_err(|fault| fault.to_string())?)
    }

    /// What is wrong with the names of the objects that it makes, such as an `Object.a` in a field `b`.
    #[must_use]
    pub fn misnamed(&self) -> Option<String> {
        self.expression.misnamed()
    }

    /// How deep its parts nest. Running it recurses so deep, and what it makes of variables nests no deeper.
    #[must_use]
    pub fn height(&self) -> usize {
        self.expression.height()
    }

    /// Every variable that the expression names, those of its own loops included; composed ones as
    /// `variables.name`.
    #[must_use]
    pub fn variables(&self) -> HashSet<&str> {
        let mut names = HashSet::new();
        self.expression.variables(&mut |name| _ = names.insert(name));
        names
    }
}

#[cfg(test)]
mod tests;
