//! Images without Docker: build one from files, import one into the cluster's containerd.

pub(crate) mod build;

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::arguments::{ImageBuild, ImageImport};
use crate::image::build::ImageSpec;
use crate::layout::Layout;
use crate::node;

/// Builds an image as the command line says.
///
/// # Errors
/// If a file is missing or the archive cannot be written.
pub(crate) fn run_build(arguments: &ImageBuild) -> anyhow::Result<()> {
    let program = arguments.binary.file_name().context("--binary names no file")?;
    let program = Path::new("/usr/local/bin").join(program);
    let mut spec = ImageSpec {
        name: arguments.name.clone(),
        entrypoint: vec![program.display().to_string()],
        user: Some(arguments.user.clone()),
        ..ImageSpec::default()
    };
    spec.entrypoint.extend(arguments.arguments.iter().cloned());
    spec.files.insert(program, arguments.binary.clone());
    for file in &arguments.files {
        let (from, to) =
            file.rsplit_once(':').with_context(|| format!("--file {file}: needs FROM:TO"))?;
        spec.files.insert(PathBuf::from(to), PathBuf::from(from));
    }
    let digest = build::build(&spec, &arguments.output)?;
    println!("{} {digest} in {}", spec.name, arguments.output.display());
    Ok(())
}

/// Imports archives into the containerd of a running cluster.
///
/// # Errors
/// If the cluster does not run, or an archive is no image.
pub(crate) async fn run_import(arguments: &ImageImport) -> anyhow::Result<()> {
    let layout = Layout::new(&arguments.which.data_dir);
    for archive in &arguments.archives {
        let names = node::import(&layout, archive).await;
        let names = names.with_context(|| format!("cannot import {}", archive.display()))?;
        names.iter().for_each(|name| println!("{name}"));
    }
    Ok(())
}
