//! What the stores and the cache before them promise, one module for each kind of promise.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod backup;
mod cache;
mod durability;
mod encryption;
mod etcd;
mod laws;
