//! bootstrap-token-controller: lets new nodes find and trust the cluster by the token that they were given.
//!
//! It signs the ConfigMap `cluster-info` with each bootstrap token, and deletes tokens that are over. Upstream
//! splits this between bootstrap-signer-controller and token-cleaner-controller.

pub mod jws;
pub mod plan;
mod reconcile;
pub mod token;

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kit::{Controller, Player, Reflector, Stage, rules};
use kube::Api;
use kube::runtime::{reflector::ObjectRef, watcher};

/// The controller as a player.
pub static PLAYER: Player =
    Player::new("bootstrap-token", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
        .source("bootstrap-token-controller")
        .rules_in(rules_in);

/// Secrets of one namespace, one ConfigMap of another; nothing elsewhere.
fn rules_in() -> Vec<(&'static str, Vec<PolicyRule>)> {
    let secrets = rules::rule("", &["secrets"], &["get", "list", "watch", "delete"]);
    let mut cluster_info = rules::rule("", &["configmaps"], &["get", "list", "watch", "update"]);
    cluster_info.resource_names = Some(vec![plan::CLUSTER_INFO.to_owned()]);
    vec![(token::NAMESPACE, vec![secrets]), (plan::PUBLIC, vec![cluster_info])]
}

/// What outlives one reconcile.
pub(crate) struct Context {
    pub(crate) stage: Stage,
    /// Secrets with bootstrap tokens.
    pub(crate) tokens: Reflector<Secret>,
}

async fn run(stage: Stage) -> Result<(), kit::Error> {
    let tokens = watcher::Config::default().fields(&format!("type={}", token::TYPE));
    let secrets = Api::namespaced(stage.client.clone(), token::NAMESPACE);
    let tokens: Reflector<Secret> = Reflector::start(secrets, tokens);
    let named = watcher::Config::default().fields(&format!("metadata.name={}", plan::CLUSTER_INFO));
    let maps = Api::namespaced(stage.client.clone(), plan::PUBLIC);
    let maps: Reflector<ConfigMap> = Reflector::start(maps, named);
    let context = Arc::new(Context { stage: stage.clone(), tokens: tokens.clone() });
    let touched = tokens.touched();
    let cluster_info = |_| ObjectRef::<ConfigMap>::new(plan::CLUSTER_INFO).within(plan::PUBLIC);
    let sign = Controller::over(&stage, &maps).needs(&tokens).wakes_on(touched.map(cluster_info));
    let clean = Controller::over(&stage, &tokens);
    futures::try_join!(
        sign.run(context.clone(), reconcile::sign),
        clean.run(context, reconcile::clean),
    )?;
    Ok(())
}
