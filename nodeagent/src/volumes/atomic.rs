//! Writes a set of files so that a reader sees either all of the old or all of the new ones.
//!
//! The files live in a folder of their own, `..data` points to it, and each visible name points through `..data`. Renaming one symbolic link is the whole update.
//!
//! Source: kubernetes.io, "ConfigMaps", "Mounted ConfigMaps are updated automatically".

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::payload::Payload;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Who owns the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Owner of the files, if not root.
    pub user: Option<u32>,
    /// `fsGroup`: the group may read whatever the owner may.
    pub group: Option<u32>,
}

/// Makes `dir` hold exactly `files`. Answers whether anything was written.
///
/// # Errors
/// The file system's. What was there before stays visible then.
pub(super) fn write(dir: &Path, files: &Payload, owner: Owner) -> io::Result<bool> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o755).create(dir)?;
    let current = current(dir);
    if current.as_ref().is_some_and(|c| same(&dir.join(c), files)) {
        link_names(dir, files)?;
        return Ok(false);
    }
    let name = fresh_name();
    let whole = dir.join(&name);
    builder.create(&whole)?;
    for (path, file) in files {
        let target = whole.join(path);
        if let Some(parent) = target.parent() {
            builder.create(parent)?;
        }
        let mode = if owner.group.is_some() { file.mode | 0o440 } else { file.mode };
        let mut options = std::fs::OpenOptions::new();
        let mut out = options.write(true).create_new(true).mode(mode).open(&target)?;
        io::Write::write_all(&mut out, &file.data)?;
        out.set_permissions(std::fs::Permissions::from_mode(mode))?;
        if owner != Owner::default() {
            std::os::unix::fs::chown(&target, owner.user, owner.group)?;
        }
    }
    let next = dir.join(DATA_NEXT);
    remove_if_present(&next)?;
    symlink(&name, &next)?;
    std::fs::rename(&next, dir.join(DATA))?;
    link_names(dir, files)?;
    if let Some(old) = current {
        std::fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

/// The folder that `..data` points to, if it is one that was made here. Whoever may write to the volume could
/// point elsewhere, and what is pointed to is read and deleted (CVE-2017-1002102).
fn current(dir: &Path) -> Option<PathBuf> {
    let target = std::fs::read_link(dir.join(DATA)).ok()?;
    let mut parts = target.components();
    let Some(Component::Normal(name)) = parts.next() else { return None };
    let is_ours = name.to_str().is_some_and(|name| name.starts_with("..") && name != DATA);
    let is_folder = dir.join(name).symlink_metadata().is_ok_and(|found| found.is_dir());
    (is_ours && is_folder && parts.next().is_none()).then_some(target)
}

/// Names that users see: the first part of every path.
fn link_names(dir: &Path, files: &Payload) -> io::Result<()> {
    let names: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &names {
        let visible = dir.join(name);
        if visible.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), visible)?;
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(name.as_ref()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn same(whole: &Path, files: &Payload) -> bool {
    let all = files
        .iter()
        .all(|(path, file)| std::fs::read(whole.join(path)).is_ok_and(|data| data == file.data));
    all && count(whole) == files.len()
}

fn count(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| if e.file_type().is_ok_and(|t| t.is_dir()) { count(&e.path()) } else { 1 })
        .sum()
}

/// A name that was never used in this folder, also after a restart.
fn fresh_name() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let time = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
    format!("..{time:x}.{}", LAST.fetch_add(1, Ordering::Relaxed))
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;

    fn files(list: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File { data: data.into(), mode: 0o640 };
        list.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    #[test]
    fn updates_swap_all_files_at_once() {
        let dir = std::env::temp_dir().join(fresh_name());
        let read = |path: &str| std::fs::read_to_string(dir.join(path)).ok();
        assert!(write(&dir, &files(&[("a", "1"), ("d/x", "2")]), Owner::default()).unwrap());
        assert_eq!((read("a"), read("d/x")), (Some("1".into()), Some("2".into())));
        assert!(!write(&dir, &files(&[("a", "1"), ("d/x", "2")]), Owner::default()).unwrap());
        let held =
            std::fs::canonicalize(&dir).unwrap().join(std::fs::read_link(dir.join(DATA)).unwrap());
        assert!(write(&dir, &files(&[("a", "3"), ("b", "4")]), Owner::default()).unwrap());
        assert_eq!((read("a"), read("b"), read("d/x")), (Some("3".into()), Some("4".into()), None));
        assert!(!held.exists() && dir.join("d").symlink_metadata().is_err());
        let mode = std::fs::metadata(dir.join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn nothing_outside_of_the_volume_is_deleted() {
        let outside = tempfile::tempdir().unwrap();
        let precious = outside.path().join("precious");
        std::fs::write(&precious, "x").unwrap();
        let volume = tempfile::tempdir().unwrap();
        let dir = volume.path();
        let read = |path: &str| std::fs::read_to_string(dir.join(path)).unwrap();
        let climbing = Path::new("../..").join(outside.path().strip_prefix("/").unwrap());
        let trap = dir.join("..trap");
        symlink(outside.path(), &trap).unwrap();
        for (n, target) in [outside.path(), &climbing, Path::new("..trap"), Path::new("..")]
            .into_iter()
            .enumerate()
        {
            write(dir, &files(&[("a", "1")]), Owner::default()).unwrap();
            std::fs::remove_file(dir.join(DATA)).unwrap();
            symlink(target, dir.join(DATA)).unwrap();
            let next = n.to_string();
            assert!(write(dir, &files(&[("a", &next)]), Owner::default()).unwrap());
            assert_eq!(read("a"), next);
            assert!(precious.exists(), "{} was followed", target.display());
        }
    }
}
