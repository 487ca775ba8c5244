//! `improv bench api`: what an API server can do, measured the same way on any Kubernetes API server.
//!
//! Each phase is a closed loop: every worker has one connection and sends its next request when it has the answer to
//! the one before. Bodies are made once and only their names and numbers are written over, so that the load generator
//! takes little of the processors that it may share with the server.

mod arguments;
mod bodies;
mod connection;
mod fan_out;
mod load;
mod phases;
mod report;
mod setup;
mod target;

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
    report.print(arguments.json)?;
    ended.and(removed)
}
