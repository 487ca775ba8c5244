//! The one road for every write: decode, default, admit, validate, store.

pub mod names;
