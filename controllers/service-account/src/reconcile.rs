//! Observe, plan, apply, for one namespace. All the I/O is here.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kit::{CallError, RESYNC, Requeue};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use tracing::info;

use crate::Context;
use crate::plan::{self, Action, Observed};

pub(crate) async fn reconcile(
    namespace: Arc<Namespace>,
    context: Arc<Context>,
) -> Result<Requeue, CallError> {
    let observed = observe(&namespace, &context);
    for action in plan::plan(&observed) {
        apply(&context, &observed.namespace, action).await?;
    }
    Ok(Requeue::requeue(RESYNC))
}

fn observe(namespace: &Namespace, context: &Context) -> Observed {
    let name = namespace.name_any();
    Observed {
        is_active: namespace.metadata.deletion_timestamp.is_none(),
        has_account: context.accounts.get(Some(&name), plan::ACCOUNT).is_some(),
        config_map: context.config_maps.get(Some(&name), plan::CONFIG_MAP),
        root_ca: context.root_ca.clone(),
        namespace: name,
    }
}

async fn apply(context: &Context, namespace: &str, action: Action) -> Result<(), CallError> {
    let client = || context.stage.client.clone();
    let accounts = Api::<ServiceAccount>::namespaced(client(), namespace);
    let config_maps = Api::<ConfigMap>::namespaced(client(), namespace);
    let params = PostParams::default();
    let (operation, what, written) = match action {
        Action::CreateAccount(account) => {
            ("create", "ServiceAccount", accounts.create(&params, &account).await.map(drop))
        }
        Action::CreateConfigMap(map) => {
            ("create", "ConfigMap", config_maps.create(&params, &map).await.map(drop))
        }
        Action::UpdateConfigMap(map) => (
            "update",
            "ConfigMap",
            config_maps.replace(&map.name_any(), &params, &map).await.map(drop),
        ),
    };
    match written {
        Ok(()) => info!(namespace, operation, what, "namespace equipped"),
        // The cache is behind; its event wakes us.
        Err(kube::Error::Api(status)) if status.is_already_exists() => (),
        Err(source) => {
            let what = format!("{what} in namespace {namespace}");
            return Err(CallError::new(operation, what, source));
        }
    }
    Ok(())
}
