//! Where the parts of an expression stand in its source.
//!
//! The parser does not say it, but the parts stand in the order of their tokens: a walk through the expression finds
//! the token of each after that of the one before.
//!
//! Source: the positions that `cel-go/parser` gives to operators, calls and macros.

use std::collections::HashMap;

use super::super::ast::{Binary, Expr, Loop};
use super::super::{Value, shape};

/// Byte offsets of the parts of an expression.
#[derive(Default)]
pub(in super::super) struct Places {
    known: HashMap<*const Expr, usize>,
    fields: HashMap<(*const Expr, usize), usize>,
}

impl Places {
    /// Finds all parts of an expression in its source.
    pub(in super::super) fn of(source: &str, expr: &Expr) -> Self {
        let mut finder = Finder { tokens: shape::tokens(source), next: 0, places: Self::default() };
        finder.walk(expr);
        finder.places
    }

    /// Where a part stands; the start if it is nowhere.
    pub(in super::super) fn part(&self, expr: &Expr) -> usize {
        self.known.get(&std::ptr::from_ref(expr)).copied().unwrap_or_default()
    }

    /// Where the colon of an object's field stands, or what a name with a dot is a part of.
    pub(in super::super) fn field(&self, expr: &Expr, index: usize) -> usize {
        self.fields.get(&(std::ptr::from_ref(expr), index)).copied().unwrap_or_default()
    }
}

struct Finder<'a> {
    tokens: Vec<(usize, &'a str)>,
    next: usize,
    places: Places,
}

impl Finder<'_> {
    /// Goes past the next token that fits; answers where it stands.
    fn find(&mut self, fits: impl Fn(&str) -> bool) -> usize {
        let rest = self.tokens.get(self.next..).unwrap_or_default();
        match rest.iter().position(|(_, token)| fits(token)) {
            Some(n) => {
                self.next += n + 1;
                self.tokens[self.next - 1].0
            }
            None => self.tokens.get(self.next).map_or(0, |(at, _)| *at),
        }
    }

    fn token(&mut self, wanted: &str) -> usize {
        self.find(|token| token == wanted)
    }

    fn is_at(&mut self, expr: &Expr, at: usize) {
        self.places.known.insert(std::ptr::from_ref(expr), at);
    }

    fn walk(&mut self, expr: &Expr) {
        let at = match expr {
            Expr::Literal(value) => self.literal(value),
            Expr::Var(name) => self.name(name, expr),
            Expr::Select { operand, field, test: true, .. } => {
                self.token("has");
                let at = self.token("(");
                self.walk(operand);
                self.member(field);
                at
            }
            Expr::Select { operand, field, .. } => {
                self.walk(operand);
                self.member(field)
            }
            Expr::Index { operand, key, .. } => self.between(operand, "[", key),
            Expr::And(a, b) => self.between(a, "&&", b),
            Expr::Or(a, b) => self.between(a, "||", b),
            Expr::Binary(operator, a, b) => self.between(a, sign(*operator), b),
            Expr::Not(a) => self.before("!", a),
            Expr::Negate(a) => self.before("-", a),
            Expr::NotFalse(a) => {
                self.walk(a);
                self.places.part(a)
            }
            Expr::If(parts) => {
                let at = self.between(&parts[0], "?", &parts[1]);
                self.token(":");
                self.walk(&parts[2]);
                at
            }
            Expr::List(entries) => {
                let at = self.token("[");
                entries.iter().for_each(|(entry, _)| self.walk(entry));
                at
            }
            Expr::Map(entries) => {
                let at = self.token("{");
                for (key, value, _) in entries {
                    self.between(key, ":", value);
                }
                at
            }
            Expr::Object(_, fields) => {
                let at = self.token("{");
                for (index, (name, value, _)) in fields.iter().enumerate() {
                    self.token(name);
                    let colon = self.token(":");
                    self.places.fields.insert((std::ptr::from_ref(expr), index), colon);
                    self.walk(value);
                }
                at
            }
            Expr::Loop(inner) => self.repeat(inner),
            Expr::Call { function, target, args } => {
                target.iter().for_each(|target| self.walk(target));
                for (n, name) in function.split('.').enumerate() {
                    let at = self.token(name);
                    if n == 0 {
                        self.places.fields.insert((std::ptr::from_ref(expr), 0), at);
                    }
                }
                let at = self.token("(");
                args.iter().for_each(|arg| self.walk(arg));
                at
            }
        };
        self.is_at(expr, at);
    }

    fn before(&mut self, sign: &str, a: &Expr) -> usize {
        let at = self.token(sign);
        self.walk(a);
        at
    }

    fn between(&mut self, a: &Expr, sign: &str, b: &Expr) -> usize {
        self.walk(a);
        let at = self.token(sign);
        self.walk(b);
        at
    }

    /// The dot before a field.
    fn member(&mut self, field: &str) -> usize {
        let at = self.token(".");
        self.token(field);
        at
    }

    fn literal(&mut self, value: &Value) -> usize {
        match value {
            Value::Null => self.token("null"),
            Value::Bool(value) => self.token(&value.to_string()),
            Value::Int(n) if *n < 0 => {
                let at = self.token("-");
                self.find(is_number);
                at
            }
            Value::Float(n) if *n < 0.0 => {
                let at = self.token("-");
                self.find(is_number);
                at
            }
            Value::Int(_) | Value::UInt(_) | Value::Float(_) => self.find(is_number),
            _ => self.find(|token| token.contains(['"', '\''])),
        }
    }

    fn name(&mut self, name: &str, expr: &Expr) -> usize {
        let mut parts = name.split('.');
        let at = self.token(parts.next().unwrap_or_default());
        self.places.fields.insert((std::ptr::from_ref(expr), 0), at);
        match parts.next() {
            // A part of `variables` stands at its dot.
            Some(part) => self.member(part),
            None => at,
        }
    }

    fn repeat(&mut self, inner: &Loop) -> usize {
        self.walk(&inner.range);
        self.token(".");
        let at = self.token("(");
        self.token(&inner.item);
        inner.second.iter().for_each(|second| _ = self.token(second));
        for part in [&inner.init, &inner.condition, &inner.result] {
            self.made(part, at);
        }
        self.step(&inner.step, &inner.accumulator, at);
        at
    }

    /// What a macro makes of its body: the parts that it adds stand where the macro does.
    fn step(&mut self, expr: &Expr, accumulator: &str, at: usize) {
        let is_sum = |expr: &Expr| matches!(expr, Expr::Var(name) if **name == *accumulator);
        match expr {
            Expr::And(a, b) | Expr::Or(a, b) if is_sum(a) => {
                self.made(a, at);
                self.walk(b);
            }
            Expr::Binary(Binary::Add, a, b) if is_sum(a) => {
                self.made(a, at);
                match &**b {
                    Expr::List(entries) => {
                        entries.iter().for_each(|(entry, _)| self.walk(entry));
                        self.is_at(b, at);
                    }
                    made => self.made(made, at),
                }
            }
            Expr::If(parts) if is_sum(&parts[2]) => {
                self.walk(&parts[0]);
                self.step(&parts[1], accumulator, at);
                self.made(&parts[2], at);
            }
            Expr::Call { args, .. } if args.first().is_some_and(is_sum) => {
                let user = args.len() - 1;
                args[..user].iter().for_each(|arg| self.made(arg, at));
                self.walk(&args[user]);
            }
            made => self.made(made, at),
        }
        self.is_at(expr, at);
    }

    fn made(&mut self, expr: &Expr, at: usize) {
        self.is_at(expr, at);
        expr.children(&mut |child| self.made(child, at));
    }
}

fn is_number(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_digit() || c == '.') && token != "." && token != ".?"
}

fn sign(operator: Binary) -> &'static str {
    match operator {
        Binary::Equal => "==",
        Binary::NotEqual => "!=",
        Binary::Less => "<",
        Binary::LessEqual => "<=",
        Binary::Greater => ">",
        Binary::GreaterEqual => ">=",
        Binary::In => "in",
        Binary::Add => "+",
        Binary::Subtract => "-",
        Binary::Multiply => "*",
        Binary::Divide => "/",
        Binary::Modulo => "%",
    }
}
