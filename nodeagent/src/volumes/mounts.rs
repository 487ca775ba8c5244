//! Mounts below the agent's own folders.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};

/// Mount points at or below `folder`, innermost first.
fn mounts_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut found: Vec<_> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(folder))
        .collect();
    found.reverse();
    Ok(found)
}

/// mountinfo writes blanks and the like as octal numbers.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Takes every mount at or below `folder` away.
///
/// # Errors
/// One of them stays.
pub(super) fn unmount_below(folder: &Path) -> io::Result<()> {
    // A path with symbolic links in it is not what the kernel lists.
    let Ok(folder) = std::fs::canonicalize(folder) else { return Ok(()) };
    for point in mounts_below(&folder)? {
        nix::mount::umount2(&point, MntFlags::MNT_DETACH)?;
    }
    match mounts_below(&folder)?.first() {
        None => Ok(()),
        Some(point) => Err(io::Error::other(format!("{} is still mounted", point.display()))),
    }
}

/// Whether something is mounted right there.
pub(super) fn is_mounted(path: &Path) -> io::Result<bool> {
    let path = std::fs::canonicalize(path)?;
    Ok(mounts_below(&path)?.contains(&path))
}

/// Mounts memory; `size` in bytes, else half of the machine's.
pub(super) fn tmpfs(path: &Path, size: Option<u64>) -> io::Result<()> {
    let options = size.map(|bytes| format!("size={bytes}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), flags, options.as_deref())?;
    Ok(())
}

/// Binds an opened file or folder to `target`, whatever its path may have become.
pub(super) fn bind_opened(opened: &std::os::fd::OwnedFd, target: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let source = format!("/proc/self/fd/{}", opened.as_raw_fd());
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    nix::mount::mount(Some(source.as_str()), target, None::<&str>, flags, None::<&str>)?;
    Ok(())
}
