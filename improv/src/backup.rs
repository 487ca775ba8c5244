//! `improv backup` and `improv restore`: all objects of a cluster in one file, and back.
//!
//! Certificates and keys are not in it; they stand as files in the data folder's `pki`.

use anyhow::Context;

use crate::arguments::{Backup, Restore};
use crate::layout::Layout;

/// Writes a backup; the cluster may run meanwhile.
///
/// # Errors
/// There is no readable store, or the file cannot be written.
pub(crate) fn backup(arguments: &Backup) -> anyhow::Result<()> {
    let store = Layout::new(&arguments.which.data_dir).store();
    let summary = store::backup(&store, &arguments.output)
        .with_context(|| format!("cannot back up {}", store.display()))?;
    println!(
        "{} objects at revision {} in {} ({} bytes)",
        summary.entries,
        summary.revision,
        arguments.output.display(),
        summary.bytes
    );
    Ok(())
}

/// Makes the store of a cluster that has none.
///
/// # Errors
/// The backup is not whole, or there is a store already.
pub(crate) fn restore(arguments: &Restore) -> anyhow::Result<()> {
    let store = Layout::new(&arguments.which.data_dir).store();
    let summary = store::restore(&arguments.file, &store)
        .with_context(|| format!("cannot restore {}", arguments.file.display()))?;
    println!(
        "{} objects in {}, which goes on at revision {}",
        summary.entries,
        store.display(),
        summary.revision
    );
    Ok(())
}
