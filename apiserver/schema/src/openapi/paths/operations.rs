//! The operations of a resource, from the verbs of discovery.

use super::super::{Resource, Source};
use super::names::{self, title};
use super::parameters::{self, DELETE, FORCE, LIST, PRETTY, Parameter, READ_CUSTOM, WRITE};
use super::{Answer, Body, Operation, Subresource, meta};

const ANY: [&str; 1] = ["*/*"];
const OBJECTS: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMS: [&str; 5] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const LOGS: [&str; 4] =
    ["text/plain", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const CUSTOM: [&str; 2] = ["application/json", "application/yaml"];
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const CUSTOM_PATCHES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

/// Methods of a proxy.
const METHODS: [&str; 7] = ["delete", "get", "head", "options", "patch", "post", "put"];

/// The operations of a resource whose kind is published as `definition`.
pub(in super::super) fn operations(resource: &Resource<'_>, definition: &str) -> Vec<Operation> {
    let base = match resource.group {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    let maker = Maker { resource, definition, base, made: Vec::new() };
    maker.all()
}

struct Maker<'a> {
    resource: &'a Resource<'a>,
    definition: &'a str,
    /// The path of the version.
    base: String,
    made: Vec<Operation>,
}

impl Maker<'_> {
    fn all(mut self) -> Vec<Operation> {
        for verb in self.resource.verbs {
            match *verb {
                "list" => self.list(),
                "watch" if !self.is_custom() => self.watch(),
                "create" => {
                    let path = self.collection("");
                    self.create(path, &self.scoped(), self.definition.to_owned(), self.gvk());
                }
                "deletecollection" => self.delete_collection(),
                "get" | "update" | "patch" => {
                    let (path, what) = (self.item(), self.scoped());
                    self.on_object(verb, path, &what, self.definition.to_owned(), self.gvk());
                }
                "delete" => self.delete(),
                _ => (),
            }
        }
        for sub in self.resource.subresources {
            self.subresource(sub);
        }
        self.made
    }

    fn subresource(&mut self, sub: &Subresource<'_>) {
        let path = format!("{}/{}", self.item(), sub.name);
        let what = format!("{}{}", self.scoped(), title(sub.name));
        match sub.name {
            "attach" | "exec" | "portforward" | "proxy" => return self.connect(sub, &path, &what),
            "log" => return self.log(path, &what),
            _ => (),
        }
        let definition = match sub.definition {
            None if sub.gvk.2 == self.resource.kind => self.definition,
            other => other.unwrap_or(self.definition),
        };
        // A custom type's subresources are said to be of its own kind.
        let (group, version, kind) = sub.gvk;
        let gvk = if self.is_custom() { self.gvk() } else { gvk(group, version, kind) };
        for verb in sub.verbs {
            let (path, definition, gvk) = (path.clone(), definition.to_owned(), gvk.clone());
            match *verb {
                "create" => self.create(path, &what, definition, gvk),
                "get" | "update" | "patch" => self.on_object(verb, path, &what, definition, gvk),
                _ => (),
            }
        }
    }

    fn list(&mut self) {
        let answer = Answer::Definition(format!("{}List", self.definition));
        let mut places = vec![(self.collection(""), self.scoped())];
        if self.resource.namespaced {
            places.push((self.everywhere(""), format!("{}ForAllNamespaces", self.resource.kind)));
        }
        for (path, what) in places {
            let id = names::id("list", self.resource, &what);
            self.push(Operation {
                parameters: self.parameters(&path, &LIST),
                action: Some("list"),
                produces: if self.is_custom() { &CUSTOM } else { &STREAMS },
                answer: answer.clone(),
                ..self.operation(path, "get", id)
            });
        }
    }

    fn watch(&mut self) {
        let kind = self.resource.kind;
        let mut places = vec![
            (self.watched_item(), "watch", self.scoped()),
            (self.collection("/watch"), "watchlist", format!("{}List", self.scoped())),
        ];
        if self.resource.namespaced {
            let what = format!("{kind}ListForAllNamespaces");
            places.push((self.everywhere("/watch"), "watchlist", what));
        }
        for (path, action, what) in places {
            let id = names::id("watch", self.resource, &what);
            self.push(Operation {
                parameters: self.parameters(&path, &LIST),
                action: Some(action),
                produces: &STREAMS,
                answer: Answer::Definition(meta("WatchEvent")),
                ..self.operation(path, "get", id)
            });
        }
    }

    fn create(&mut self, path: String, what: &str, definition: String, gvk: [String; 3]) {
        let id = names::id("create", self.resource, what);
        self.push(Operation {
            parameters: self.parameters(&path, &WRITE),
            action: Some("post"),
            gvk: Some(gvk),
            body: Some(Body { definition: definition.clone(), required: true }),
            codes: &[200, 201, 202],
            answer: Answer::Definition(definition),
            ..self.operation(path, "post", id)
        });
    }

    /// `get`, `update` or `patch` of an object or a part of it.
    fn on_object(
        &mut self,
        verb: &str,
        path: String,
        what: &str,
        definition: String,
        gvk: [String; 3],
    ) {
        let custom = self.is_custom();
        let id = |verb| names::id(verb, self.resource, what);
        let mut operation = match verb {
            "get" => Operation {
                parameters: self.parameters(&path, if custom { &READ_CUSTOM } else { &[] }),
                action: Some("get"),
                ..self.operation(path, "get", id("read"))
            },
            "update" => Operation {
                parameters: self.parameters(&path, &WRITE),
                action: Some("put"),
                body: Some(Body { definition: definition.clone(), required: true }),
                codes: &[200, 201],
                ..self.operation(path, "put", id("replace"))
            },
            _ => Operation {
                parameters: self.parameters(&path, &[&WRITE[..], &[FORCE]].concat()),
                action: Some("patch"),
                consumes: if custom { &CUSTOM_PATCHES } else { &PATCHES },
                body: Some(Body { definition: meta("Patch"), required: true }),
                codes: if custom { &[200] } else { &[200, 201] },
                ..self.operation(path, "patch", id("patch"))
            },
        };
        operation.answer = Answer::Definition(definition);
        operation.gvk = Some(gvk);
        self.push(operation);
    }

    fn delete(&mut self) {
        let (path, id) = (self.item(), names::id("delete", self.resource, &self.scoped()));
        let answer =
            if self.resource.returns_deleted { self.definition.to_owned() } else { meta("Status") };
        self.push(Operation {
            parameters: self.parameters(&path, &DELETE),
            action: Some("delete"),
            body: Some(Body { definition: meta("DeleteOptions"), required: false }),
            codes: &[200, 202],
            answer: Answer::Definition(answer),
            ..self.operation(path, "delete", id)
        });
    }

    fn delete_collection(&mut self) {
        let path = self.collection("");
        let what = format!("Collection{}", self.scoped());
        let custom = self.is_custom();
        let body = Body { definition: meta("DeleteOptions"), required: false };
        let own = parameters::of_deleted_collection().chain(DELETE).collect::<Vec<_>>();
        self.push(Operation {
            parameters: self.parameters(&path, if custom { &LIST } else { &own }),
            action: Some("deletecollection"),
            body: (!custom).then_some(body),
            answer: Answer::Definition(meta("Status")),
            ..self.operation(path, "delete", names::id("delete", self.resource, &what))
        });
    }

    /// Operations of a subresource that is a connection.
    fn connect(&mut self, sub: &Subresource<'_>, path: &str, what: &str) {
        let (group, version, kind) = sub.gvk;
        let methods = METHODS
            .iter()
            .filter(|method| sub.name == "proxy" || matches!(**method, "get" | "post"));
        for method in methods {
            let mut places = vec![(path.to_owned(), "")];
            if sub.name == "proxy" {
                places.push((format!("{path}/{{path}}"), "WithPath"));
            }
            for (path, tail) in places {
                let verb = names::id("connect", self.resource, &title(method));
                let own = parameters::of_subresource(sub.name);
                self.push(Operation {
                    parameters: parameters::in_path(&path).chain(own).collect(),
                    action: Some("connect"),
                    gvk: Some(gvk(group, version, kind)),
                    produces: &ANY,
                    answer: Answer::Text,
                    ..self.operation(path, method, format!("{verb}{what}{tail}"))
                });
            }
        }
    }

    fn log(&mut self, path: String, what: &str) {
        self.push(Operation {
            parameters: self.parameters(&path, &parameters::of_subresource("log")),
            action: Some("get"),
            produces: &LOGS,
            answer: Answer::Text,
            ..self.operation(path, "get", names::id("read", self.resource, what))
        });
    }

    /// What most operations have in common.
    fn operation(&self, path: String, method: &'static str, id: String) -> Operation {
        let custom = self.is_custom();
        Operation {
            path,
            method,
            action: None,
            id,
            tag: names::tag(self.resource.group, self.resource.version),
            gvk: Some(self.gvk()),
            parameters: Vec::new(),
            body: None,
            consumes: if custom { &CUSTOM } else { &ANY },
            produces: if custom { &CUSTOM } else { &OBJECTS },
            codes: &[200],
            answer: Answer::Text,
        }
    }

    fn push(&mut self, operation: Operation) {
        self.made.push(operation);
    }

    fn is_custom(&self) -> bool {
        !matches!(self.resource.source, Source::Definition(_))
    }

    fn gvk(&self) -> [String; 3] {
        gvk(self.resource.group, self.resource.version, self.resource.kind)
    }

    /// The kind, and whether it is in namespaces.
    fn scoped(&self) -> String {
        let scope = if self.resource.namespaced { "Namespaced" } else { "" };
        format!("{scope}{}", self.resource.kind)
    }

    /// The path of the collection, in its namespace if it has one; `prefix` is `/watch` or nothing.
    fn collection(&self, prefix: &str) -> String {
        let within = if self.resource.namespaced { "/namespaces/{namespace}" } else { "" };
        format!("{}{prefix}{within}/{}", self.base, self.resource.plural)
    }

    fn everywhere(&self, prefix: &str) -> String {
        format!("{}{prefix}/{}", self.base, self.resource.plural)
    }

    fn item(&self) -> String {
        format!("{}/{{name}}", self.collection(""))
    }

    fn watched_item(&self) -> String {
        format!("{}/{{name}}", self.collection("/watch"))
    }

    fn parameters(&self, path: &str, own: &[Parameter]) -> Vec<Parameter> {
        parameters::in_path(path).chain([PRETTY]).chain(own.iter().copied()).collect()
    }
}

fn gvk(group: &str, version: &str, kind: &str) -> [String; 3] {
    [group, version, kind].map(str::to_owned)
}
