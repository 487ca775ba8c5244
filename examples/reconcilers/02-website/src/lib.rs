//! An operator with a type of its own: a `Website` becomes a ConfigMap, a Deployment and a Service.
//!
//! It shows server-side apply, status conditions, events, watching only metadata where they
//! suffice, and a finalizer with a reason: every website has a line in a directory that all share
//! (`--directory`). Owner references delete objects, but nobody deletes a line for us.

mod api;
pub mod events;
mod plan;
mod reconcile;

use std::sync::Arc;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Service},
        rbac::v1::PolicyRule,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kit::{Controller, Flag, Player, Reflector, Stage, rules};
use kube::{CustomResourceExt, core::PartialObjectMeta};

pub use api::{Website, WebsiteSpec, WebsiteStatus};
pub use plan::{Observed, Parts, READY, plan, status};
pub use reconcile::{Error, FINALIZER, reconcile};

/// The operator.
pub static PLAYER: Player =
    Player::new("website-operator", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
        .rules(rules)
        .flags(&[Flag {
            name: "directory",
            help: "ConfigMap with a line for every website, as namespace/name",
            default: "default/websites",
        }]);

/// The CRD of [`Website`]; the chart brings it, as YAML.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    Website::crd()
}

fn rules() -> Vec<PolicyRule> {
    vec![
        rules::rule("examples.improv.dev", &["websites"], &["get", "list", "watch", "patch"]),
        rules::rule("examples.improv.dev", &["websites/status"], &["patch"]),
        rules::rule("examples.improv.dev", &["websites/finalizers"], &["update"]),
        rules::rule("", &["configmaps", "services"], &["list", "watch", "create", "patch"]),
        rules::rule("apps", &["deployments"], &["list", "watch", "create", "patch"]),
    ]
}

/// What outlives one reconcile.
pub struct Context {
    /// Client, recorder, clock.
    pub stage: Stage,
    /// All Deployments.
    pub deployments: Reflector<Deployment>,
    /// Namespace and name of the directory.
    pub directory: (String, String),
}

impl Context {
    /// The context of a term.
    ///
    /// # Errors
    /// [`kit::Error::Option`] if `--directory` is not `namespace/name`.
    pub fn new(stage: &Stage) -> Result<Self, kit::Error> {
        let directory: String = stage.option("directory")?;
        let Some((namespace, name)) = directory.split_once('/') else {
            let reason = "it must be namespace/name".to_owned();
            return Err(kit::Error::Option { option: "directory", value: directory, reason });
        };
        Ok(Self {
            stage: stage.clone(),
            deployments: stage.reflectors.get(),
            directory: (namespace.to_owned(), name.to_owned()),
        })
    }
}

async fn run(stage: Stage) -> Result<(), kit::Error> {
    let context = Arc::new(Context::new(&stage)?);
    Controller::<Website>::new(&stage)
        .owns::<Deployment>()
        // Whether these two changed is all we want to know, so their contents are not cached.
        .owns::<PartialObjectMeta<ConfigMap>>()
        .owns::<PartialObjectMeta<Service>>()
        .run(context, reconcile)
        .await
}
