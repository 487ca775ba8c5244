//! What is wrong with the types and metadata of objects inside of custom objects.
//!
//! Source: upstream's `apiextensions-apiserver/pkg/apiserver/schema/objectmeta/validation.go`.

use serde_json::Value;

use super::{meta, names};
use crate::status::Cause;
use crate::types::check::text;
use crate::types::words;

/// Faults of the object that stands at `path`; missing fields are told by its schema.
pub(super) fn validate(path: &str, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let kind = text(object, "kind");
    if !kind.is_empty() {
        for fault in words::label_1035(&kind.to_lowercase()) {
            let detail = format!("may have mixed case, but should otherwise match: {fault}");
            causes.push(Cause::invalid(format!("{path}.kind"), &kind.into(), &detail));
        }
    }
    let version = text(object, "apiVersion");
    if version.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {version}");
        causes.push(Cause::invalid(format!("{path}.apiVersion"), &version.into(), &detail));
    }
    let metadata = &object["metadata"];
    let segments = [("generateName", true), ("name", false)];
    for (field, is_prefix) in segments {
        let name = text(metadata, field);
        let faults = names::path_segment(name);
        for fault in faults.into_iter().filter(|_| !(name.is_empty() || is_prefix && name == ".")) {
            causes.push(Cause::invalid(format!("{path}.metadata.{field}"), &name.into(), &fault));
        }
    }
    let namespace = text(metadata, "namespace");
    if !namespace.is_empty() {
        for fault in words::label(namespace) {
            let field = format!("{path}.metadata.namespace");
            causes.push(Cause::invalid(field, &namespace.into(), &fault));
        }
    }
    causes.extend(meta::of_embedded(metadata).into_iter().map(|mut cause| {
        cause.field = format!("{path}.{}", cause.field);
        cause
    }));
    causes
}
