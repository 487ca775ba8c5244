//! What the API server knows of its types: pure functions on [`serde_json::Value`].
//!
//! A [`Schema`] comes from the facts recorded about upstream's types or from the
//! `openAPIV3Schema` of a CustomResourceDefinition, and does the same for both: it decodes,
//! defaults, validates, merges patches and applies. Nothing here does I/O, reads a clock or
//! knows of requests.
//!
//! ```
//! use schema::Schema;
//! use serde_json::json;
//!
//! let pods = Schema::for_gvk("", "v1", "Pod").expect("a known kind");
//! let mut pod = json!({
//!     "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
//!     "spec": {"containers": [{"name": "a", "image": "x", "imag": "y"}]}
//! });
//! // Decode: wrong JSON types are errors, unknown fields are removed and told.
//! let unknown = pods.decode(&mut pod).expect("well typed");
//! assert_eq!(unknown, ["spec.containers[0].imag"]);
//! // Static defaults; those that depend on other fields are the types' own code.
//! pods.default(&mut pod);
//! assert_eq!(pod["spec"]["restartPolicy"], "Always");
//! ```
//!
//! The road of a write: [`json::parse`] → [`Schema::decode`] → [`Schema::default`] → the
//! type's own defaults and admission → [`Schema::validate`], which judges what CustomResourceDefinitions
//! bring; upstream's types have rules of their own, whose causes [`cause::merge`] joins.

mod compile;
mod decode;
mod default;
mod embedded;
mod formats;
mod go;
mod node;
mod path;
pub mod regexps;
mod time;
mod validate;

pub mod apply;
pub mod cause;
pub mod cel;
pub mod crd;
pub mod crdgen;
pub mod facts;
pub mod json;
pub mod openapi;
pub mod patch;
pub mod print;
pub mod quantity;

use std::sync::Arc;

use serde_json::Value;

pub use cause::{Cause, Reason};
pub use compile::CompileError;
pub use decode::DecodeError;

use node::Node;

/// The compiled schema of one version of a type; cheap to clone.
#[derive(Clone, Debug)]
pub struct Schema {
    root: Arc<Node>,
}

impl Schema {
    /// The schema of an upstream definition, such as `io.k8s.api.core.v1.Pod`.
    #[must_use]
    pub fn for_definition(name: &str) -> Option<Schema> {
        compile::definition(name).map(|root| Schema { root })
    }

    /// The schema of an upstream kind; the core group is `""`.
    #[must_use]
    pub fn for_gvk(group: &str, version: &str, kind: &str) -> Option<Schema> {
        Self::for_definition(facts::definition_of(group, version, kind)?)
    }

    /// Compiles the `openAPIV3Schema` of a CustomResourceDefinition's version.
    ///
    /// Parts that carry `x-improv-definition` behave as upstream's built-in types do.
    ///
    /// # Errors
    /// If the JSON is not a schema at all; whether it is *structural* is another question.
    pub fn from_crd(openapi: &Value) -> Result<Schema, CompileError> {
        Ok(Schema { root: compile::custom(openapi)? })
    }

    /// The upstream definition that this is, such as `io.k8s.api.apps.v1.Deployment`.
    #[must_use]
    pub fn definition(&self) -> Option<&str> {
        self.root.definition.as_deref()
    }

    /// Whether the type behaves as one that upstream has in Go: errors of decoding, nulls and
    /// zero values, dumps in messages.
    #[must_use]
    pub fn is_typed(&self) -> bool {
        self.root.typed
    }

    /// Turns what a client sent into what the type has, in place.
    ///
    /// Unknown fields are removed and their paths returned, for `unknown field "spec.foo"`.
    /// Typed objects lose nulls and omitted zero values, as they do upstream on their way
    /// through Go; quantities and times get their canonical form.
    ///
    /// # Errors
    /// In typed objects (and `metadata` of all objects), a value of the wrong JSON type.
    pub fn decode(&self, value: &mut Value) -> Result<Vec<String>, DecodeError> {
        decode::decode(&self.root, value)
    }

    /// As [`Schema::decode`], of what was read from a JSON text.
    ///
    /// # Errors
    /// Of what does not fit, that which comes first in the text.
    pub fn decode_text(
        &self,
        value: &mut Value,
        text: &[u8],
        overwritten: Vec<json::Overwritten>,
    ) -> Result<Vec<String>, DecodeError> {
        decode::decode_text(&self.root, value, text, overwritten)
    }

    /// As [`Schema::decode`], of an object that a patch made. Upstream makes structs of its maps without JSON in
    /// between: a float without a fraction is an integer there, and the refusals have other words.
    ///
    /// # Errors
    /// A value of the wrong type.
    pub fn convert(&self, value: &mut Value) -> Result<Vec<String>, DecodeError> {
        decode::convert(&self.root, value)
    }

    /// Removes unknown fields and returns their paths; wrong types are left alone.
    pub fn prune(&self, value: &mut Value) -> Vec<String> {
        let mut copy = value.clone();
        match decode::decode(&self.root, &mut copy) {
            Ok(unknown) => {
                *value = copy;
                unknown
            }
            Err(_) => Vec::new(),
        }
    }

    /// Fills in static defaults, and `null` where upstream writes one.
    pub fn default(&self, value: &mut Value) {
        default::default(&self.root, value);
    }

    /// What a new object of this type looks like in Go; `{}` for custom resources.
    #[must_use]
    pub fn zero(&self) -> Value {
        default::zero(&self.root)
    }

    /// What Go writes for one field of such an object; `None` if it leaves it out.
    #[must_use]
    pub fn zero_of(&self, field: &str) -> Option<Value> {
        self.root.field(field).filter(|_| self.root.typed).and_then(default::zero_of)
    }

    /// What is wrong with `value`: by its structure, and if that is sound by its CEL rules.
    ///
    /// Parts that equal their counterpart in `old` are not judged again, so that a rule that
    /// became stricter does not stop unrelated updates (KEP-4008).
    #[must_use]
    pub fn validate(&self, value: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = validate::validate(&self.root, value, old);
        if !self.root.has_cel {
            return causes;
        }
        // Rules rely on types and sizes being right.
        let blocks = |cause: &Cause| {
            use Reason::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
            matches!(cause.reason, NotSupported | Required | TooLong | TooMany | TypeInvalid)
        };
        if causes.iter().any(blocks) {
            causes.push(Cause::invalid(
                "<nil>",
                &Value::Null,
                "some validation rules were not checked because the object was invalid; \
                 correct the existing errors to complete validation",
            ));
        } else {
            causes.extend(self.validate_rules(value, old));
        }
        causes
    }

    /// What its structure says of a default in it.
    pub(crate) fn validate_default(&self, value: &Value) -> Vec<Cause> {
        validate::validate_default(&self.root, value)
    }

    /// What the CEL rules (`x-kubernetes-validations`) alone say of `value`.
    #[must_use]
    pub fn validate_rules(&self, value: &Value, old: Option<&Value>) -> Vec<Cause> {
        cel::validate(&self.root, value, old)
    }
}

#[cfg(test)]
mod tests;
