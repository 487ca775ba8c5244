//! `authorizer`: what an expression may ask about the rights of whoever sent the request.
//!
//! Source: upstream `apiserver/pkg/cel/library/authz.go`.

use std::sync::Arc;

use schema::cel::{Ask, Value as Cel, object};

use super::attributes::Attributes;
use crate::identity::{self, Authorizer};
use crate::registry::Resource;
use crate::request::User;

/// What one question costs.
///
/// Source: `checkCost` in upstream's `apiserver/pkg/cel/library/cost.go`.
const QUESTION: u64 = 350_000;

/// Asks for one user.
#[derive(Debug, Clone)]
struct Asker {
    authorizer: Arc<Authorizer>,
    user: Arc<User>,
}

/// `authorizer` for the user of a request.
pub(super) fn of(attributes: &Attributes<'_>) -> Cel {
    object(Arc::new(asker(attributes)))
}

/// `authorizer.requestResource`: the request's own resource, with the verb still open.
pub(super) fn of_resource(attributes: &Attributes<'_>, resource: &Resource) -> Cel {
    object(Arc::new(ResourceCheck {
        asker: asker(attributes),
        group: resource.group.clone(),
        resource: resource.name.clone(),
        subresource: attributes.subresource.to_owned(),
        namespace: attributes.namespace.to_owned(),
        name: attributes.name.clone(),
        fields: String::new(),
    }))
}

fn asker(attributes: &Attributes<'_>) -> Asker {
    let authorizer = attributes.core.authorizer.clone();
    Asker { authorizer, user: Arc::new(attributes.user.clone()) }
}

/// The texts of a call's arguments; none if one is something else.
fn texts(args: &[Cel]) -> Option<Vec<String>> {
    let text = |arg: &Cel| match arg {
        Cel::String(text) => Some(text.to_string()),
        _ => None,
    };
    args.iter().map(text).collect()
}

fn some(ask: impl Ask + 'static) -> Option<Result<Cel, String>> {
    Some(Ok(object(Arc::new(ask))))
}

fn text(text: &str) -> Option<Result<Cel, String>> {
    Some(Ok(Cel::String(Arc::new(text.to_owned()))))
}

impl Ask for Asker {
    fn type_name(&self) -> &str {
        "kubernetes.authorization.Authorizer"
    }

    fn cost(&self, _: &str) -> u64 {
        1
    }

    fn call(&self, function: &str, args: &[Cel]) -> Option<Result<Cel, String>> {
        match (function, texts(args)?.as_slice()) {
            ("path", [path]) if path.is_empty() => Some(Err("path must not be empty".to_owned())),
            ("path", [path]) => some(PathCheck { asker: self.clone(), path: path.clone() }),
            ("group", [group]) => some(GroupCheck { asker: self.clone(), group: group.clone() }),
            ("serviceAccount", [namespace, name]) => {
                let user = format!("system:serviceaccount:{namespace}:{name}");
                let own = format!("system:serviceaccounts:{namespace}");
                let user = User::new(&user, &["system:serviceaccounts", &own]);
                some(Asker { user: Arc::new(user), ..self.clone() })
            }
            _ => None,
        }
    }
}

#[derive(Debug)]
struct PathCheck {
    asker: Asker,
    path: String,
}

impl Ask for PathCheck {
    fn type_name(&self) -> &str {
        "kubernetes.authorization.PathCheck"
    }

    fn cost(&self, function: &str) -> u64 {
        if function == "check" { QUESTION } else { 1 }
    }

    fn call(&self, function: &str, args: &[Cel]) -> Option<Result<Cel, String>> {
        match (function, texts(args)?.as_slice()) {
            ("check", [verb]) => self.asker.ask(&identity::Attributes {
                verb: &verb.to_lowercase(),
                path: &self.path,
                is_resource: false,
                ..identity::Attributes::of_nothing(&self.asker.user)
            }),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct GroupCheck {
    asker: Asker,
    group: String,
}

impl Ask for GroupCheck {
    fn type_name(&self) -> &str {
        "kubernetes.authorization.GroupCheck"
    }

    fn cost(&self, _: &str) -> u64 {
        1
    }

    fn call(&self, function: &str, args: &[Cel]) -> Option<Result<Cel, String>> {
        match (function, texts(args)?.as_slice()) {
            ("resource", [resource]) => some(ResourceCheck {
                asker: self.asker.clone(),
                group: self.group.clone(),
                resource: resource.clone(),
                subresource: String::new(),
                namespace: String::new(),
                name: String::new(),
                fields: String::new(),
            }),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
struct ResourceCheck {
    asker: Asker,
    group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    fields: String,
}

impl Ask for ResourceCheck {
    fn type_name(&self) -> &str {
        "kubernetes.authorization.ResourceCheck"
    }

    fn cost(&self, function: &str) -> u64 {
        if function == "check" { QUESTION } else { 1 }
    }

    fn call(&self, function: &str, args: &[Cel]) -> Option<Result<Cel, String>> {
        let this = || self.clone();
        match (function, texts(args)?.as_slice()) {
            ("subresource", [name]) => some(Self { subresource: name.clone(), ..this() }),
            ("namespace", [name]) => some(Self { namespace: name.clone(), ..this() }),
            ("name", [name]) => some(Self { name: name.clone(), ..this() }),
            ("fieldSelector", [fields]) => some(Self { fields: fields.clone(), ..this() }),
            // Nothing here grants rights by label.
            ("labelSelector", [_]) => some(this()),
            ("check", [verb]) => self.asker.ask(&identity::Attributes {
                verb,
                group: &self.group,
                version: "*",
                resource: &self.resource,
                subresource: &self.subresource,
                namespace: &self.namespace,
                name: &self.name,
                field_selector: &self.fields,
                ..identity::Attributes::of_nothing(&self.asker.user)
            }),
            _ => None,
        }
    }
}

impl Asker {
    fn ask(&self, question: &identity::Attributes<'_>) -> Option<Result<Cel, String>> {
        some(Answer(self.authorizer.authorize_now(question)))
    }
}

#[derive(Debug)]
struct Answer(identity::Decision);

impl Ask for Answer {
    fn type_name(&self) -> &str {
        "kubernetes.authorization.Decision"
    }

    fn cost(&self, _: &str) -> u64 {
        1
    }

    fn call(&self, function: &str, args: &[Cel]) -> Option<Result<Cel, String>> {
        match (function, args) {
            ("allowed", []) => Some(Ok(Cel::Bool(self.0.allowed))),
            ("reason", []) => text(&self.0.reason.to_string()),
            // Questions are answered from memory, which does not fail.
            ("errored", []) => Some(Ok(Cel::Bool(false))),
            ("error", []) => text(""),
            _ => None,
        }
    }
}
