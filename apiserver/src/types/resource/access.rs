//! Who may use devices that others use: namespaces that an administrator marked.
//!
//! Source: upstream's `pkg/registry/resource/utils.go`; KEP-5018.

use serde_json::Value;

use super::super::Ctx;
use super::super::check::{flag, items};
use crate::status::{ApiError, Cause};

/// Label of namespaces whose claims may ask for it.
const LABEL: &str = "resource.kubernetes.io/admin-access";

/// The first request that asks for it; those with alternatives cannot.
pub(super) fn of_requests(devices: &Value) -> Option<String> {
    let asks = |request: &Value| flag(&request["exactly"], "adminAccess");
    let at = items(&devices["requests"]).iter().position(asks)?;
    Some(format!("spec.devices.requests[{at}].adminAccess"))
}

/// The first device that was allocated so.
pub(super) fn of_results(status: &Value) -> Option<String> {
    let results = items(&status["allocation"]["devices"]["results"]);
    let at = results.iter().position(|result| flag(result, "adminAccess"))?;
    Some(format!("status.allocation.devices.results[{at}].adminAccess"))
}

/// Refuses what asks for it at `field`, unless the namespace is marked.
pub(super) fn check(ctx: &Ctx<'_>, obj: &Value, field: Option<String>) -> Result<(), ApiError> {
    let Some(field) = field else { return Ok(()) };
    let registry = ctx.core.registry();
    let cache = registry.find("", "namespaces").and_then(|namespaces| namespaces.cache());
    let namespace = cache.and_then(|cache| cache.get(None, &ctx.request.namespace));
    if namespace.is_some_and(|namespace| namespace.labels().get(LABEL) == Some("true")) {
        return Ok(());
    }
    let why = format!(
        "admin access to devices requires the `{LABEL}: true` label on the containing namespace"
    );
    Err(ctx.invalid(obj, vec![Cause::forbidden(field, &why)]))
}
