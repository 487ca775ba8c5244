//! Objects that the server makes at its first start.

pub mod plan;
use serde_json::json;

use crate::server::{Server, StartError};

/// Makes the namespaces that every cluster has.
///
/// # Errors
/// [`StartError::Bootstrap`] names the object that was refused.
pub async fn install(server: &Server) -> Result<(), StartError> {
    use k8s_openapi::api::core::v1::Namespace;
    use kube::api::{Api, PostParams};
    let namespaces: Api<Namespace> =
        Api::all(server.client("system:apiserver", &["system:masters"]));
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": name}})).unwrap_or_default();
        match namespaces.create(&PostParams::default(), &namespace).await {
            Ok(_) => (),
            Err(kube::Error::Api(status)) if status.is_already_exists() => (),
            Err(error) => {
                return Err(StartError::Bootstrap {
                    what: format!("namespace {name}"),
                    error: crate::ApiError::internal(error),
                });
            }
        }
    }
    Ok(())
}
