//! garbage-collector-controller: deletes what nobody owns any more.
//!
//! It watches the metadata of everything that can be deleted, whatever its type: what is served is
//! discovered, and custom types join and leave as their definitions do. From that it keeps the
//! [`graph`] of who owns whom. Each change names the few objects that it concerns; the pure
//! [`plan()`](plan::plan) says what has to be done about each, and [`reconcile`] does it.
//!
//! It is one loop over one graph, since what happens to an object depends on its owners and
//! dependents of other types. An owner that the graph lacks is asked for before anything is
//! deleted, and every write names the uid and resourceVersion that it was decided on, so a cache
//! that is behind delays a deletion but never makes a wrong one.

pub mod events;
pub mod graph;
mod monitor;
pub mod plan;
pub mod reconcile;
mod work;

use k8s_openapi::api::rbac::v1::PolicyRule;
use kit::{Player, rules};

/// The controller as a player.
pub static PLAYER: Player = Player::new("garbage-collector", env!("CARGO_PKG_VERSION"), |stage| {
    Box::pin(reconcile::run(stage))
})
.source("garbage-collector-controller")
.rules(rules);

fn rules() -> Vec<PolicyRule> {
    vec![rules::rule("*", &["*"], &["get", "list", "watch", "patch", "update", "delete"])]
}
