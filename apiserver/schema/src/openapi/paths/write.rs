//! Operations in a dialect.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::super::Dialect;
use super::{Answer, Operation, Parameter};

/// The paths of operations. What all operations of a path take is said once, of the path.
pub(in super::super) fn write(operations: &[Operation], dialect: Dialect) -> Map<String, Value> {
    let mut paths: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        paths.entry(&operation.path).or_default().push(operation);
    }
    paths.into_iter().map(|(path, all)| (path.to_owned(), item(&all, dialect))).collect()
}

fn item(operations: &[&Operation], dialect: Dialect) -> Value {
    let is_common =
        |one: &Parameter| operations.iter().all(|operation| operation.parameters.contains(one));
    let mut item = Map::new();
    let mut common = Vec::new();
    for operation in operations {
        let (shared, own) =
            operation.parameters.iter().partition::<Vec<_>, _>(|one| is_common(one));
        common = shared;
        item.insert(operation.method.to_owned(), one(operation, &own, dialect));
    }
    if !common.is_empty() {
        item.insert("parameters".to_owned(), parameters(&common, dialect).into());
    }
    item.into()
}

fn parameters(all: &[Parameter], dialect: Dialect) -> Vec<Value> {
    let mut sorted = all.to_vec();
    sorted.sort_by_key(|one| one.name);
    sorted.into_iter().map(|one| one.write(dialect)).collect()
}

fn one(operation: &Operation, own: &[Parameter], dialect: Dialect) -> Value {
    let mut own = parameters(own, dialect);
    let mut out = Map::new();
    out.insert("tags".into(), json!([operation.tag]));
    out.insert("operationId".into(), operation.id.as_str().into());
    if let Some(action) = operation.action {
        out.insert("x-kubernetes-action".into(), action.into());
    }
    if let Some([group, version, kind]) = &operation.gvk {
        let gvk = json!({ "group": group, "version": version, "kind": kind });
        out.insert("x-kubernetes-group-version-kind".into(), gvk);
    }
    if dialect == Dialect::V2 {
        out.insert("schemes".into(), json!(["https"]));
        out.insert("produces".into(), json!(operation.produces));
        if !operation.consumes.is_empty() {
            out.insert("consumes".into(), json!(operation.consumes));
        }
    }
    if let Some(body) = &operation.body {
        let schema = reference(&body.definition, dialect);
        let mut written = match dialect {
            Dialect::V2 => json!({ "name": "body", "in": "body", "schema": schema }),
            Dialect::V3 => json!({ "content": content(operation.consumes, &schema) }),
        };
        if body.required {
            written["required"] = true.into();
        }
        match dialect {
            Dialect::V2 => own.insert(0, written),
            Dialect::V3 => _ = out.insert("requestBody".into(), written),
        }
    }
    if !own.is_empty() {
        out.insert("parameters".into(), own.into());
    }
    out.insert("responses".into(), answers(operation, dialect));
    out.into()
}

fn answers(operation: &Operation, dialect: Dialect) -> Value {
    let schema = match &operation.answer {
        Answer::Definition(name) => reference(name, dialect),
        Answer::Text => json!({ "type": "string" }),
    };
    let mut answers = Map::new();
    for code in operation.codes {
        let description = match code {
            200 => "OK",
            201 => "Created",
            _ => "Accepted",
        };
        let answer = match dialect {
            Dialect::V2 => json!({ "description": description, "schema": schema }),
            Dialect::V3 => {
                json!({ "description": description, "content": content(operation.produces, &schema) })
            }
        };
        answers.insert(code.to_string(), answer);
    }
    answers.insert("401".into(), json!({ "description": "Unauthorized" }));
    answers.into()
}

fn reference(definition: &str, dialect: Dialect) -> Value {
    json!({ "$ref": format!("{}{definition}", dialect.prefix()) })
}

fn content(types: &[&str], schema: &Value) -> Value {
    let one = |name: &&str| ((*name).to_owned(), json!({ "schema": schema }));
    types.iter().map(one).collect::<Map<_, _>>().into()
}
