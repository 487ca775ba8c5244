//! The bytes of the data file. Pure: no I/O.
//!
//! ```text
//! header  magic[8] version:u32 zero:u32 salt:u64 crc:u32 zero:u32
//! frame*  marker[4] length:u32 crc:u32 payload[length]
//! payload record*
//! record  kind:u8 revision:u64 key_length:u32 value_length:u32 key value
//! ```
//!
//! Integers are little endian. A frame is what one `fdatasync` made durable, and the next one is written only after
//! that; so an unreadable frame with a readable one after it is damage, and an unreadable last one is a write that a
//! crash cut short and nobody was told of. The checksum starts from the file's random salt, so that no value can
//! look like a frame.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    Event, Revision,
    state::{Values, Versioned},
};

const MAGIC: &[u8; 8] = b"IMPROVKV";
const VERSION: u32 = 1;
const MARKER: &[u8; 4] = b"\xf6FR\n";
pub(super) const HEADER: usize = 32;
const FRAME_HEADER: usize = 12;
const RECORD_HEADER: usize = 17;

const PUT: u8 = 1;
const DELETE: u8 = 2;
/// No key: the revision that a checkpoint was taken at, which may be a deletion's.
const REACHED: u8 = 3;
/// No key: nothing comes after this. Only in backups, whose file is as long as it will ever be.
const END: u8 = 4;

/// Bytes of a record.
pub(super) fn record_len(key: &str, value: &[u8]) -> u64 {
    (RECORD_HEADER + key.len() + value.len()) as u64
}

pub(super) fn header(salt: u64) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32fast::hash(&out[..24]);
    out[24..28].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Builds frames in one buffer.
pub(super) struct Writer {
    salt: u64,
    out: Vec<u8>,
    frame: usize,
}

impl Writer {
    pub(super) fn new(salt: u64) -> Self {
        Writer { salt, out: Vec::new(), frame: 0 }
    }

    pub(super) fn begin(&mut self) {
        self.out.clear();
        self.out.extend_from_slice(MARKER);
        self.out.extend_from_slice(&[0; 8]);
        self.frame = FRAME_HEADER;
    }

    pub(super) fn event(&mut self, event: &Event) {
        match &event.value {
            Some(value) => self.record(PUT, event.revision, &event.key, value),
            None => self.record(DELETE, event.revision, &event.key, &[]),
        }
    }

    pub(super) fn put(&mut self, key: &str, versioned: &Versioned) {
        self.record(PUT, versioned.revision, key, &versioned.value);
    }

    pub(super) fn reached(&mut self, revision: Revision) {
        self.record(REACHED, revision, "", &[]);
    }

    pub(super) fn finished(&mut self, revision: Revision) {
        self.record(END, revision, "", &[]);
    }

    fn record(&mut self, kind: u8, revision: Revision, key: &str, value: &[u8]) {
        // Key and value are bounded by `state::MAX_ENTRY`.
        self.out.push(kind);
        self.out.extend_from_slice(&revision.to_le_bytes());
        self.out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(value);
    }

    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// The finished frame.
    pub(super) fn end(&mut self) -> &[u8] {
        let length = ((self.out.len() - self.frame) as u32).to_le_bytes();
        let crc = checksum(self.salt, length, &self.out[self.frame..]);
        self.out[4..8].copy_from_slice(&length);
        self.out[8..12].copy_from_slice(&crc.to_le_bytes());
        &self.out
    }

    /// Gives memory back after an unusually large frame.
    pub(super) fn shrink(&mut self, most: usize) {
        if self.out.capacity() > most {
            self.out = Vec::new();
        }
    }
}

fn checksum(salt: u64, length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}

/// What a data file holds.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) salt: u64,
    pub(super) values: Values,
    pub(super) revision: Revision,
    /// Bytes of the records of `values`.
    pub(super) live: u64,
    /// Where the next frame goes. Less than the file's length if a crash cut the last frame short.
    pub(super) end: u64,
    /// Whether the last record says that it is the last.
    pub(super) finished: bool,
}

/// Where and why a file cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) offset: u64,
    pub(super) what: &'static str,
}

/// Reads a whole data file.
pub(super) fn read(file: &[u8]) -> Result<Contents, Damage> {
    let salt = read_header(file)?;
    let mut contents = Contents {
        salt,
        values: Values::new(),
        revision: 1,
        live: 0,
        end: HEADER as u64,
        finished: false,
    };
    let mut at = HEADER;
    while at < file.len() {
        let Some(payload) = frame_at(file, at, salt) else {
            return torn_or_damaged(file, at, contents);
        };
        contents.apply(payload).map_err(|what| Damage { offset: at as u64, what })?;
        at += FRAME_HEADER + payload.len();
        contents.end = at as u64;
    }
    Ok(contents)
}

fn read_header(file: &[u8]) -> Result<u64, Damage> {
    let damage = |what| Damage { offset: 0, what };
    let header = file.get(..HEADER).ok_or(damage("the header is cut short"))?;
    if header[..8] != *MAGIC {
        return Err(damage("not a data file of Improv"));
    }
    if u32_at(header, 24) != crc32fast::hash(&header[..24]) {
        return Err(damage("the header's checksum does not match"));
    }
    if u32_at(header, 8) != VERSION {
        return Err(damage("written by a newer version"));
    }
    Ok(u64_at(header, 16))
}

/// An unreadable frame is harmless only if no readable one follows.
fn torn_or_damaged(file: &[u8], at: usize, contents: Contents) -> Result<Contents, Damage> {
    let later = memchr::memmem::find_iter(&file[at + 1..], MARKER).map(|i| at + 1 + i);
    for start in later {
        if frame_at(file, start, contents.salt).is_some() {
            return Err(Damage {
                offset: at as u64,
                what: "a checksum does not match, and valid data follows",
            });
        }
    }
    Ok(contents)
}

fn frame_at(file: &[u8], at: usize, salt: u64) -> Option<&[u8]> {
    let header = file.get(at..at + FRAME_HEADER)?;
    if header[..4] != *MARKER {
        return None;
    }
    let start = at + FRAME_HEADER;
    let payload = file.get(start..start.checked_add(u32_at(header, 4) as usize)?)?;
    let length = (payload.len() as u32).to_le_bytes();
    (checksum(salt, length, payload) == u32_at(header, 8)).then_some(payload)
}

impl Contents {
    fn apply(&mut self, mut payload: &[u8]) -> Result<(), &'static str> {
        const SHORT: &str = "a record is longer than its frame";
        while !payload.is_empty() {
            let header = payload.get(..RECORD_HEADER).ok_or(SHORT)?;
            let (kind, revision) = (header[0], u64_at(header, 1));
            let key_end = RECORD_HEADER + u32_at(header, 9) as usize;
            let end = key_end + u32_at(header, 13) as usize;
            let key = payload.get(RECORD_HEADER..key_end).ok_or(SHORT)?;
            let key = std::str::from_utf8(key).map_err(|_| "a key is not UTF-8")?;
            let value = payload.get(key_end..end).ok_or(SHORT)?;
            self.record(kind, revision, key, value)?;
            payload = &payload[end..];
        }
        Ok(())
    }

    fn record(
        &mut self,
        kind: u8,
        revision: Revision,
        key: &str,
        value: &[u8],
    ) -> Result<(), &'static str> {
        let replaced = match kind {
            PUT => {
                self.live += record_len(key, value);
                let versioned = Versioned { value: Bytes::copy_from_slice(value), revision };
                match self.values.get_mut(key) {
                    Some(now) => Some(std::mem::replace(now, versioned)),
                    None => self.values.insert(Arc::from(key), versioned),
                }
            }
            DELETE => self.values.remove(key),
            REACHED | END => None,
            _ => return Err("a record is of an unknown kind"),
        };
        self.live -= replaced.map_or(0, |r| record_len(key, &r.value));
        self.revision = self.revision.max(revision);
        self.finished = kind == END;
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
