//! The chart is the one of the operator, with its rights and its type: `UPDATE=1 cargo test -p website-operator`
//! writes it.

use std::path::Path;

use kit::chart::{Chart, Workload, to_yaml};

#[test]
fn the_committed_chart_is_up_to_date() {
    let chart = Chart {
        player: &website_operator::PLAYER,
        description: "Serves Websites: a page, its pods, and a Service",
        workload: Workload::Deployment,
    };
    let crd = to_yaml(&website_operator::crd()).unwrap();
    let files = chart.files(&[("websites.examples.improv.dev.yaml".to_owned(), crd)]).unwrap();
    kit::testing::committed(&Path::new(env!("CARGO_MANIFEST_DIR")).join("chart"), &files);
}
