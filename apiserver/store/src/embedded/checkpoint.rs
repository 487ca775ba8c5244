//! Rewrites the data file without what was replaced, while commits go on.
//!
//! A thread writes the values of one moment to a new file, then copies the frames that came meanwhile. When little is
//! left it hands over to the writer, which copies the rest between two batches and renames the file into place.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    files::{self, Paths, io_error},
    format,
};
use crate::{Result, Revision, state::Values};

/// Payload bytes of a frame of a checkpoint.
const FRAME: usize = 1 << 20;

/// Bytes of new frames that the writer may be left to copy; a millisecond or so.
const REST: u64 = 256 << 10;

/// Where a checkpoint starts from.
pub(super) struct Start {
    pub(super) paths: Paths,
    pub(super) salt: u64,
    pub(super) values: Values,
    pub(super) revision: Revision,
    /// The file that is in use; frames from `position` on are newer than `values`.
    pub(super) old: Arc<File>,
    pub(super) position: u64,
    /// The end of what is durable in `old`; grows meanwhile.
    pub(super) durable: Arc<AtomicU64>,
}

/// A checkpoint that lacks only the newest frames.
pub(super) struct Ready {
    pub(super) file: File,
    /// Its length.
    pub(super) length: u64,
    /// How much of the old file it contains.
    pub(super) copied: u64,
}

/// Writes a whole state into a file that holds its header; answers the file's length.
pub(super) fn write_all(
    file: &File,
    salt: u64,
    values: &Values,
    revision: Revision,
    finished: bool,
) -> io::Result<u64> {
    let mut length = format::HEADER as u64;
    let mut append = |frame: &[u8]| -> io::Result<()> {
        file.write_all_at(frame, length)?;
        length += frame.len() as u64;
        Ok(())
    };
    let mut frame = format::Writer::new(salt);
    frame.begin();
    frame.reached(revision);
    for (key, versioned) in values {
        frame.put(key, versioned);
        if frame.len() >= FRAME {
            append(frame.end())?;
            frame.begin();
        }
    }
    if finished {
        frame.finished(revision);
    }
    append(frame.end())?;
    Ok(length)
}

/// Writes the checkpoint up to the last few frames.
pub(super) fn write(start: &Start) -> Result<Ready> {
    let path = &start.paths.next;
    let file = files::create(path, start.salt)?;
    let length = write_all(&file, start.salt, &start.values, start.revision, false)
        .map_err(io_error("write", path))?;
    let mut ready = Ready { file, length, copied: start.position };
    loop {
        ready.file.sync_data().map_err(io_error("sync", path))?;
        let durable = start.durable.load(Ordering::Acquire);
        if durable - ready.copied <= REST {
            return Ok(ready);
        }
        ready.copy(&start.old, durable).map_err(io_error("copy the newest writes to", path))?;
    }
}

impl Ready {
    /// Appends the old file's frames up to `end`.
    pub(super) fn copy(&mut self, old: &File, end: u64) -> io::Result<()> {
        let mut buffer = vec![0; (end - self.copied).min(FRAME as u64) as usize];
        while self.copied < end {
            let n = (end - self.copied).min(buffer.len() as u64) as usize;
            old.read_exact_at(&mut buffer[..n], self.copied)?;
            self.file.write_all_at(&buffer[..n], self.length)?;
            self.copied += n as u64;
            self.length += n as u64;
        }
        Ok(())
    }
}
