//! The passwd and group files of an image, read from a view of its snapshot.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use containerd_client::services::v1::snapshots::{RemoveSnapshotRequest, ViewSnapshotRequest};
use containerd_client::types::Mount;
use tonic::Status;

use super::super::client::{Client, SNAPSHOTTER};
use super::super::users::UserDb;

/// Largest passwd or group file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// How many symbolic links are followed on the way to a file.
const MAX_LINKS: u32 = 8;

pub(super) async fn read(client: &Client, chain: &str) -> Result<UserDb, Status> {
    if chain.is_empty() {
        return Ok(UserDb::default());
    }
    let key = format!("users-{}", uuid::Uuid::new_v4().simple());
    let view = ViewSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.clone(),
        parent: chain.to_owned(),
        ..Default::default()
    };
    let mounts = client.snapshots().view(client.request(view)).await?.into_inner().mounts;
    let folders = layers(&mounts);
    let users = UserDb { passwd: find(&folders, "etc/passwd"), group: find(&folders, "etc/group") };
    let remove = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key };
    client.snapshots().remove(client.request(remove)).await?;
    Ok(users)
}

/// The folders of the layers, top first.
fn layers(mounts: &[Mount]) -> Vec<PathBuf> {
    let Some(mount) = mounts.first() else { return Vec::new() };
    if mount.r#type == "bind" {
        return vec![PathBuf::from(&mount.source)];
    }
    let lower = mount.options.iter().find_map(|option| option.strip_prefix("lowerdir="));
    lower
        .unwrap_or_default()
        .split(':')
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
        .collect()
}

/// The text of a file in the merged tree; empty if it is not there.
///
/// Symbolic links are followed within the tree: an image must not lead the agent to files of the node.
fn find(layers: &[PathBuf], path: &str) -> String {
    let mut path = PathBuf::from(path);
    for _ in 0..MAX_LINKS {
        match look(layers, &path) {
            Look::File(file) => return fs::read_to_string(file).unwrap_or_default(),
            Look::Link(at, target) => match inside(&path, &at, &target) {
                Some(next) => path = next,
                None => return String::new(),
            },
            Look::Nothing => return String::new(),
        }
    }
    String::new()
}

enum Look {
    File(PathBuf),
    /// A part of the path is a link: the part, and where it leads.
    Link(PathBuf, PathBuf),
    Nothing,
}

/// Looks for a path part by part; the topmost layer that knows a part decides what it is.
fn look(layers: &[PathBuf], path: &Path) -> Look {
    let mut at = PathBuf::new();
    let mut layers: Vec<&PathBuf> = layers.iter().collect();
    let n_parts = path.components().count();
    for (n, part) in path.components().enumerate() {
        at.push(part);
        let mut holders = Vec::new();
        for layer in layers {
            let Ok(metadata) = fs::symlink_metadata(layer.join(&at)) else { continue };
            let kind = metadata.file_type();
            if kind.is_char_device() && metadata.rdev() == 0 {
                break; // A whiteout: what lies below is gone.
            }
            if kind.is_symlink() && holders.is_empty() {
                return fs::read_link(layer.join(&at))
                    .map_or(Look::Nothing, |target| Look::Link(at, target));
            }
            if n + 1 == n_parts && holders.is_empty() {
                return match kind.is_file() && metadata.len() <= MAX_FILE {
                    true => Look::File(layer.join(&at)),
                    false => Look::Nothing,
                };
            }
            if !kind.is_dir() {
                break;
            }
            holders.push(layer);
        }
        layers = holders;
    }
    Look::Nothing
}

/// Where `path` leads when its beginning `at` is a link to `target`; never out of the tree.
fn inside(path: &Path, at: &Path, target: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(at).ok()?;
    let mut result = if target.is_absolute() { PathBuf::new() } else { at.parent()?.to_owned() };
    for part in target.components().chain(rest.components()) {
        match part {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => drop(result.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => (),
        }
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match text.strip_prefix("-> ") {
                Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
                None => fs::write(path, text).unwrap(),
            }
        }
        folder
    }

    fn check(layers: &[&tempfile::TempDir], expected: &str) {
        let folders: Vec<PathBuf> = layers.iter().map(|layer| layer.path().to_owned()).collect();
        assert_eq!(find(&folders, "etc/passwd"), expected);
    }

    #[test]
    fn upper_layers_win() {
        let (upper, lower) = (layer(&[("etc/passwd", "upper")]), layer(&[("etc/passwd", "lower")]));
        check(&[&upper, &lower], "upper");
        check(&[&layer(&[("etc/other", "")]), &lower], "lower");
        check(&[&layer(&[])], "");
    }

    #[test]
    fn links_stay_inside() {
        let own = layer(&[("etc/passwd", "-> ../usr/passwd"), ("usr/passwd", "linked")]);
        check(&[&own], "linked");
        check(
            &[&layer(&[("etc/passwd", "-> /../../../../usr/passwd"), ("usr/passwd", "linked")])],
            "linked",
        );
        check(&[&layer(&[("etc", "-> usr/etc"), ("usr/etc/passwd", "folder")])], "folder");
        check(&[&layer(&[("etc/passwd", "-> /etc/group")])], ""); // The node has one.
        check(&[&layer(&[("etc/passwd", "-> passwd")])], "");
    }

    #[test]
    fn mounts_name_their_layers() {
        let overlay = Mount {
            r#type: "overlay".into(),
            options: vec!["ro".into(), "lowerdir=/b:/a".into()],
            ..Default::default()
        };
        assert_eq!(layers(&[overlay]), [PathBuf::from("/b"), PathBuf::from("/a")]);
        let bind = Mount { r#type: "bind".into(), source: "/one".into(), ..Default::default() };
        assert_eq!(layers(&[bind]), [PathBuf::from("/one")]);
    }
}
