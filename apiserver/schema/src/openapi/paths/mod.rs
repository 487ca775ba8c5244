//! The operations of what is served: which paths there are, and what each takes and answers.
//!
//! Names, parameters, media types and answers are those of upstream's documents, which client generators go by; its
//! sentences are not.

mod names;
mod operations;
mod parameters;
mod roots;
mod write;

pub(super) use operations::operations;
pub(super) use roots::{of_document, of_version, root_paths};
pub(super) use write::write;

use self::parameters::Parameter;

/// A subresource, as discovery tells it.
#[derive(Clone, Copy, Debug)]
pub struct Subresource<'a> {
    /// Such as `status`.
    pub name: &'a str,
    /// Group, version and kind of what it takes and answers.
    pub gvk: (&'a str, &'a str, &'a str),
    /// The published definition of that kind.
    pub definition: Option<&'a str>,
    /// Verbs of discovery.
    pub verbs: &'a [&'a str],
}

/// One operation, in no dialect yet.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    /// Such as `/api/v1/namespaces/{namespace}/pods/{name}`.
    path: String,
    /// Of HTTP, in lower case.
    method: &'static str,
    /// `x-kubernetes-action`; documents about documents have none.
    action: Option<&'static str>,
    id: String,
    tag: String,
    /// Group, version and kind.
    gvk: Option<[String; 3]>,
    parameters: Vec<Parameter>,
    body: Option<Body>,
    consumes: &'static [&'static str],
    produces: &'static [&'static str],
    /// The codes of success.
    codes: &'static [u16],
    answer: Answer,
}

/// What an operation takes.
#[derive(Clone, Debug)]
struct Body {
    definition: String,
    required: bool,
}

/// What an operation answers.
#[derive(Clone, Debug)]
enum Answer {
    Definition(String),
    Text,
}

impl Operation {
    /// The definitions that it refers to.
    pub(super) fn definitions(&self) -> impl Iterator<Item = &str> {
        let answer = match &self.answer {
            Answer::Definition(name) => Some(name.as_str()),
            Answer::Text => None,
        };
        answer.into_iter().chain(self.body.as_ref().map(|body| body.definition.as_str()))
    }
}

/// A definition of the API's own machinery.
fn meta(name: &str) -> String {
    format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")
}
