//! What is generated and committed: crds/ and charts/. `--check` tells what is out of date instead of writing.

mod charts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use kit::chart::to_yaml;

/// Generated files: path below the repository's root → content.
pub(crate) type Files = BTreeMap<PathBuf, String>;

/// Writes all generated files below `root`, or with `check` only compares them.
///
/// # Errors
/// With `check`, if a file is missing, stale or left over; else if one cannot be written.
pub(crate) fn generate(root: &Path, check: bool) -> anyhow::Result<()> {
    let files = files()?;
    let wrong = differences(root, &files)?;
    if wrong.is_empty() {
        println!("{} generated files are up to date", files.len());
        return Ok(());
    }
    if check {
        let list: Vec<String> = wrong.iter().map(|path| path.display().to_string()).collect();
        bail!("run `improv generate` and commit: {} out of date", list.join(", "));
    }
    for path in &wrong {
        let full = root.join(path);
        match files.get(path) {
            None => std::fs::remove_file(&full)
                .with_context(|| format!("cannot remove {}", full.display()))?,
            Some(content) => {
                std::fs::create_dir_all(full.parent().unwrap_or(root))?;
                std::fs::write(&full, content)
                    .with_context(|| format!("cannot write {}", full.display()))?;
            }
        }
        println!("{}", path.display());
    }
    Ok(())
}

/// Every CRD that a cluster has from the start, as YAML: upstream's types and Improv's own.
///
/// # Errors
/// If one cannot be written as YAML.
pub(crate) fn crds() -> anyhow::Result<Vec<(String, String)>> {
    let mut all = schema::crdgen::crds();
    all.push(("components.improv.dev.yaml".into(), to_yaml(&kit::component::crd())?));
    Ok(all)
}

/// The same as the server takes them: in JSON, which a starting server reads in a tenth of the time.
pub(crate) fn definitions() -> anyhow::Result<Vec<String>> {
    let mut all: Vec<String> =
        schema::crdgen::definitions().iter().map(ToString::to_string).collect();
    all.push(serde_json::to_string(&kit::component::crd())?);
    Ok(all)
}

fn files() -> anyhow::Result<Files> {
    let crds = crds()?;
    let mut files: Files =
        crds.iter().map(|(name, yaml)| (Path::new("crds").join(name), yaml.clone())).collect();
    files.extend(charts::files(&crds)?);
    Ok(files)
}

/// Paths whose content differs, and generated-looking files that nobody generates any more.
fn differences(root: &Path, files: &Files) -> anyhow::Result<Vec<PathBuf>> {
    let differs = |(path, content): &(&PathBuf, &String)| {
        std::fs::read_to_string(root.join(path)).ok().as_ref() != Some(content)
    };
    let mut wrong: Vec<PathBuf> =
        files.iter().filter(differs).map(|(path, _)| path.clone()).collect();
    for entry in std::fs::read_dir(root.join("crds")).into_iter().flatten() {
        let path = Path::new("crds").join(entry?.file_name());
        if path.extension().is_some_and(|extension| extension == "yaml")
            && !files.contains_key(&path)
        {
            wrong.push(path);
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_up_to_date() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let wrong = differences(&root, &files().unwrap()).unwrap();
        assert!(wrong.is_empty(), "run `improv generate` and commit: {wrong:?}");
    }
}
