//! `componentstatuses`: how the parts of the control plane are that the server can speak for, which is its store.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::negotiate::Shape;
use super::{Call, respond};
use crate::status::{ApiError, GroupResource};
use crate::table;

/// The name under which upstream tells of the store.
const STORE: &str = "etcd-0";

/// Answers GET.
///
/// # Errors
/// There is no such component.
pub(super) async fn get(call: &Call<'_>) -> Result<Response, ApiError> {
    if call.info.name != STORE {
        return Err(ApiError::NotFound {
            resource: GroupResource::new("", "componentstatus"),
            name: call.info.name.clone(),
        });
    }
    let mut component = store(call).await;
    component["kind"] = call.resource.kind.clone().into();
    component["apiVersion"] = call.resource.api_version().into();
    respond::object(
        call.resource,
        &call.output,
        &call.query,
        StatusCode::OK,
        component.to_string().into(),
    )
}

/// Answers LIST.
///
/// # Errors
/// The list cannot take the agreed shape.
pub(super) async fn list(call: &Call<'_>) -> Result<Response, ApiError> {
    let component = store(call).await;
    let body: Bytes = match &call.output.shape {
        Shape::Table(version) => {
            let include = respond::include_object(&call.query)?;
            let meta = table::ListMeta::default();
            table::render(
                call.resource,
                &[component.to_string().into()],
                include,
                version,
                &meta,
                true,
            )
        }
        _ => json!({
            "kind": call.resource.list_kind,
            "apiVersion": call.resource.api_version(),
            "metadata": {},
            "items": [component],
        })
        .to_string()
        .into(),
    };
    Ok(respond::formatted(&call.output, StatusCode::OK, body))
}

/// The store, asked for a key that it need not have.
async fn store(call: &Call<'_>) -> Value {
    let condition = match call.core.store().get("/registry/health").await {
        Ok(_) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(error) => {
            json!({"type": "Healthy", "status": "False", "message": "", "error": error.to_string()})
        }
    };
    json!({"metadata": {"name": STORE}, "conditions": [condition]})
}
