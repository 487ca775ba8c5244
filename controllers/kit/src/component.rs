//! `components.improv.dev`: what `kubectl get components` shows.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, CustomResource, CustomResourceExt,
    api::{Patch, PatchParams},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::{debug, warn};

use crate::{Clock, Metrics, Player, error::chain};

/// At most one write in this time.
const PACE: Duration = Duration::from_secs(10);

/// Without a change, one write in this time.
const HEARTBEAT: Duration = Duration::from_mins(1);

/// A part of the cluster that plays; it has no spec, each instance tells about itself.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "improv.dev",
    version = "v1",
    kind = "Component",
    plural = "components",
    singular = "component",
    shortname = "comp",
    status = "ComponentStatus",
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.version"}"#,
    printcolumn = r#"{"name":"Leader","type":"string","jsonPath":".status.leader"}"#,
    printcolumn = r#"{"name":"Ready","type":"boolean","jsonPath":".status.ready"}"#,
    printcolumn = r#"{"name":"Reconciles","type":"integer","jsonPath":".status.reconciles"}"#,
    printcolumn = r#"{"name":"Errors","type":"integer","jsonPath":".status.errors"}"#,
    printcolumn = r#"{"name":"Queue","type":"integer","jsonPath":".status.queue"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct ComponentSpec {}

/// What the playing instance tells about itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// Semantic version.
    pub version: String,
    /// Identity of the instance.
    pub leader: String,
    /// Whether it plays.
    pub ready: bool,
    /// Reconciles since the instance started.
    pub reconciles: u64,
    /// Failed reconciles since the instance started.
    pub errors: u64,
    /// Objects that wait for their reconcile.
    pub queue: i64,
    /// When the instance last told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Time>,
}

/// The CRD of [`Component`], for crds/.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    Component::crd()
}

/// Writes the Component of one player.
pub struct Reporter {
    /// May create and patch Components.
    pub client: Client,
    /// Who plays.
    pub player: &'static Player,
    /// Where.
    pub identity: Arc<str>,
    /// What it counts.
    pub metrics: Metrics,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Reporter {
    /// Tells at a calm pace, for ever: on change, at most every 10 s, and once a minute anyway.
    pub async fn run(&self) {
        let mut told: Option<(ComponentStatus, Duration)> = None;
        loop {
            let now = self.clock.elapsed();
            let status = self.status(true);
            let due = told
                .as_ref()
                .is_none_or(|(last, at)| *last != status || now.saturating_sub(*at) >= HEARTBEAT);
            // An absent CRD is tried again at the pace of the heartbeat.
            let pause = if due && !self.tell(status.clone(), told.is_none()).await {
                HEARTBEAT
            } else {
                PACE
            };
            if due && pause == PACE {
                told = Some((status, now));
            }
            self.clock.sleep(pause).await;
        }
    }

    /// Tells that this instance plays no longer; gives up after a second.
    pub async fn stop(&self) {
        let told = self.tell(self.status(false), false);
        tokio::time::timeout(Duration::from_secs(1), told).await.ok();
    }

    fn status(&self, ready: bool) -> ComponentStatus {
        ComponentStatus {
            version: self.player.version.to_owned(),
            leader: self.identity.to_string(),
            ready,
            reconciles: self.metrics.reconciles.get(),
            errors: self.metrics.n_errors(),
            queue: self.metrics.queue.get(),
            heartbeat: None,
        }
    }

    /// `<player>`, or `<player>-<identity>` for what plays on every node.
    fn name(&self) -> String {
        if self.player.elected {
            self.player.name.to_owned()
        } else {
            format!("{}-{}", self.player.name, self.identity)
        }
    }

    async fn tell(&self, mut status: ComponentStatus, create: bool) -> bool {
        status.heartbeat = Some(Time(self.clock.now()));
        match self.apply(status, create).await {
            Ok(()) => true,
            Err(kube::Error::Api(answer)) if answer.is_not_found() => {
                debug!("no components.improv.dev here");
                false
            }
            Err(error) => {
                warn!(error = chain(&error), "component was not written");
                false
            }
        }
    }

    async fn apply(&self, status: ComponentStatus, create: bool) -> Result<(), kube::Error> {
        let components: Api<Component> = Api::all(self.client.clone());
        let (name, params) = (self.name(), PatchParams::apply(self.player.name).force());
        let head = json!({ "apiVersion": "improv.dev/v1", "kind": "Component", "metadata": { "name": name } });
        if create {
            let mut component = head.clone();
            component["spec"] = json!({});
            components.patch(&name, &params, &Patch::Apply(component)).await?;
        }
        let mut component = head;
        component["status"] = json!(status);
        components.patch_status(&name, &params, &Patch::Apply(component)).await.map(drop)
    }
}
