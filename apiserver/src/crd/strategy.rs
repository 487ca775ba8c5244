//! The rules of CustomResourceDefinitions themselves.

use schema::Cause;
use serde_json::{Value, json};

use super::{CLEANUP, names, warnings};
use crate::status::ApiError;
use crate::types::{Ctx, Strategy, conditions};
use crate::write::now;

/// Strategy of `customresourcedefinitions`.
pub struct Definitions;

impl Strategy for Definitions {
    fn default(&self, obj: &mut Value) {
        let names = &mut obj["spec"]["names"];
        let kind = names["kind"].as_str().filter(|kind| !kind.is_empty()).map(str::to_owned);
        if let Some(kind) = kind {
            if names["singular"].as_str().is_none_or(str::is_empty) {
                names["singular"] = kind.to_lowercase().into();
            }
            if names["listKind"].as_str().is_none_or(str::is_empty) {
                names["listKind"] = format!("{kind}List").into();
            }
        }
        let unset = obj["status"]["storedVersions"].as_array().is_none_or(Vec::is_empty);
        // Before the first acceptance of its names a definition has no status of its own yet.
        if unset
            && obj["status"]["conditions"].is_array()
            && let Some(stored) = stored_version(obj)
        {
            obj["status"]["storedVersions"] = json!([stored]);
        }
        if obj["spec"]["conversion"].is_null() {
            obj["spec"]["conversion"] = json!({"strategy": "None"});
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        let stored: Vec<Value> = stored_version(obj).into_iter().collect();
        obj["status"] = json!({
            "conditions": null,
            "acceptedNames": {"plural": "", "kind": ""},
            "storedVersions": if stored.is_empty() { Value::Null } else { stored.into() },
        });
        Ok(())
    }

    fn prepare_update(
        &self,
        _ctx: &Ctx<'_>,
        obj: &mut Value,
        _old: &Value,
        subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        if subresource.is_none()
            && let Some(stored) = stored_version(obj)
            && let Some(known) = obj["status"]["storedVersions"].as_array_mut()
            && !known.contains(&stored)
        {
            known.push(stored);
        }
        Ok(())
    }

    fn counts_generation(&self) -> bool {
        true
    }

    fn unconditional_updates(&self) -> bool {
        false
    }

    fn judges(&self, field: &str) -> bool {
        ["additionalPrinterColumns", "subresources", "selectableFields"]
            .iter()
            .any(|part| field.starts_with("spec.versions[") && field.contains(part))
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        super::validate::definition(obj, old, subresource == Some("status"))
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::unknown_formats(&obj["spec"], old.map(|old| &old["spec"]))
    }

    fn deletes_plainly(&self) -> bool {
        true
    }

    fn prepare_delete(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        let held = obj["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|f| f.iter().any(|x| x == CLEANUP));
        let terminating = conditions::is_true(obj, "Terminating");
        if !held && !terminating {
            match obj["metadata"]["finalizers"].as_array_mut() {
                Some(finalizers) => finalizers.push(CLEANUP.into()),
                None => obj["metadata"]["finalizers"] = json!([CLEANUP]),
            }
            let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
            let condition =
                names::condition("Terminating", true, "InstanceDeletionPending", message, &now());
            conditions::set(&mut obj["status"], condition);
        }
        Ok(())
    }
}

fn stored_version(obj: &Value) -> Option<Value> {
    let versions = obj["spec"]["versions"].as_array()?;
    versions.iter().find(|v| v["storage"] == true).map(|v| v["name"].clone())
}
