//! What every player stands on, thin over `kube::runtime`.
//!
//! A player is a crate with a [`Player`], a `reconcile` that observes, plans and applies, and one
//! line of `main`. In short (`controllers/replicaset` is the model to copy, `examples/reconcilers`
//! the ones to learn from):
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
//! use k8s_openapi::api::rbac::v1::PolicyRule;
//! use kit::{Controller, Event, Player, RESYNC, ReconcileError, Reflector, Requeue, Stage, rules};
//!
//! /// Name (also of Lease, Component, service account, chart and image), version, and how to run.
//! pub static PLAYER: Player =
//!     Player::new("replicaset", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
//!         .source("replicaset-controller") // What `kubectl describe` shows in "From".
//!         .crds(&["replicasets.apps.yaml"])
//!         .rules(rules);
//!
//! fn rules() -> Vec<PolicyRule> {
//!     vec![
//!         rules::rule("apps", &["replicasets"], rules::READ),
//!         rules::rule("", &["pods"], &["get", "list", "watch", "create", "delete", "patch"]),
//!     ] // Leases, events and the Component are added for every player.
//! }
//!
//! /// Called each time this process becomes the leader; returns after `stage.shutdown`.
//! async fn run(stage: Stage) -> Result<(), kit::Error> {
//!     let context = Arc::new(Context { pods: stage.reflectors.get(), stage: stage.clone() });
//!     Controller::<ReplicaSet>::new(&stage) // Wakes for each ReplicaSet …
//!         .owns::<Pod>() //                    … and for the one that controls a changed Pod.
//!         .run(context, reconcile)
//!         .await
//! }
//!
//! struct Context {
//!     pods: Reflector<Pod>, // Shared with all players of the process; read-only.
//!     stage: Stage,
//! }
//!
//! async fn reconcile(rs: Arc<ReplicaSet>, context: Arc<Context>) -> Result<Requeue, Error> {
//!     let uid = rs.metadata.uid.as_deref().unwrap_or_default();
//!     let pods = context.pods.controlled_by(uid); // observe …
//!     // … plan (pure), apply …
//!     context.stage.recorder.publish(&*rs, Event::normal("Counted", format!("{} pods", pods.len())));
//!     Ok(Requeue::requeue(RESYNC))
//! }
//!
//! #[derive(Debug, thiserror::Error)]
//! #[error("failed to count")]
//! struct Error;
//!
//! impl ReconcileError for Error {
//!     fn kind(&self) -> &'static str {
//!         "count"
//!     }
//! }
//!
//! // main.rs: fn main() -> std::process::ExitCode { kit::main(&replicaset_controller::PLAYER) }
//! ```
//!
//! What else there is:
//!
//! - [`Reflectors`], [`Reflector`]: one cache a type and process, with indexes, change streams that
//!   tell about deletions, and `PartialObjectMeta<K>` where metadata suffice.
//! - [`Writes`]: act only on a cache that shows our own last writes.
//! - [`slow_start()`], [`patch`] (minimal status writes), [`pods`], [`services`],
//!   [`owner`], [`conditions`], [`backoff`].
//! - [`lease`]: election with rank; [`component`]: `kubectl get components`; [`events`], [`metrics`],
//!   [`health`], [`clock`], [`tasks`], [`rules`].
//! - [`chart`]: a player's Helm chart, with the rights of its `rules()`.
//! - [`testing`] starts, stops and kills players on `apiserver::testing::TestServer`.
//! - [`main`] runs a player alone, [`run_in_process`] beside others.
//!
//! Logs of a player go through `tracing`: a constant message and fields.

pub mod backoff;
pub mod call;
pub mod chart;
pub mod claim;
pub mod clock;
pub mod component;
pub mod conditions;
pub mod events;
pub mod health;
pub mod lease;
pub mod metrics;
pub mod owner;
pub mod patch;
pub mod pods;
pub mod reflector;
pub mod rules;
pub mod services;
pub mod slow_start;
pub mod tasks;
pub mod testing;

mod controller;
mod error;
mod player;
mod process;
mod writes;

pub use call::CallError;
pub use clock::{Clock, RealClock, SteppedClock};
pub use controller::{CACHE_LAG, Controller, RESYNC, ReconcileError};
pub use error::{Error, chain};
pub use events::{Event, Recorder};
pub use kube::runtime::controller::Action as Requeue;
pub use metrics::{Metrics, Registry};
pub use player::{Flag, Options, Player, Run, Stage};
pub use process::{InProcess, main, run_in_process, termination};
pub use reflector::{Change, Reflected, Reflector, Reflectors};
pub use slow_start::slow_start;
pub use tasks::Tasks;
pub use writes::Writes;
