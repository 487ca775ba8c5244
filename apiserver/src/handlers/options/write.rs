//! Parameters of CREATE, UPDATE and PATCH.

use http::Method;

use super::{Query, invalid_options};
use crate::status::{ApiError, StatusCause};

/// Longest field manager.
const FIELD_MANAGER_BYTES: usize = 128;

/// What happens to fields that the schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped, with a warning each.
    #[default]
    Warn,
    /// The request is refused.
    Strict,
}

/// Parameters of CREATE, UPDATE and PATCH.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Everything happens but the store.
    pub dry_run: bool,
    /// Who owns the fields of this write; empty if the client did not say.
    pub field_manager: String,
    /// What happens to unknown fields.
    pub field_validation: FieldValidation,
    /// Whether an apply takes over the fields of others.
    pub force: Option<bool>,
    /// Whether these are the options of a PATCH.
    pub is_patch: bool,
}

impl WriteOptions {
    /// Reads and checks the parameters of a method.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(query: &Query, method: &Method) -> Result<Self, ApiError> {
        let kind = match *method {
            Method::POST => "CreateOptions",
            Method::PUT => "UpdateOptions",
            _ => "PatchOptions",
        };
        let mut causes = Vec::new();
        let dry_run = dry_run(&query.all("dryRun"), &mut causes);
        let field_manager = query.get("fieldManager").unwrap_or_default().to_owned();
        if field_manager.len() > FIELD_MANAGER_BYTES {
            let text = format!("Too long: may not be more than {FIELD_MANAGER_BYTES} bytes");
            causes.push(StatusCause::new("FieldValueTooLong", "fieldManager", text));
        }
        if let Some((at, bad)) = field_manager.char_indices().find(|(_, c)| c.is_control()) {
            let text = format!(
                "Invalid value: {}: invalid character U+{:04X} (at position {at})",
                go_quote(&field_manager),
                u32::from(bad)
            );
            causes.push(StatusCause::new("FieldValueInvalid", "fieldManager", text));
        }
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let text = format!(
                    "Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
                );
                causes.push(StatusCause::new("FieldValueNotSupported", "fieldValidation", text));
                FieldValidation::Warn
            }
        };
        if causes.is_empty() {
            let (force, is_patch) = (query.flag("force"), *method == Method::PATCH);
            Ok(Self { dry_run, field_manager, field_validation, force, is_patch })
        } else {
            Err(invalid_options(kind, causes))
        }
    }
}

/// A text as Go's `%q` shows it.
fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\u{7}' => out += "\\a",
            '\u{8}' => out += "\\b",
            '\u{c}' => out += "\\f",
            '\u{b}' => out += "\\v",
            c if c.is_control() && !matches!(c, '\n' | '\r' | '\t') => {
                out += &format!("\\x{:02x}", u32::from(c))
            }
            c => out.extend(c.escape_debug()),
        }
    }
    out + "\""
}

/// Reads `dryRun`, which may only be `All`.
pub fn dry_run(values: &[&str], causes: &mut Vec<StatusCause>) -> bool {
    if values.iter().any(|v| *v != "All") {
        let list = serde_json::to_string(values).unwrap_or_default();
        let text = format!("Unsupported value: {list}: supported values: \"All\"");
        causes.push(StatusCause::new("FieldValueNotSupported", "dryRun", text));
    }
    !values.is_empty()
}
