//! The smallest reconciler: it greets.
//!
//! Every ConfigMap with the label `hello.examples.improv.dev/name` gets a greeting in its data.

use std::sync::Arc;

use k8s_openapi::api::{core::v1::ConfigMap, rbac::v1::PolicyRule};
use kit::{Controller, Event, Player, RESYNC, ReconcileError, Requeue, Stage, rules};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

/// Whom to greet.
pub const NAME: &str = "hello.examples.improv.dev/name";

/// Name, version, how to run, and the rights it needs.
pub static PLAYER: Player =
    Player::new("hello-reconciler", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
        .rules(rules);

fn rules() -> Vec<PolicyRule> {
    vec![rules::rule("", &["configmaps"], &["list", "watch", "patch"])]
}

async fn run(stage: Stage) -> Result<(), kit::Error> {
    let context = Arc::new(stage.clone());
    Controller::<ConfigMap>::new(&stage).run(context, reconcile).await
}

/// Observe, plan, apply. It is called for each ConfigMap, after each change, and now and then.
async fn reconcile(map: Arc<ConfigMap>, stage: Arc<Stage>) -> Result<Requeue, Error> {
    if let Some(greeting) = plan(&map) {
        let maps: Api<ConfigMap> =
            Api::namespaced(stage.client.clone(), &map.namespace().unwrap_or_default());
        let patch = Patch::Merge(json!({ "data": { "greeting": greeting } }));
        maps.patch(&map.name_any(), &PatchParams::default(), &patch).await.map_err(Error)?;
        stage.recorder.publish(&*map, Event::normal("Greeted", greeting));
    }
    Ok(Requeue::requeue(RESYNC))
}

/// The greeting that is missing; `None` if all is said. No I/O, so it is tested in microseconds.
fn plan(map: &ConfigMap) -> Option<String> {
    let greeting = format!("Hello, {}!", map.labels().get(NAME)?);
    let said = map.data.as_ref().and_then(|data| data.get("greeting"));
    (said != Some(&greeting)).then_some(greeting)
}

/// The greeting could not be written; the kit tries again, later and later.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the greeting")]
struct Error(#[source] kube::Error);

impl ReconcileError for Error {
    fn kind(&self) -> &'static str {
        "write"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: Option<&str>, said: Option<&str>, expected: Option<&str>) {
        let mut map = ConfigMap::default();
        map.labels_mut().extend(name.map(|name| (NAME.to_owned(), name.to_owned())));
        map.data = said.map(|said| [("greeting".to_owned(), said.to_owned())].into());
        assert_eq!(plan(&map).as_deref(), expected);
    }

    #[test]
    fn it_greets_once_and_only_who_is_named() {
        check(None, None, None);
        check(Some("Ada"), None, Some("Hello, Ada!"));
        check(Some("Ada"), Some("Hello, Ada!"), None);
        check(Some("Bob"), Some("Hello, Ada!"), Some("Hello, Bob!"));
    }
}
