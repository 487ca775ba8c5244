//! The chart is the one of the player, with its rights: `UPDATE=1 cargo test -p hello-reconciler` writes it.

use std::path::Path;

use kit::chart::{Chart, Workload};

#[test]
fn the_committed_chart_is_up_to_date() {
    let chart = Chart {
        player: &hello_reconciler::PLAYER,
        description: "Greets whoever a ConfigMap names",
        workload: Workload::Deployment,
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("chart");
    kit::testing::committed(&folder, &chart.files(&[]).unwrap());
}
