//! subPath mounts. The volume's content belongs to the pod, so every step through it may be a trap: a symbolic link that leads out of the volume, or a folder that is swapped for one meanwhile.
//!
//! The path is opened beneath the volume by the kernel itself (`openat2`), and what was opened is what gets mounted.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use super::mounts;

/// Opens `sub` beneath `volume`; missing folders are made.
///
/// # Errors
/// The path leads out of the volume, or cannot be opened.
fn open_beneath(volume: &Path, sub: &str) -> io::Result<OwnedFd> {
    let bad = sub.starts_with('/') || sub.split('/').any(|part| part == "..");
    if bad {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "subPath must stay in the volume"));
    }
    let folder = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let mut at: OwnedFd = nix::fcntl::open(volume, folder | OFlag::O_DIRECTORY, Mode::empty())?;
    // Links may be followed as long as they stay inside, so that `..data` of a config map works.
    let how = OpenHow::new()
        .flags(folder)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(&at, sub, how) {
        Ok(opened) => return Ok(opened),
        Err(nix::errno::Errno::ENOENT) => (),
        Err(e) => return Err(e.into()),
    }
    // Folders that are made here are open to whoever the volume is open to.
    let mode = Mode::from_bits_truncate(nix::sys::stat::fstat(&at)?.st_mode & 0o7777);
    let one = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    for part in sub.split('/').filter(|p| !p.is_empty() && *p != ".") {
        let made = match nix::sys::stat::mkdirat(&at, part, mode) {
            Ok(()) => true,
            Err(nix::errno::Errno::EEXIST) => false,
            Err(e) => return Err(e.into()),
        };
        at = openat2(&at, part, one)?;
        if made {
            // By the descriptor: the name may lead elsewhere by now.
            nix::sys::stat::fchmod(&at, mode)?;
        }
    }
    Ok(at)
}

/// Pins `sub` of a volume at `target` and answers the path to mount.
///
/// Without `privileged` (no right to mount) the path in the volume itself is answered, after the same check.
///
/// # Errors
/// As the kernel says.
pub fn pin(volume: &Path, sub: &str, target: &Path, privileged: bool) -> io::Result<PathBuf> {
    let opened = open_beneath(volume, sub)?;
    if !privileged {
        return Ok(volume.join(sub));
    }
    let is_dir = nix::sys::stat::fstat(&opened)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    mounts::unmount_below(target)?;
    if is_dir {
        std::fs::create_dir_all(target)?;
    } else if !target.exists() {
        std::fs::File::create(target)?;
    }
    mounts::bind_opened(&opened, target)?;
    Ok(target.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn nothing_leads_out_of_the_volume() {
        let volume = std::env::temp_dir().join(format!("improv-subpath-{}", std::process::id()));
        std::fs::create_dir_all(volume.join("inside")).unwrap();
        std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o2777)).unwrap();
        symlink("/etc", volume.join("out")).unwrap();
        symlink("inside", volume.join("in")).unwrap();
        let check = |sub: &str, fine: bool| {
            assert_eq!(open_beneath(&volume, sub).is_ok(), fine, "{sub}");
        };
        check("inside", true);
        check("in", true);
        check("new/deep", true);
        check("out", false);
        check("out/passwd", false);
        check("../x", false);
        check("/etc", false);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&volume.join("new/deep")), mode(&volume));
        std::fs::remove_dir_all(&volume).unwrap();
    }
}
