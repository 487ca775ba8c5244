//! kube-proxy: makes Services reachable on its node.
//!
//! [`plan`] turns Services and EndpointSlices into [`plan::ServicePort`]s, which know nothing of rules;
//! [`nft`] turns those into one nftables table a family. Another mode (iptables, IPVS) would stand beside `nft`
//! and take the same list.
//!
//! It is a loop and no per-object reconciler: all Services share one table, changed in one transaction, so the
//! thing to reconcile is the table. Rules stay in the kernel when the process ends, and traffic goes on.

pub mod nft;
pub mod plan;
mod sync;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kit::{Flag, Player, Stage, rules};

/// Name of the nftables tables unless `--table` says otherwise.
pub const TABLE: &str = "improv-proxy";

/// The player, as the kit runs it: one on every node.
pub static PLAYER: Player = Player::new("proxy", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
    .source("kube-proxy")
    .crds(&["endpointslices.discovery.k8s.io.yaml"])
    .flags(&[
        Flag { name: "node-name", help: "The node whose traffic it directs", default: "" },
        Flag {
            name: "cluster-cidr",
            help: "Pod addresses, comma-separated; what comes from elsewhere to a Service is masqueraded",
            default: "10.244.0.0/16",
        },
        Flag { name: "table", help: "Name of the nftables tables that it owns", default: TABLE },
    ])
    .on_every_node()
    .rules(player_rules);

fn player_rules() -> Vec<PolicyRule> {
    vec![
        rules::rule("", &["services"], rules::READ),
        rules::rule("discovery.k8s.io", &["endpointslices"], rules::READ),
    ]
}

async fn run(stage: Stage) -> Result<(), kit::Error> {
    let cidrs: String = stage.option("cluster-cidr")?;
    let cidrs: Vec<String> =
        cidrs.split(',').filter(|cidr| !cidr.is_empty()).map(str::to_owned).collect();
    let table: String = stage.option("table")?;
    let sync = sync::Sync {
        services: stage.reflectors.get::<Service>(),
        slices: stage.reflectors.get::<EndpointSlice>(),
        node: stage.option("node-name")?,
        tables: nft::apply::Tables::new(&table, &cidrs),
        applied: Vec::new(),
    };
    sync.services.ready().await?;
    sync.slices.ready().await?;
    sync.run(stage.metrics, stage.shutdown).await;
    Ok(())
}
