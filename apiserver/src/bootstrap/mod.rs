//! Objects that the server makes at its first start.

pub mod plan;
