//! `improv bench api`: what an API server can do, measured the same way on any Kubernetes API server.
//!
//! Each phase is a closed loop: every worker has one connection and sends its next request when it has the answer to
//! the one before. Bodies are made once and only their names and numbers are written over, so that the load generator
//! takes little of the processors that it may share with the server.

mod answer;
mod arguments;
mod bodies;
mod connection;
mod fan_out;
mod load;
mod phases;
mod report;
mod setup;
mod target;
mod tls;

use anyhow::{Context, bail};

pub(crate) use arguments::{Api, Bench};

use crate::bench::report::Report;
use crate::bench::target::Target;

/// Runs a benchmark.
///
/// # Errors
/// If the server cannot be reached, refuses what the benchmark needs, or is not on this machine.
pub(crate) fn run(bench: &Bench) -> anyhow::Result<()> {
    let Bench::Api(arguments) = bench;
    let mut runtime = match arguments.threads {
        // Without a second thread nothing has to be woken across processors.
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(arguments.threads.max(1)).enable_all().build()?;
    runtime.block_on(api(arguments))
}

async fn api(arguments: &Api) -> anyhow::Result<()> {
    let (report, ended) = measure(arguments).await?;
    report.print(arguments.json)?;
    ended
}

/// What was measured, and what ended it.
async fn measure(arguments: &Api) -> anyhow::Result<(Report, anyhow::Result<()>)> {
    let target = Target::open(arguments.kubeconfig.as_deref()).await?;
    if !target.is_loopback() && !arguments.allow_remote {
        bail!(
            "{} is not on this machine; --allow-remote puts load on it all the same",
            target.address
        );
    }
    let mut report = Report::begin(arguments, &target).await?;
    let namespace = setup::Namespace::make(&target).await?;
    let ended = tokio::select! {
        ended = phases::run(arguments, &target, &namespace.name, &mut report) => ended,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let removed =
        namespace.remove(&target).await.context("cannot remove the benchmark's namespace");
    Ok((report, ended.and(removed)))
}

#[cfg(test)]
mod tests {
    use apiserver::testing::TestServer;
    use clap::Parser as _;
    use serde_json::Value;

    use super::*;

    const SOME: &[&str] = &[
        "--workers=3",
        "--pods=20",
        "--requests=40",
        "--limit=7",
        "--seconds=1",
        "--watchers=5",
        "--saturating-watchers=4",
    ];

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        api: Api,
    }

    /// The rows that a benchmark of a server of its own prints.
    async fn rows(encoding: &str) -> Vec<Value> {
        let server = TestServer::builder().with_socket().start().await.unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), server.server().kubeconfig("system:admin").unwrap()).unwrap();
        let server = format!("--kubeconfig={}", file.path().display());
        let encoding = format!("--encoding={encoding}");
        let line = ["bench", &server, &encoding].into_iter().chain(SOME.iter().copied());
        let (report, ended) = measure(&Line::parse_from(line).api).await.unwrap();
        ended.unwrap();
        serde_json::to_value(&report).unwrap()["phases"].as_array().unwrap().clone()
    }

    #[tokio::test]
    async fn every_phase_has_its_answers() {
        let (json, protobuf) = futures::join!(rows("json"), rows("protobuf"));
        for rows in [json, protobuf] {
            let phases: Vec<_> = rows.iter().map(|row| row["phase"].as_str().unwrap()).collect();
            let all = "create get list page status apply watch saturate mixed delete";
            assert_eq!(phases.join(" "), all);
            for row in &rows {
                assert_eq!(row["errors"], 0, "{row}");
                assert!(row["megabytesPerSecond"].as_f64().unwrap() > 0.0, "{row}");
            }
            assert_eq!([&rows[0]["count"], &rows[1]["count"]], [20, 40]);
            // Each write reaches all watchers.
            assert_eq!(rows[6]["count"].as_u64().unwrap() % 5, 0);
            assert_eq!(rows[7]["count"].as_u64().unwrap() % 4, 0);
        }
    }
}
