//! `improv down`: stops a cluster, and removes all that it left on this machine.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::arguments::Down;
use crate::layout::Layout;
use crate::{node, process};

/// How long the cluster's process may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stops and removes; works from any state, and may be called again.
///
/// # Errors
/// The first thing that cannot be removed.
pub(crate) async fn down(arguments: &Down) -> anyhow::Result<()> {
    let layout = Layout::new(&arguments.which.data_dir);
    process::stop(&layout, PATIENCE).await;
    node::clean_up(&layout).await.context("cannot remove what the node left")?;
    let table = layout.named(kube_proxy::TABLE, kube_proxy::TABLE);
    if layout.run.exists() || layout.data.exists() {
        kube_proxy::nft::apply::Tables::new(&table, &[]).delete().await?;
    }
    remove(&layout.run)?;
    if !arguments.keep_data {
        remove(&layout.data)?;
    }
    Ok(())
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
