//! The few things that need system calls without a safe wrapper, and the threads that change namespaces.
//!
//! **Invariant:** `unsafe` is written in this folder only.

pub(crate) mod mounts;
pub(crate) mod namespaces;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::sys::signal::{SigHandler, Signal, signal};

/// Takes over a descriptor that this process inherited under a fixed number.
///
/// Only for the start of a program that was handed the descriptor by its parent, before anything else runs.
#[expect(unsafe_code, reason = "inherited descriptors are plain numbers")]
pub(crate) fn claim_inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: the callers are the entry points of subcommands that the shim starts with these descriptors open;
    // nothing else in the process has taken them, since nothing else has run yet.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Closes all descriptors from `first` on.
///
/// Only for the start of a program, when the higher descriptors are leaks of the parent.
#[expect(unsafe_code, reason = "close_range has no safe wrapper")]
pub(crate) fn close_from(first: RawFd) {
    // SAFETY: nothing in this process owns a descriptor at or above `first` yet (see the callers).
    unsafe {
        libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, 0);
    }
}

/// Ignores a signal from now on.
#[expect(unsafe_code, reason = "changing a signal's disposition is unsafe by its type")]
pub(crate) fn ignore(which: Signal) -> io::Result<()> {
    // SAFETY: SigIgn runs no code of ours.
    unsafe { signal(which, SigHandler::SigIgn) }?;
    Ok(())
}
