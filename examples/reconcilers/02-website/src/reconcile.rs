//! Observe, apply, write the status, clean up: all the I/O.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service},
};
use kit::{RESYNC, ReconcileError, Requeue, chain, conditions, owner, patch};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::finalizer::{self, Event, finalizer},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::info;

use crate::{
    Context, Website, events,
    plan::{self, Observed, READY},
};

/// Holds a deleted website until its line in the directory is gone.
pub const FINALIZER: &str = "examples.improv.dev/directory";

/// What can go wrong in a reconcile.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object could not be written.
    #[error("failed to write the {what}")]
    Write {
        /// Which.
        what: &'static str,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The finalizer could not be set or taken away.
    #[error("failed to write the finalizer")]
    Finalizer {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ReconcileError for Error {
    fn kind(&self) -> &'static str {
        match self {
            Self::Write { what, .. } => what,
            Self::Finalizer { .. } => "finalizer",
        }
    }
}

/// Brings one website a step nearer to what it asks for, or takes it out of the directory.
///
/// # Errors
/// See [`Error`]; the status is written even then.
pub async fn reconcile(website: Arc<Website>, ctx: Arc<Context>) -> Result<Requeue, Error> {
    let namespace = website.namespace().unwrap_or_default();
    let api: Api<Website> = Api::namespaced(ctx.stage.client.clone(), &namespace);
    // Sets the finalizer before anything else, so that nothing is left behind.
    let done = finalizer(&api, FINALIZER, website, async |event| match event {
        Event::Apply(website) => publish(website, &ctx).await,
        Event::Cleanup(website) => unpublish(&website, &ctx).await,
    });
    done.await.map_err(|error| match error {
        finalizer::Error::ApplyFailed(error) | finalizer::Error::CleanupFailed(error) => error,
        other => Error::Finalizer { source: other.into() },
    })
}

async fn publish(website: Arc<Website>, ctx: &Context) -> Result<Requeue, Error> {
    // What lives in the store has a UID.
    let Some(owner) = owner::controlled_by(&*website) else { return Ok(Requeue::await_change()) };
    let deployment = ctx.deployments.get(website.namespace().as_deref(), &website.name_any());
    let observed = Observed { owner, deployment, now: ctx.stage.clock.now(), website };
    let applied = apply(&observed, ctx).await;
    let failure = applied.as_ref().err().map(|error| chain(error));
    write_status(&observed, failure.as_deref(), ctx).await?;
    applied?;
    Ok(Requeue::requeue(RESYNC))
}

async fn apply(observed: &Observed, ctx: &Context) -> Result<(), Error> {
    let website = &observed.website;
    let parts = plan::plan(observed);
    let written = async {
        write_part::<ConfigMap>(ctx, website, "page", &parts.config_map).await?;
        write_part::<Deployment>(ctx, website, "deployment", &parts.deployment).await?;
        write_part::<Service>(ctx, website, "service", &parts.service).await?;
        write_line(ctx, website, Some(plan::url(website))).await
    };
    let written = written.await;
    if let Err(Error::Write { what, source }) = &written {
        ctx.stage.recorder.publish(&**website, events::failed(what, &chain(&**source)));
    }
    written
}

/// Server-side apply; nothing is sent to watchers if it changes nothing.
async fn write_part<K>(
    ctx: &Context,
    website: &Website,
    what: &'static str,
    part: &Value,
) -> Result<(), Error>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let namespace = website.namespace().unwrap_or_default();
    let api: Api<K> = Api::namespaced(ctx.stage.client.clone(), &namespace);
    let params = PatchParams::apply(ctx.stage.player.name).force();
    let applied = api.patch(&website.name_any(), &params, &Patch::Apply(part)).await;
    applied.map(drop).map_err(|source| Error::Write { what, source: Box::new(source) })
}

/// Puts the website's line into the directory, or takes it out.
///
/// Each website is a field manager of its own: it owns its line and nobody else's.
async fn write_line(ctx: &Context, website: &Website, url: Option<String>) -> Result<(), Error> {
    let (namespace, directory) = &ctx.directory;
    let line = format!("{}.{}", website.namespace().unwrap_or_default(), website.name_any());
    let data = url.map_or_else(|| json!({}), |url| json!({ line: url }));
    let whole = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": directory, "namespace": namespace },
        "data": data,
    });
    let api: Api<ConfigMap> = Api::namespaced(ctx.stage.client.clone(), namespace);
    let manager = format!("website-{}", website.uid().unwrap_or_default());
    let applied =
        api.patch(directory, &PatchParams::apply(&manager).force(), &Patch::Apply(whole)).await;
    applied.map(drop).map_err(|source| Error::Write { what: "directory", source: Box::new(source) })
}

async fn unpublish(website: &Website, ctx: &Context) -> Result<Requeue, Error> {
    write_line(ctx, website, None).await?;
    info!(website = website.name_any(), "website taken out of the directory");
    Ok(Requeue::await_change()) // The garbage collector deletes the parts.
}

async fn write_status(
    observed: &Observed,
    failure: Option<&str>,
    ctx: &Context,
) -> Result<(), Error> {
    let website = &observed.website;
    let api: Api<Website> =
        Api::namespaced(ctx.stage.client.clone(), &website.namespace().unwrap_or_default());
    let (before, after) = (website.status.as_ref(), plan::status(observed, failure));
    patch::patch_status(&api, website, before, &after)
        .await
        .map_err(|source| Error::Write { what: "status", source: Box::new(source) })?;
    let was_ready = before.is_some_and(|status| conditions::is_true(&status.conditions, READY));
    if !was_ready && conditions::is_true(&after.conditions, READY) {
        ctx.stage.recorder.publish(&**website, events::published(&plan::url(website)));
    }
    Ok(())
}
