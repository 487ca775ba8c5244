//! serviceaccount-controller: gives every namespace what its pods need to talk to the API server.
//!
//! That is the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`; both come back when
//! they are deleted, and the latter is corrected when it is changed. Upstream splits this between
//! serviceaccount-controller and root-ca-certificate-publisher-controller.

pub mod plan;
mod reconcile;

use std::sync::Arc;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kit::{Controller, Flag, Player, Reflected, Reflector, Stage, rules};
use kube::runtime::{reflector::ObjectRef, watcher};
use kube::{Api, ResourceExt};
use tracing::warn;

/// The controller as a player.
pub static PLAYER: Player =
    Player::new("service-account", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
        .source("service-account-controller")
        .flags(&FLAGS)
        .rules(rules);

static FLAGS: [Flag; 2] = [
    Flag {
        name: "root-ca-file",
        help: "PEM file with the certificate authority that pods shall trust; otherwise the one that this pod trusts",
        default: "",
    },
    Flag { name: "root-ca", help: "The same as text, instead of a file", default: "" },
];

/// Where a pod finds the certificate authority of its own cluster.
const IN_CLUSTER: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

fn rules() -> Vec<PolicyRule> {
    let named = |mut rule: PolicyRule, name: &str| {
        rule.resource_names = Some(vec![name.to_owned()]);
        rule
    };
    vec![
        rules::rule("", &["namespaces"], rules::READ),
        rules::rule("", &["serviceaccounts", "configmaps"], &["create"]), // Cannot be limited to a name.
        named(rules::rule("", &["serviceaccounts"], rules::READ), plan::ACCOUNT),
        named(
            rules::rule("", &["configmaps"], &["get", "list", "watch", "update"]),
            plan::CONFIG_MAP,
        ),
    ]
}

/// What outlives one reconcile.
pub(crate) struct Context {
    pub(crate) stage: Stage,
    /// Only those named `default`.
    pub(crate) accounts: Reflector<ServiceAccount>,
    /// Only those named `kube-root-ca.crt`.
    pub(crate) config_maps: Reflector<ConfigMap>,
    pub(crate) root_ca: Option<Arc<str>>,
}

async fn run(stage: Stage) -> Result<(), kit::Error> {
    let root_ca = root_ca(&stage)?;
    if root_ca.is_none() {
        warn!("no --root-ca-file, and not in a pod: kube-root-ca.crt is not published");
    }
    let context = Arc::new(Context {
        accounts: named(&stage, plan::ACCOUNT),
        config_maps: named(&stage, plan::CONFIG_MAP),
        root_ca,
        stage: stage.clone(),
    });
    Controller::<Namespace>::new(&stage)
        .needs(&context.accounts)
        .needs(&context.config_maps)
        .wakes_on(namespaces(&context.accounts))
        .wakes_on(namespaces(&context.config_maps))
        .run(context, reconcile::reconcile)
        .await
}

fn root_ca(stage: &Stage) -> Result<Option<Arc<str>>, kit::Error> {
    let (text, file): (String, String) = (stage.option("root-ca")?, stage.option("root-ca-file")?);
    if !text.is_empty() {
        return Ok(Some(text.into()));
    }
    if file.is_empty() {
        return Ok(std::fs::read_to_string(IN_CLUSTER).ok().map(Arc::from));
    }
    let read = std::fs::read_to_string(&file);
    let read = read.map_err(|error| kit::Error::Option {
        option: "root-ca-file",
        value: file,
        reason: error.to_string(),
    })?;
    Ok(Some(read.into()))
}

/// A cache of the objects of one name in all namespaces: the others are none of our business.
fn named<K: Reflected>(stage: &Stage, name: &str) -> Reflector<K> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    Reflector::start(Api::all(stage.client.clone()), config)
}

fn namespaces<K: Reflected>(
    reflector: &Reflector<K>,
) -> impl Stream<Item = ObjectRef<Namespace>> + Send + 'static {
    let touched = reflector.touched();
    touched.map(|object| ObjectRef::new(&object.namespace().unwrap_or_default()))
}
