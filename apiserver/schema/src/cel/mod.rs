//! CEL: expressions and their values, with Kubernetes' functions.
//!
//! Expressions come from strangers, so their size is bounded before they are parsed and the
//! work that their macros could do before they are run.

mod rules;
mod value;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use kube_cel::KubeCelExt as _;
use kube_cel::cel::parser::{Expression, Parser};
use kube_cel::cel::{Context, Value};

pub(crate) use rules::validate;

/// Longest expression, in bytes.
const MAX_LENGTH: usize = 16 * 1024;
/// Deepest nesting of brackets, and most operators in a row: both are recursion, in the parser
/// and when the expression runs.
const MAX_DEPTH: usize = 48;
const MAX_OPERATORS: usize = 300;
/// Elements that nested macros may visit in one run.
const MAX_VISITS: u128 = 5_000_000;

/// A parsed expression.
pub struct Program {
    expression: Expression,
    /// Whether it speaks of `oldSelf`.
    pub(crate) is_transition: bool,
    /// How deep macros (`all`, `map` …) are nested.
    macros: u32,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").finish_non_exhaustive()
    }
}

/// The parsed expression of a text, from a cache that all types share.
///
/// # Errors
/// What is wrong with it, in the parser's words.
pub fn compile(text: &str) -> Result<Arc<Program>, String> {
    /// Expressions kept parsed.
    const KEPT: usize = 1024;
    type Known = HashMap<Box<str>, Result<Arc<Program>, String>>;
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = known().get(text) {
        return program.clone();
    }
    let program = parse(text).map(Arc::new);
    let mut known = known();
    if known.len() >= KEPT {
        known.clear();
    }
    known.insert(text.into(), program.clone());
    program
}

fn parse(text: &str) -> Result<Program, String> {
    let shape = Shape::of(text);
    if text.len() > MAX_LENGTH || shape.depth > MAX_DEPTH || shape.operators > MAX_OPERATORS {
        return Err("expression is too large".to_owned());
    }
    let parsed = catch_unwind(|| Parser::default().enable_optional_syntax(true).parse(text));
    let expression = match parsed {
        Ok(Ok(expression)) => expression,
        Ok(Err(errors)) => return Err(format!("compilation failed: {errors}")),
        Err(_) => return Err("compilation failed: the parser gave up".to_owned()),
    };
    let is_transition = expression.references().has_variable("oldSelf");
    Ok(Program { expression, is_transition, macros: shape.macros })
}

impl Program {
    /// Runs the expression over variables.
    ///
    /// `size` is the number of values in the variables; it bounds what macros may visit.
    pub(crate) fn run(&self, variables: &[(&str, Value)], size: u64) -> Result<Value, String> {
        if u128::from(size.max(2)).saturating_pow(self.macros) > MAX_VISITS {
            return Err("operation cancelled: actual cost limit exceeded".to_owned());
        }
        static FUNCTIONS: LazyLock<Context<'static>> =
            LazyLock::new(|| Context::default().with_all());
        let run = AssertUnwindSafe(|| {
            let mut context = FUNCTIONS.new_inner_scope();
            for (name, value) in variables {
                context.add_variable_from_value(*name, value.clone());
            }
            context.resolve(&self.expression)
        });
        match catch_unwind(run) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(lower_first(&error.to_string())),
            Err(_) => Err("internal error".to_owned()),
        }
    }
}

/// What a text would cost, read without parsing it.
#[derive(Default)]
struct Shape {
    depth: usize,
    operators: usize,
    macros: u32,
}

impl Shape {
    fn of(text: &str) -> Shape {
        let mut shape = Shape::default();
        let mut open: Vec<bool> = Vec::new();
        let mut quote = None;
        let mut previous = ' ';
        let mut word = String::new();
        for c in text.chars() {
            match quote {
                Some(end) => {
                    if c == end && previous != '\\' {
                        quote = None;
                    }
                }
                None => match c {
                    '"' | '\'' => quote = Some(c),
                    '(' | '[' | '{' => {
                        let visits = c == '('
                            && matches!(
                                word.as_str(),
                                "all"
                                    | "exists"
                                    | "exists_one"
                                    | "existsOne"
                                    | "filter"
                                    | "map"
                                    | "transformList"
                                    | "transformMap"
                                    | "sortBy"
                            );
                        open.push(visits);
                        shape.depth = shape.depth.max(open.len());
                        let macros = open.iter().filter(|visits| **visits).count();
                        shape.macros = shape.macros.max(u32::try_from(macros).unwrap_or(u32::MAX));
                    }
                    ')' | ']' | '}' => _ = open.pop(),
                    '+' | '-' | '*' | '/' | '%' | '<' | '>' | '!' | '=' | '&' | '|' | '?' | '.' => {
                        shape.operators += 1;
                    }
                    _ => (),
                },
            }
            if c.is_alphanumeric() || c == '_' {
                word.push(c);
            } else {
                word.clear();
            }
            previous = if previous == '\\' && c == '\\' { ' ' } else { c };
        }
        shape
    }
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
