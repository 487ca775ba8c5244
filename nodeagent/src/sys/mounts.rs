//! Mounts of the node: making, listing and taking them away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// Mount points at or below `root`, deepest first.
pub(crate) fn below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut points: Vec<PathBuf> = parse(&fs::read_to_string("/proc/self/mountinfo")?);
    points.retain(|point| point.starts_with(root));
    points.reverse();
    Ok(points)
}

/// Detaches the mount at `point`; nothing mounted there is a success.
pub(crate) fn detach(point: &Path) -> io::Result<()> {
    loop {
        match umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => (),
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Detaches everything at or below `root`, then removes the folder.
pub(crate) fn remove_tree(root: &Path) -> io::Result<()> {
    for point in below(root)? {
        detach(&point)?;
    }
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The mount points in the text of a mountinfo file, in its order.
fn parse(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .collect()
}

/// Spaces, tabs, newlines and backslashes are written as `\` and three octal digits.
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                text.push(byte as char);
                rest = &rest[at + 4..];
            }
            None => {
                text.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let text = "36 35 98:0 / / rw - ext4 /dev/vda rw\n\
                    37 36 0:5 / /a\\040b rw,relatime shared:1 - tmpfs tmpfs rw\n";
        assert_eq!(parse(text), [PathBuf::from("/"), PathBuf::from("/a b")]);
        assert_eq!(unescape("a\\134b\\"), "a\\b\\");
    }
}
