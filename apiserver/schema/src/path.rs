//! Paths of fields, kept on the stack and rendered only when something is wrong.

use std::fmt::Write as _;

/// One step from an object to a value in it, linked to the step before.
#[derive(Clone, Copy)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
pub(crate) enum Step<'a> {
    Root,
    /// A declared field.
    Field(&'a str),
    /// A key of a map.
    Key(&'a str),
    /// An entry of a list.
    Index(usize),
    /// An entry of a list by what tells it from others, as `fieldsV1` writes it.
    Element(&'a str),
}

impl<'a> Path<'a> {
    pub(crate) const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    pub(crate) fn field(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    pub(crate) fn key(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(name) }
    }

    pub(crate) fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    pub(crate) fn element(&'a self, element: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Element(element) }
    }

    /// `spec.containers[0].name`; keys of maps follow a dot, as in decode errors.
    pub(crate) fn dotted(&self) -> String {
        self.render(dot)
    }

    /// `metadata.labels[app]`: keys of maps in brackets, as in validation errors.
    pub(crate) fn bracketed(&self) -> String {
        self.render(|out, key| _ = write!(out, "[{key}]"))
    }

    fn render(&self, key: impl Fn(&mut String, &str)) -> String {
        let mut out = String::new();
        for step in self.steps() {
            match step {
                Step::Root => (),
                Step::Field(name) => dot(&mut out, name),
                Step::Key(name) => key(&mut out, name),
                Step::Index(index) => _ = write!(out, "[{index}]"),
                Step::Element(element) => out.push_str(element),
            }
        }
        out
    }

    /// From the object to the value.
    pub(crate) fn steps(&self) -> Vec<Step<'a>> {
        let mut steps = vec![self.step];
        let mut parent = self.parent;
        while let Some(path) = parent {
            steps.push(path.step);
            parent = path.parent;
        }
        steps.reverse();
        steps
    }
}

fn dot(out: &mut String, name: &str) {
    if !out.is_empty() {
        out.push('.');
    }
    out.push_str(name);
}
