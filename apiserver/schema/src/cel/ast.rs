//! The compiled form of an expression: the parser's tree, with literals as values and operators told apart.

use std::sync::Arc;

use kube_cel::cel::Value;
use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr as Parsed, IdedEntryExpr, IdedExpr, SelectExpr,
    operators,
};

use super::eval::{DURATION, TIMESTAMP};

/// Interned text of names.
pub(super) type Name = Arc<str>;

/// Whether what looks like a receiver is a namespace, as in `sets.contains(a, b)`. (A loop's variable may well be
/// called `ip`.)
fn is_namespace(space: &str, function: &str) -> bool {
    match space {
        "sets" => matches!(function, "contains" | "equivalent" | "intersects"),
        "ip" => function == "isCanonical",
        "format" => {
            let stem = function.strip_suffix("Prefix").unwrap_or(function);
            let names = ["dns1123Label", "dns1123Subdomain", "dns1035Label"];
            let others =
                ["named", "qualifiedName", "labelValue", "uri", "uuid", "byte", "date", "datetime"];
            names.contains(&stem) || others.contains(&function)
        }
        "optional" => matches!(function, "none" | "of" | "ofNonZeroValue"),
        "base64" => matches!(function, "encode" | "decode"),
        "jsonpatch" => function == "escapeKey",
        "lists" => function == "range",
        "strings" => function == "quote",
        _ => false,
    }
}

/// One step of an expression.
#[derive(Debug)]
pub(super) enum Expr {
    Literal(Value),
    Var(Name),
    Select {
        operand: Box<Expr>,
        field: Name,
        test: bool,
        optional: bool,
    },
    Index {
        operand: Box<Expr>,
        key: Box<Expr>,
        optional: bool,
    },
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    /// True also where the operand fails: a loop goes on over elements that fail.
    NotFalse(Box<Expr>),
    If(Box<[Expr; 3]>),
    Negate(Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// Entries, each with whether it is left out if it is an empty optional.
    List(Vec<(Expr, bool)>),
    Map(Vec<(Expr, Expr, bool)>),
    /// A value of a named type, such as `JSONPatch{op: "add"}`.
    Object(Name, Vec<(Name, Expr, bool)>),
    Loop(Box<Loop>),
    Call {
        function: Name,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
}

/// Operators with two strict operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

/// What the macros `all`, `exists`, `map` … become.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) range: Expr,
    pub(super) item: Name,
    /// The value beside a key or an index.
    pub(super) second: Option<Name>,
    pub(super) accumulator: Name,
    pub(super) init: Expr,
    pub(super) condition: Expr,
    pub(super) step: Expr,
    pub(super) result: Expr,
}

/// Compiles the parser's tree.
///
/// # Errors
/// What it has that is not supported.
pub(super) fn lower(parsed: &IdedExpr) -> Result<Expr, String> {
    Ok(match &parsed.expr {
        Parsed::Literal(literal) => {
            let value = Value::try_from(literal.to_val().as_ref());
            Expr::Literal(value.map_err(|error| error.to_string())?)
        }
        Parsed::Ident(name) => Expr::Var(name.trim_start_matches('.').into()),
        Parsed::Select(select) => self::select(select)?,
        Parsed::List(list) => {
            let entry = |(at, entry)| Ok((lower(entry)?, list.optional_indices.contains(&at)));
            Expr::List(list.elements.iter().enumerate().map(entry).collect::<Result<_, String>>()?)
        }
        Parsed::Map(map) => {
            map.entries.iter().map(map_entry).collect::<Result<_, _>>().map(Expr::Map)?
        }
        Parsed::Struct(object) => {
            let fields = object.entries.iter().map(object_field).collect::<Result<Vec<_>, _>>()?;
            check_name(&object.type_name)?;
            Expr::Object(object.type_name.as_str().into(), fields)
        }
        Parsed::Comprehension(comprehension) => {
            Expr::Loop(Box::new(self::comprehension(comprehension)?))
        }
        Parsed::Call(call) => self::call(call)?,
        Parsed::Unspecified => return Err("an expression is missing".to_owned()),
    })
}

fn boxed(parsed: &IdedExpr) -> Result<Box<Expr>, String> {
    lower(parsed).map(Box::new)
}

fn select(select: &SelectExpr) -> Result<Expr, String> {
    if let (Parsed::Ident(name), false) = (&select.operand.expr, select.test)
        && name == "variables"
    {
        // Composed variables are looked up one by one, so that each is computed at its first use.
        return Ok(Expr::Var(format!("variables.{}", select.field).into()));
    }
    if let (Parsed::Ident(name), "requestResource") = (&select.operand.expr, &*select.field)
        && name == "authorizer"
    {
        return Ok(Expr::Var("authorizer.requestResource".into()));
    }
    if let Some(name) = type_name(select) {
        return Ok(Expr::Var(name.into()));
    }
    let (operand, field) = (boxed(&select.operand)?, select.field.as_str().into());
    Ok(Expr::Select { operand, field, test: select.test, optional: false })
}

/// The name of a type that has dots.
fn type_name(select: &SelectExpr) -> Option<&'static str> {
    let Parsed::Select(inner) = &select.operand.expr else { return None };
    match (&inner.operand.expr, &*inner.field, &*select.field) {
        (Parsed::Ident(first), "protobuf", "Timestamp") if first == "google" => Some(TIMESTAMP),
        (Parsed::Ident(first), "protobuf", "Duration") if first == "google" => Some(DURATION),
        _ => None,
    }
}

fn map_entry(entry: &IdedEntryExpr) -> Result<(Expr, Expr, bool), String> {
    match &entry.expr {
        EntryExpr::MapEntry(entry) => {
            Ok((lower(&entry.key)?, lower(&entry.value)?, entry.optional))
        }
        EntryExpr::StructField(_) => Err("a map has fields".to_owned()),
    }
}

fn object_field(entry: &IdedEntryExpr) -> Result<(Name, Expr, bool), String> {
    match &entry.expr {
        EntryExpr::StructField(field) => {
            Ok((field.field.as_str().into(), lower(&field.value)?, field.optional))
        }
        EntryExpr::MapEntry(_) => Err("an object has keys".to_owned()),
    }
}

/// Types that expressions can make objects of.
fn check_name(name: &str) -> Result<(), String> {
    let is_known = matches!(name, "JSONPatch" | "Object") || name.starts_with("Object.");
    if is_known { Ok(()) } else { Err(undeclared(name)) }
}

/// What is said of a name that means nothing.
pub(super) fn undeclared(name: &str) -> String {
    format!("undeclared reference to '{name}' (in container '')")
}

fn comprehension(loops: &ComprehensionExpr) -> Result<Loop, String> {
    Ok(Loop {
        range: lower(&loops.iter_range)?,
        item: loops.iter_var.as_str().into(),
        second: loops.iter_var2.as_deref().map(Into::into),
        accumulator: loops.accu_var.as_str().into(),
        init: lower(&loops.accu_init)?,
        condition: lower(&loops.loop_cond)?,
        step: lower(&loops.loop_step)?,
        result: lower(&loops.result)?,
    })
}

fn call(call: &CallExpr) -> Result<Expr, String> {
    if call.target.is_none()
        && let Some(expr) = operator(&call.func_name, &call.args)?
    {
        return Ok(expr);
    }
    if let Some(target) = call.target.as_deref()
        && let Some(expr) = two_variables(&call.func_name, target, &call.args)?
    {
        return Ok(expr);
    }
    let args = call.args.iter().map(lower).collect::<Result<_, _>>()?;
    let function = |name: &str| name.trim_start_matches('.').into();
    Ok(match call.target.as_deref() {
        Some(IdedExpr { expr: Parsed::Ident(space), .. })
            if is_namespace(space, &call.func_name) =>
        {
            let function = format!("{space}.{}", call.func_name).into();
            Expr::Call { function, target: None, args }
        }
        Some(target) => {
            Expr::Call { function: function(&call.func_name), target: Some(boxed(target)?), args }
        }
        None => Expr::Call { function: function(&call.func_name), target: None, args },
    })
}

/// The accumulator of macros; nobody can write its name.
const ACCUMULATOR: &str = "@result";

/// Macros over keys or indexes and their values.
///
/// Source: `cel-go/ext/comprehensions.go`.
fn two_variables(
    macro_name: &str,
    range: &IdedExpr,
    args: &[IdedExpr],
) -> Result<Option<Expr>, String> {
    let [Parsed::Ident(item), Parsed::Ident(second), ..] =
        args.iter().map(|arg| &arg.expr).collect::<Vec<_>>()[..]
    else {
        return Ok(None);
    };
    let sum = || Expr::Var(ACCUMULATOR.into());
    let boxed_sum = || Box::new(sum());
    let add = |more: Expr| Expr::Binary(Binary::Add, boxed_sum(), Box::new(more));
    let insert = |more: Vec<Expr>| Expr::Call {
        function: "cel.@mapInsert".into(),
        target: None,
        args: std::iter::once(sum()).chain(more).collect(),
    };
    let is_true = || Expr::Literal(Value::Bool(true));
    let (init, condition, made, result) = match (macro_name, &args[2..]) {
        ("all", [test]) => {
            let made = Expr::And(boxed_sum(), boxed(test)?);
            (is_true(), Expr::NotFalse(boxed_sum()), made, sum())
        }
        ("exists", [test]) => {
            let made = Expr::Or(boxed_sum(), boxed(test)?);
            let goes_on = Expr::NotFalse(Box::new(Expr::Not(boxed_sum())));
            (Expr::Literal(Value::Bool(false)), goes_on, made, sum())
        }
        ("existsOne" | "exists_one", [test]) => {
            let one = || Expr::Literal(Value::Int(1));
            let made = Expr::If(Box::new([lower(test)?, add(one()), sum()]));
            let result = Expr::Binary(Binary::Equal, boxed_sum(), Box::new(one()));
            (Expr::Literal(Value::Int(0)), is_true(), made, result)
        }
        ("transformList", [.., value] | [value]) if args.len() <= 4 => {
            let made = add(Expr::List(vec![(lower(value)?, false)]));
            (Expr::List(Vec::new()), is_true(), made, sum())
        }
        ("transformMap", [.., value] | [value]) if args.len() <= 4 => {
            let made = insert(vec![Expr::Var(item.as_str().into()), lower(value)?]);
            (Expr::Map(Vec::new()), is_true(), made, sum())
        }
        ("transformMapEntry", [.., entry] | [entry]) if args.len() <= 4 => {
            (Expr::Map(Vec::new()), is_true(), insert(vec![lower(entry)?]), sum())
        }
        _ => return Ok(None),
    };
    let step = match &args[2..] {
        [filter, _] => Expr::If(Box::new([lower(filter)?, made, sum()])),
        _ => made,
    };
    Ok(Some(Expr::Loop(Box::new(Loop {
        range: lower(range)?,
        item: item.as_str().into(),
        second: Some(second.as_str().into()),
        accumulator: ACCUMULATOR.into(),
        init,
        condition,
        step,
        result,
    }))))
}

/// The expression of an operator; none if the name is a function's.
fn operator(name: &str, args: &[IdedExpr]) -> Result<Option<Expr>, String> {
    let expr = match (name, args) {
        (operators::CONDITIONAL, [test, then, other]) => {
            Expr::If(Box::new([lower(test)?, lower(then)?, lower(other)?]))
        }
        (operators::LOGICAL_AND, [a, b]) => Expr::And(boxed(a)?, boxed(b)?),
        (operators::LOGICAL_OR, [a, b]) => Expr::Or(boxed(a)?, boxed(b)?),
        (operators::LOGICAL_NOT, [a]) => Expr::Not(boxed(a)?),
        (operators::NOT_STRICTLY_FALSE, [a]) => Expr::NotFalse(boxed(a)?),
        (operators::NEGATE, [a]) => Expr::Negate(boxed(a)?),
        (operators::INDEX, [operand, key]) => {
            Expr::Index { operand: boxed(operand)?, key: boxed(key)?, optional: false }
        }
        (operators::OPT_INDEX, [operand, key]) => {
            Expr::Index { operand: boxed(operand)?, key: boxed(key)?, optional: true }
        }
        (operators::OPT_SELECT, [operand, field]) => {
            let Expr::Literal(Value::String(field)) = lower(field)? else {
                return Err("a field name is missing".to_owned());
            };
            let (operand, field) = (boxed(operand)?, field.as_str().into());
            Expr::Select { operand, field, test: false, optional: true }
        }
        (name, [a, b]) => match binary(name) {
            Some(binary) => Expr::Binary(binary, boxed(a)?, boxed(b)?),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some(expr))
}

fn binary(name: &str) -> Option<Binary> {
    Some(match name {
        operators::EQUALS => Binary::Equal,
        operators::NOT_EQUALS => Binary::NotEqual,
        operators::LESS => Binary::Less,
        operators::LESS_EQUALS => Binary::LessEqual,
        operators::GREATER => Binary::Greater,
        operators::GREATER_EQUALS => Binary::GreaterEqual,
        operators::IN => Binary::In,
        operators::ADD => Binary::Add,
        operators::SUBSTRACT => Binary::Subtract,
        operators::MULTIPLY => Binary::Multiply,
        operators::DIVIDE => Binary::Divide,
        operators::MODULO => Binary::Modulo,
        _ => return None,
    })
}

impl Expr {
    /// What is wrong with the names of the objects that the expression makes: what is in `Object{spec: …}` is an
    /// `Object.spec`.
    pub(super) fn misnamed(&self) -> Option<String> {
        if let Expr::Object(name, fields) = self
            && **name != *"JSONPatch"
        {
            return fields
                .iter()
                .find_map(|(field, value, _)| value.misnamed_as(&format!("{name}.{field}")));
        }
        let mut found = None;
        self.children(&mut |child| found = found.take().or_else(|| child.misnamed()));
        found
    }

    fn misnamed_as(&self, expected: &str) -> Option<String> {
        match self {
            Expr::Object(name, _) if **name != *expected => Some(format!(
                "unexpected type name {name:?}, expected {expected:?}, which matches field name path from root Object type"
            )),
            Expr::List(entries) => {
                entries.iter().find_map(|(entry, _)| entry.misnamed_as(expected))
            }
            other => other.misnamed(),
        }
    }

    /// Calls `visit` with every variable that the expression or a part of it names.
    pub(super) fn variables<'a>(&'a self, visit: &mut dyn FnMut(&'a str)) {
        if let Expr::Var(name) = self {
            visit(name);
        }
        self.children(&mut |child| child.variables(visit));
    }

    /// How deep its parts nest.
    pub(super) fn height(&self) -> usize {
        let mut most = 0;
        self.children(&mut |child| most = most.max(child.height()));
        most + 1
    }

    /// Calls `visit` with every direct part.
    pub(super) fn children<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        match self {
            Expr::Literal(_) | Expr::Var(_) => (),
            Expr::Select { operand, .. } => visit(operand),
            Expr::Index { operand: a, key: b, .. }
            | Expr::And(a, b)
            | Expr::Or(a, b)
            | Expr::Binary(_, a, b) => {
                visit(a);
                visit(b);
            }
            Expr::Not(a) | Expr::NotFalse(a) | Expr::Negate(a) => visit(a),
            Expr::If(parts) => parts.iter().for_each(visit),
            Expr::List(entries) => entries.iter().for_each(|(entry, _)| visit(entry)),
            Expr::Map(entries) => {
                for (key, value, _) in entries {
                    visit(key);
                    visit(value);
                }
            }
            Expr::Object(_, fields) => fields.iter().for_each(|(_, value, _)| visit(value)),
            Expr::Loop(l) => {
                [&l.range, &l.init, &l.condition, &l.step, &l.result].into_iter().for_each(visit);
            }
            Expr::Call { target, args, .. } => {
                target.iter().for_each(|target| visit(target));
                args.iter().for_each(visit);
            }
        }
    }
}
