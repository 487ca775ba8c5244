//! What is wrong with one field, in the words of the API conventions.

use serde_json::Value;

use crate::print;

/// One entry of a Status' `details.causes`.
///
/// The whole message of the Status is made of `"<field>: <message>"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cause {
    /// Which rule was broken.
    pub reason: Reason,
    /// Path of the field, such as `spec.containers[0].name`; empty for the object itself.
    pub field: String,
    /// `Required value`, `Invalid value: 3: must be …`, without the field.
    pub message: String,
}

/// Machine-readable reasons of [`Cause`].
///
/// Source: `metav1.CauseType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A value that must be there is not.
    Required,
    /// A value that must be unique is there twice.
    Duplicate,
    /// Not a valid value for the field.
    Invalid,
    /// Not one of the listed values.
    NotSupported,
    /// May not be set in this situation.
    Forbidden,
    /// Longer than allowed.
    TooLong,
    /// More entries than allowed.
    TooMany,
    /// Refers to something that is not there.
    NotFound,
    /// Of another JSON type.
    TypeInvalid,
    /// The server failed while it checked the field.
    InternalError,
}

impl Reason {
    /// The value of `details.causes[].reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Required => "FieldValueRequired",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::Invalid => "FieldValueInvalid",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooMany => "FieldValueTooMany",
            Reason::NotFound => "FieldValueNotFound",
            Reason::TypeInvalid => "FieldValueTypeInvalid",
            Reason::InternalError => "InternalError",
        }
    }
}

impl Cause {
    /// `Required value`, and why if `detail` is not empty.
    #[must_use]
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::new(Reason::Required, field, with_detail("Required value", detail))
    }

    /// `Invalid value: <value>: <detail>`.
    #[must_use]
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::invalid_as(field, &show(value), detail)
    }

    /// The same, with a value that is shown otherwise.
    #[must_use]
    pub fn invalid_as(field: impl Into<String>, shown: &str, detail: &str) -> Self {
        let what = format!("Invalid value: {shown}");
        Self::new(Reason::Invalid, field, with_detail(&what, detail))
    }

    /// `Forbidden: <detail>`.
    #[must_use]
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new(Reason::Forbidden, field, with_detail("Forbidden", detail))
    }

    /// `Duplicate value: <value>`.
    #[must_use]
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::duplicate_as(field, &show(value))
    }

    /// The same, with a value that is shown otherwise.
    #[must_use]
    pub fn duplicate_as(field: impl Into<String>, shown: &str) -> Self {
        Self::new(Reason::Duplicate, field, format!("Duplicate value: {shown}"))
    }

    /// `Not found: <value>`.
    #[must_use]
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self::new(Reason::NotFound, field, format!("Not found: {}", show(value)))
    }

    /// `Unsupported value: <value>: supported values: …`, in the order given.
    #[must_use]
    pub fn not_supported<'a>(
        field: impl Into<String>,
        value: &Value,
        supported: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        // Enumerations have types of their own in Go, which it shows as JSON.
        Self::not_supported_as(field, &print::escaped(&value.to_string()), supported)
    }

    /// The same, with a value that is shown otherwise.
    #[must_use]
    pub fn not_supported_as<'a>(
        field: impl Into<String>,
        shown: &str,
        supported: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let supported: Vec<String> = supported.into_iter().map(|s| format!("{s:?}")).collect();
        let mut message = format!("Unsupported value: {shown}");
        if !supported.is_empty() {
            message += ": supported values: ";
            message += &supported.join(", ");
        }
        Self::new(Reason::NotSupported, field, message)
    }

    /// `Too long: may not be more than <max> bytes`.
    #[must_use]
    pub fn too_long(field: impl Into<String>, max: u64) -> Self {
        let bytes = if max == 1 { "byte" } else { "bytes" };
        Self::new(Reason::TooLong, field, format!("Too long: may not be more than {max} {bytes}"))
    }

    /// `Too many: <n>: must have at most <max> items`.
    #[must_use]
    pub fn too_many(field: impl Into<String>, n: usize, max: u64) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Self::new(Reason::TooMany, field, format!("Too many: {n}: must have at most {max} {items}"))
    }

    /// `Invalid value: <value>: <detail>` for a value of another JSON type.
    #[must_use]
    pub fn type_invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self { reason: Reason::TypeInvalid, ..Self::invalid(field, value, detail) }
    }

    fn new(reason: Reason, field: impl Into<String>, message: String) -> Self {
        Self { reason, field: field.into(), message }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Joins the causes of the schema with those of a type's own rules.
///
/// Where both speak of the same field the type's rule wins, since it knows upstream's wording.
#[must_use]
pub fn merge(schema: Vec<Cause>, own: Vec<Cause>) -> Vec<Cause> {
    let mut all: Vec<Cause> = schema
        .into_iter()
        .filter(|cause| !own.iter().any(|other| speaks_of(other, cause)))
        .collect();
    all.extend(own);
    all
}

/// Whether a type's own cause is about the same field, or names the list of which the schema
/// names an entry.
fn speaks_of(own: &Cause, schema: &Cause) -> bool {
    let listed = || {
        own.reason == Reason::NotSupported
            && schema.reason == Reason::NotSupported
            && schema.field.rsplit_once('[').is_some_and(|(list, _)| list == own.field)
    };
    own.field == schema.field || listed()
}

/// A value as field errors show it: JSON, strings quoted.
#[must_use]
pub fn show(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Number(number) => print::number(number),
        other => print::escaped(&other.to_string()),
    }
}

fn with_detail(what: &str, detail: &str) -> String {
    if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") }
}
